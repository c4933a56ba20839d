//! The small init of `--init`: pid 1 that starts the program, hands signals on, and reaps what others leave behind.

use std::io::{self, Write as _};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::sys;

/// Runs `args` and returns its exit code, 128 plus the number of a signal, 127 when it does not exist, 126 when it
/// cannot be executed.
pub fn run(args: &[String]) -> u8 {
    let args = args.strip_prefix(&["--".to_owned()][..]).unwrap_or(args);
    let Some((program, rest)) = args.split_first() else {
        let _ = writeln!(io::stderr(), "rkvm-init: no program to run");
        return 125;
    };
    let signals = SigSet::all();
    if let Err(errno) = signals.thread_block() {
        let _ = writeln!(io::stderr(), "rkvm-init: cannot block signals: {errno}");
        return 125;
    }
    let mut command = Command::new(program);
    command.args(rest);
    sys::in_foreground_group(&mut command);
    let child = match command.spawn() {
        Ok(child) => Pid::from_raw(child.id() as i32),
        Err(error) => {
            let _ = writeln!(io::stderr(), "rkvm-init: cannot execute {program}: {error}");
            return if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
        }
    };
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = reap(child) {
                    return code;
                }
            }
            Ok(signal) => {
                // Gone already: its SIGCHLD is on the way.
                let _ = kill(child, signal);
            }
            Err(_) => {}
        }
    }
}

/// Reaps every process that has ended; the exit code once `child` is among them.
fn reap(child: Pid) -> Option<u8> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => code = Some(status as u8),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                code = Some(128 + signal as i32 as u8)
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return code,
            Ok(_) | Err(_) => {}
        }
    }
}

/// Whether this process was started as [`rkvm_engine::spec::INIT_PATH`].
pub fn is_asked_for(name: Option<&str>) -> bool {
    name == Some(rkvm_engine::spec::INIT_PATH)
}
