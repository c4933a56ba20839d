//! Boots the guest kernel with our init for a test, and speaks the protocol to it.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "no test binary uses all of it")]

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rkvm_guest_protocol::host::{Connection, Ended, Relay, Streams};
use rkvm_guest_protocol::{GuestSetup, INIT_PORT, Root, SERVICE_PORT, ToGuest, ToHost, WriteLayer};
use rkvm_oci::ExitStatus;
use rkvm_oci::failure::Failure;
use rkvm_vmm::virtio::{block::Block, rng::Rng, vsock::Vsock};
use rkvm_vmm::{Access, End, Host, Image, Microvm, Processors, VmConfig, build};
use serde_json::{Value, json};

pub const LIMIT: Duration = Duration::from_secs(30);

/// A booted guest that waits for its set-up.
pub struct Guest {
    pub machine: Microvm,
    pub main: Connection,
    pub folder: tempfile::TempDir,
}

/// What a run gave back.
pub struct Run {
    pub status: Result<ExitStatus, Failure>,
    pub stdout: String,
    pub stderr: String,
    pub end: End,
}

/// The folder of kernel and initramfs beside the binaries of this build.
fn artifacts() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("guest")
}

/// An erofs image with a static busybox and what a root filesystem has.
fn image() -> PathBuf {
    static IMAGE: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    IMAGE
        .get_or_init(|| {
            let work = tempfile::tempdir().unwrap();
            let root = work.path().join("root");
            for folder in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "home/user"] {
                std::fs::create_dir_all(root.join(folder)).unwrap();
            }
            std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
            let list = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap();
            for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|name| *name != "busybox") {
                std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
            }
            std::fs::write(
                root.join("etc/passwd"),
                "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
            )
            .unwrap();
            std::fs::write(root.join("etc/not-a-program"), "text").unwrap();
            let image = artifacts().join("test.erofs");
            let new = artifacts().join(format!("test-{}.erofs", std::process::id()));
            let made = std::process::Command::new("mkfs.erofs")
                .args(["-T0", "--all-root"])
                .arg(&new)
                .arg(&root)
                .output()
                .unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            std::fs::rename(&new, &image).unwrap();
            image
        })
        .clone()
}

impl Guest {
    /// Boots; `None`, with a word on stderr, where guests cannot run.
    pub fn boot() -> Option<Self> {
        Self::boot_with(1)
    }

    pub fn boot_with(vcpus: u8) -> Option<Self> {
        Self::boot_changed(|config| config.vcpus = vcpus)
    }

    /// Boots with changes to the usual machine.
    pub fn boot_changed(change: impl FnOnce(&mut VmConfig)) -> Option<Self> {
        let mut guest = Self::begin(change)?;
        guest.main.greet(LIMIT).unwrap();
        Some(guest)
    }

    /// As [`Guest::boot_changed`], without waiting for the guest.
    pub fn begin(change: impl FnOnce(&mut VmConfig)) -> Option<Self> {
        let host = match Host::open() {
            Ok(host) => host,
            Err(error) => {
                eprintln!("skipped: {error}");
                return None;
            }
        };
        let kernel = ["vmlinux-pvm", "vmlinux-plain"].map(|name| artifacts().join(name));
        let kernel = kernel.into_iter().find(|path| path.exists()).expect("no guest kernel: run ./x guest");
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut config = VmConfig::new(Image::open(&kernel).unwrap());
        config.initrd = Some(Image::open(&artifacts().join("initramfs.cpio")).unwrap());
        config.processors = Processors::ByInit;
        config.memory_mib = 128;
        config.attach(Rng::new().unwrap());
        config.attach(Block::open(&image(), Access::ReadOnly, "image").unwrap());
        let vsock = Vsock::bind(&folder.path().join("vsock.sock")).unwrap();
        config.attach(vsock.offer(INIT_PORT, theirs));
        change(&mut config);
        let machine = build(&host, config).unwrap();
        machine.start().unwrap();
        let main = Connection::new(ours).unwrap();
        Some(Self { machine, main, folder })
    }

    /// Sets up and starts `spec`, relays until its end, waits for the power-off.
    pub fn run(self, spec: Value) -> Run {
        self.run_with(setup(spec), b"")
    }

    /// As [`Guest::run`], with the whole set-up and standard input.
    pub fn run_with(mut self, setup: GuestSetup, input: &[u8]) -> Run {
        match self.main.call(&ToGuest::Setup(Box::new(setup)), LIMIT) {
            Ok(ToHost::Ready) => {}
            Ok(other) => panic!("{other:?}"),
            Err(rkvm_guest_protocol::host::Error::Failed(failure)) => {
                let end = self.machine.wait(Some(LIMIT));
                return Run { status: Err(failure), stdout: String::new(), stderr: String::new(), end };
            }
            Err(error) => panic!("{error}; console: {}", self.machine.console_tail(20)),
        }
        let Self { machine, mut main, folder: _folder } = self;
        main.send(&ToGuest::Start);
        let (status, stdout, stderr) = relay(main, input);
        let end = machine.wait(Some(LIMIT));
        Run { status, stdout, stderr, end }
    }

    /// Starts `spec` and leaves it running; its relay ends with the machine.
    pub fn start(mut self, spec: Value) -> Running {
        self.main.call(&ToGuest::Setup(Box::new(setup(spec))), LIMIT).unwrap();
        let started = self.main.call(&ToGuest::Start, LIMIT).unwrap();
        assert!(matches!(started, ToHost::Started { .. }), "{started:?}");
        Running { machine: self.machine, main: self.main, folder: self.folder }
    }
}

/// A guest whose process runs.
pub struct Running {
    pub machine: Microvm,
    pub main: Connection,
    pub folder: tempfile::TempDir,
}

impl Running {
    /// Path of the host's side of the guest's sockets.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("vsock.sock")
    }

    /// A stream on which `process` has been asked for.
    pub fn exec(&self, process: Value) -> Connection {
        let mut connection = Connection::open(&self.socket(), SERVICE_PORT, LIMIT).unwrap();
        let process = serde_json::from_value(process).unwrap();
        connection.send(&ToGuest::Exec(Box::new(process)));
        connection
    }

    /// Runs a shell script beside the process.
    pub fn exec_shell(&self, script: &str, input: &[u8]) -> (Result<ExitStatus, Failure>, String, String) {
        relay(self.exec(shell(script)["process"].clone()), input)
    }

    /// Ends the process by SIGKILL and waits for the power-off.
    pub fn end(mut self) -> (ToHost, End) {
        let kill = ToGuest::Signal(rkvm_oci::Signal::KILL, rkvm_oci::KillScope::Init);
        self.main.send(&kill);
        let last = loop {
            match self.main.wait(LIMIT).unwrap() {
                ToHost::Stdout(_) | ToHost::Stderr(_) | ToHost::StdinClosed => {}
                other => break other,
            }
        };
        drop(self.main);
        (last, self.machine.wait(Some(LIMIT)))
    }
}

/// Relays with `input` as standard input; status and both outputs.
pub fn relay(connection: Connection, input: &[u8]) -> (Result<ExitStatus, Failure>, String, String) {
    let (stdin, mut to_stdin) = UnixStream::pair().unwrap();
    let (mut stdout, theirs_out) = UnixStream::pair().unwrap();
    let (mut stderr, theirs_err) = UnixStream::pair().unwrap();
    let input = input.to_vec();
    let streams =
        Streams::Files { stdin: stdin.into(), stdout: theirs_out.into(), stderr: theirs_err.into() };
    let relay = Relay::new(connection, streams).unwrap();
    let feeder = std::thread::spawn(move || {
        let _ = std::io::Write::write_all(&mut to_stdin, &input);
    });
    let running = std::thread::spawn(move || relay.run());
    let mut read_err = String::new();
    let errors = std::thread::spawn(move || {
        stderr.read_to_string(&mut read_err).unwrap();
        read_err
    });
    let mut out = String::new();
    stdout.read_to_string(&mut out).unwrap();
    let ended = running.join().unwrap().unwrap();
    feeder.join().unwrap();
    let status = match ended {
        Ended::Process(status) => Ok(status),
        Ended::Failed(failure) => Err(failure),
    };
    (status, out, errors.join().unwrap())
}

/// A set-up for `spec` over the test image, with a write layer in memory.
pub fn setup(spec: Value) -> GuestSetup {
    GuestSetup {
        id: "test".to_owned(),
        spec: serde_json::from_value(spec).unwrap(),
        root: Root::Layers { image: "/dev/vda".to_owned(), write: WriteLayer::Memory },
        share: None,
        links: vec![],
        seccomp: None,
        disks: vec![],
        own: None,
    }
}

/// A configuration that runs a shell script.
pub fn shell(script: &str) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "hostname": "guest",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/"
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}
            ]
        }
    })
}
