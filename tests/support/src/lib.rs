//! Test support: everything a test needs to drive the real binaries and to prove that nothing is left behind.
//!
//! ```no_run
//! let sandbox = rkvm_testing::Sandbox::new();
//! sandbox.load_busybox();
//! let output = sandbox.rkvm(["run", "--rm", "busybox", "echo", "hello"]).ok();
//! assert_eq!(output.stdout(), "hello\n");
//! // Dropping the sandbox checks that no process, mount, link, cgroup, rule or file is left.
//! ```

// Test code: a failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bundle;
mod command;
mod console;
mod image;
mod isolation;
mod leaks;
mod processes;
pub mod reap;
mod sandbox;
mod sys;
pub mod wait;

pub use bundle::{Bundle, NAMESPACES, busybox_rootfs};
pub use command::{Cmd, Output, Running, binary, have};
pub use console::{Console, ConsoleSocket};
pub use image::{Entry, busybox_archive, docker_archive, layer};
pub use isolation::{Isolation, has_vms};
pub use leaks::Leaks;
pub use processes::{arguments, children, processes};
pub use sandbox::Sandbox;

use std::net::{TcpListener, UdpSocket};

/// A TCP and UDP port that nothing on this host uses now.
pub fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("0.0.0.0:0").expect("bind a tcp port");
        let port = tcp.local_addr().expect("local address").port();
        if UdpSocket::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}
