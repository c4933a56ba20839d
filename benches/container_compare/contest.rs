//! Contestants, and the race between them.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use rkvm_testing::{Bundle, Sandbox, binary, reap};
use serde_json::json;

use crate::stats::{Random, Samples};

/// One way to run `true` in a container.
pub trait Contestant {
    /// Name in tables.
    fn name(&self) -> String;

    /// Runs once; the times of its parts, whose sum is the whole.
    fn run(&mut self) -> Vec<(&'static str, u64)>;
}

/// Runs `warmup` untimed and `runs` timed rounds, every contestant once a round, in an order that changes every round.
pub fn race(
    contestants: &mut [Box<dyn Contestant>],
    warmup: usize,
    runs: usize,
    random: &mut Random,
) -> Vec<(String, Samples)> {
    let mut samples: Vec<Samples> = contestants.iter().map(|_| Samples::default()).collect();
    let mut order: Vec<usize> = (0..contestants.len()).collect();
    for round in 0..warmup + runs {
        random.shuffle(&mut order);
        for &index in &order {
            let parts = contestants[index].run();
            if round >= warmup {
                samples[index].add(parts);
            }
        }
    }
    contestants.iter().map(|one| one.name()).zip(samples).collect()
}

/// Machine code of `exit(0)` in the smallest ELF file that Linux runs: no loader, no libc, so that nothing but the
/// container is measured.
pub fn static_true() -> Vec<u8> {
    // xor edi, edi; mov eax, 60 (exit); syscall
    elf(&[0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05])
}

/// The same of `pause()`, for ever.
pub fn static_pause() -> Vec<u8> {
    // again: mov eax, 34 (pause); syscall; jmp again
    elf(&[0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7])
}

/// An x86-64 executable of one segment (elf(5)).
fn elf(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let size = HEADERS + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    // ET_EXEC, EM_X86_64, version, entry, program headers after this header, no section headers.
    file.extend([2u16, 62].iter().flat_map(|value| value.to_le_bytes()));
    file.extend(1u32.to_le_bytes());
    file.extend([BASE + HEADERS, 64, 0].iter().flat_map(|value| value.to_le_bytes()));
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, 1, 0, 0, 0].iter().flat_map(|value| value.to_le_bytes()));
    // PT_LOAD, readable and executable.
    file.extend([1u32, 5].iter().flat_map(|value| value.to_le_bytes()));
    file.extend([0, BASE, BASE, size, size, 4096].iter().flat_map(|value: &u64| value.to_le_bytes()));
    file.extend(code);
    file
}

/// Whether the container has a user namespace of its own.
#[derive(Debug, Clone, Copy)]
pub enum UserNamespace {
    /// 65536 ids of its own: six namespaces (pid, network, mount, uts, ipc, user).
    New,
    /// The caller's: five namespaces.
    Host,
}

impl UserNamespace {
    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "userns",
            Self::Host => "no-userns",
        }
    }
}

/// The bundle that all runtimes share: limits on cpu, memory and pids, device rules, Docker's mounts and masked paths.
pub fn bundle(sandbox: &Sandbox, user: UserNamespace) -> Bundle {
    let mut bundle = sandbox.bundle(user.name(), &["/true"]);
    let program = bundle.rootfs().join("true");
    fs::write(&program, static_true()).expect("write the static program");
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    if let UserNamespace::New = user {
        bundle.map_users(600_000_000);
    }
    bundle.change(|config| {
        let resources = &mut config["linux"]["resources"];
        resources["memory"] = json!({ "limit": 268_435_456 });
        resources["cpu"] = json!({ "shares": 1024, "quota": 100_000, "period": 100_000 });
        resources["pids"] = json!({ "limit": 256 });
    });
    bundle
}

/// An OCI runtime's command line.
pub struct OciRuntime {
    name: String,
    program: PathBuf,
    bundle: PathBuf,
    store: PathBuf,
    pid_file: PathBuf,
    id: String,
}

impl OciRuntime {
    pub fn new(sandbox: &Sandbox, runtime: &str, user: UserNamespace) -> Self {
        let program = if runtime == "rkvm-oci" { binary(runtime) } else { PathBuf::from(runtime) };
        let name = format!("{runtime}/{}", user.name());
        let mut bundle = bundle(sandbox, user);
        // One bundle for all, but for the cgroup's name: it must not depend on how fast another one removes its own.
        bundle.change(|config| {
            config["linux"]["cgroupsPath"] = json!(sandbox.cgroup(&name.replace('/', "-")));
        });
        let path = sandbox.path().join(name.replace('/', "-"));
        fs::create_dir_all(&path).expect("folder of a contestant");
        fs::rename(bundle.path.join("config.json"), path.join("config.json")).expect("move config.json");
        let rootfs = sandbox.path().join(format!("rootfs-{}", user.name()));
        if !rootfs.exists() {
            fs::rename(bundle.rootfs(), &rootfs).expect("move the root filesystem");
        }
        std::os::unix::fs::symlink(&rootfs, path.join("unused")).ok();
        let text = fs::read_to_string(path.join("config.json")).expect("config.json");
        let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        config["root"]["path"] = json!(rootfs);
        fs::write(path.join("config.json"), config.to_string()).expect("write config.json");
        Self {
            id: sandbox.id(&name.replace('/', "-")),
            store: sandbox.path().join(format!("store-{}", name.replace('/', "-"))),
            pid_file: sandbox.path().join(format!("pid-{}", name.replace('/', "-"))),
            bundle: path,
            program,
            name,
        }
    }

    fn call(&self, args: &[&str]) {
        let errors = self.store.with_extension("err");
        let status = Command::new(&self.program)
            .arg("--root")
            .arg(&self.store)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&errors).expect("file for errors"))
            .status()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", self.program.display()));
        let message = || fs::read_to_string(&errors).unwrap_or_default();
        assert!(status.success(), "{} {args:?}: {status}: {}", self.name, message());
    }
}

impl Contestant for OciRuntime {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn run(&mut self) -> Vec<(&'static str, u64)> {
        let mut parts = vec![];
        let mut last = Instant::now();
        let mut part = |name| {
            let now = Instant::now();
            parts.push((name, (now - last).as_nanos() as u64));
            last = now;
        };
        let (bundle, pid_file) = (self.bundle.to_str().expect("path"), self.pid_file.to_str().expect("path"));
        self.call(&["create", "--bundle", bundle, "--pid-file", pid_file, &self.id]);
        part("create");
        self.call(&["start", &self.id]);
        part("start");
        let pid = fs::read_to_string(&self.pid_file).expect("pid file").trim().parse().expect("a process id");
        assert_eq!(reap::wait_blocking(pid), 0, "{}", self.name);
        part("wait");
        self.call(&["delete", &self.id]);
        part("delete");
        parts
    }
}
