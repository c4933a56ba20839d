//! QEMU's microvm machine: our guest kernel and the image's erofs file, with an init of a few lines.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::cpio::Archive;
use super::network::Namespace;
use super::{Workload, make_folder, on_path};
use crate::contestant::{Contestant, Instance, Launch, Mode, Target};
use crate::error::{Error, Result};
use crate::model::{Subject, SubjectKind};
use crate::probe::Probe;

/// What `--with` calls it.
pub const NAME: &str = "qemu-microvm";
/// The program.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// Name of the folder of its files.
const FOLDER: &str = "qemu";
/// Address of the host's end of the link, and of the guest's.
const HOST: &str = "10.0.2.2/24";
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// Memory without a limit, as `rkvm run --isolation=vm` gives.
const MEMORY_MIB: u64 = 256;
/// Where the init tells that the program failed.
const EXIT_PORT: u16 = 0x501;

/// What a machine needs beside the workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The guest kernel.
    pub kernel: PathBuf,
    /// The image as one erofs file.
    pub root: PathBuf,
}

/// `qemu-system-x86_64 -M microvm`.
pub struct Qemu {
    subject: Subject,
    program: PathBuf,
    machine: Machine,
    folder: PathBuf,
    memory_mib: u64,
    needs_network: bool,
    namespaces: Mutex<HashMap<String, Namespace>>,
}

impl Qemu {
    /// The machine; the reason why it cannot take part otherwise.
    ///
    /// # Errors
    /// Its files cannot be written.
    pub fn new(
        program: PathBuf,
        workload: &Workload,
        probe: &Probe,
    ) -> Result<std::result::Result<Self, String>> {
        if matches!(probe, Probe::Exec) {
            return Ok(Err(
                "it does not tell when the program is executed: use exit, log, http or tcp".to_owned()
            ));
        }
        let machine = match &workload.machine {
            Ok(machine) => machine.clone(),
            Err(reason) => return Ok(Err(reason.clone())),
        };
        let Some(busybox) = on_path("busybox").and_then(static_program) else {
            return Ok(Err(
                "its init needs a static busybox on PATH (Debian's package busybox-static)".to_owned()
            ));
        };
        let process = &workload.spec["process"];
        if process["user"]["uid"].as_u64().unwrap_or(0) != 0 {
            return Ok(Err(
                "the image's program does not run as root, and its init knows no other user".to_owned()
            ));
        }
        let folder = workload.folder.join(FOLDER);
        make_folder(&folder)?;
        let mut archive = Archive::default();
        ["bin", "dev", "lower", "rw", "root"].iter().for_each(|name| archive.folder(name));
        archive.program("bin/busybox", &busybox);
        archive.program("init", script(process).as_bytes());
        let initrd = folder.join("initrd");
        fs::write(&initrd, archive.finish()).map_err(|error| Error::file("write", initrd, error))?;
        let limit = workload.spec["linux"]["resources"]["memory"]["limit"].as_u64();
        let subject = Subject {
            id: NAME.to_owned(),
            kind: SubjectKind::Peer,
            name: NAME.to_owned(),
            command_line: vec![],
            differences: [
                "its root filesystem is made before the command and its writes go to the guest's memory",
                "its program runs as root without any of the container's limits and filters",
                "its tap device is made before the command",
                "it keeps no record, no log and no monitor",
            ]
            .map(str::to_owned)
            .to_vec(),
        };
        let mut qemu = Self {
            subject,
            program,
            machine,
            folder,
            memory_mib: limit.map_or(MEMORY_MIB, |bytes| bytes >> 20),
            needs_network: probe.port().is_some(),
            namespaces: Mutex::default(),
        };
        let example = qemu.launch(Instance { name: "NAME", slot: 0 }, Mode::Attached);
        qemu.subject.command_line =
            example.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        Ok(Ok(qemu))
    }

    fn file(&self, name: &str, suffix: &str) -> PathBuf {
        self.folder.join(format!("{name}.{suffix}"))
    }

    fn namespaces(&self) -> std::sync::MutexGuard<'_, HashMap<String, Namespace>> {
        self.namespaces.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn append(&self) -> String {
        // The transports of QEMU's microvm without ACPI; the first device gets the last of them. They are named here because QEMU
        // would do it behind everything else.
        let mut words = vec!["virtio_mmio.device=512@0xfeb00e00:12", "virtio_mmio.device=512@0xfeb00c00:11"];
        if self.needs_network {
            words.push("virtio_mmio.device=512@0xfeb00a00:10");
        }
        words.extend(["console=hvc0", "quiet", "rdinit=/init", "panic=-1", "reboot=t"]);
        words.join(" ")
    }
}

impl Contestant for Qemu {
    fn subject(&self) -> &Subject {
        &self.subject
    }

    fn prepare(&self, instance: Instance<'_>, _mode: Mode) -> Result<()> {
        if self.needs_network {
            let namespace = Namespace::new()?;
            namespace.add_tap(HOST)?;
            self.namespaces().insert(instance.name.to_owned(), namespace);
        }
        Ok(())
    }

    fn launch(&self, instance: Instance<'_>, mode: Mode) -> Launch {
        let mut argv: Vec<OsString> = vec![];
        if let Some(namespace) = self.namespaces().get(instance.name) {
            argv.extend(["nsenter".into(), format!("--net={}", namespace.path().display()).into()]);
        }
        argv.push(self.program.clone().into());
        let mut add = |words: &[&str]| argv.extend(words.iter().map(OsString::from));
        add(&["-M", "microvm,acpi=off,pit=off,pic=off,rtc=off,isa-serial=off,auto-kernel-cmdline=off"]);
        add(&["-accel", "kvm", "-cpu", "host,migratable=off,+invtsc", "-smp", "1"]);
        add(&[
            "-m",
            &self.memory_mib.to_string(),
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        add(&[
            "-kernel",
            &self.machine.kernel.to_string_lossy(),
            "-initrd",
            &self.folder.join("initrd").to_string_lossy(),
        ]);
        add(&["-append", &self.append()]);
        add(&[
            "-drive",
            &format!("if=none,id=root,format=raw,readonly=on,file={}", self.machine.root.display()),
        ]);
        add(&["-device", "virtio-blk-device,drive=root"]);
        let console = match mode {
            Mode::Attached => "stdio,id=console,signal=off".to_owned(),
            Mode::Detached => format!("file,id=console,path={}", self.file(instance.name, "log").display()),
        };
        add(&[
            "-chardev",
            &console,
            "-device",
            "virtio-serial-device",
            "-device",
            "virtconsole,chardev=console",
        ]);
        if self.needs_network {
            add(&["-netdev", "tap,id=link,ifname=tap0,script=no,downscript=no"]);
            add(&["-device", "virtio-net-device,netdev=link"]);
        }
        add(&["-device", &format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=1")]);
        add(&["-pidfile", &self.file(instance.name, "pid").to_string_lossy()]);
        if mode == Mode::Detached {
            add(&["-daemonize"]);
        }
        Launch { argv, env: vec![] }
    }

    fn target(&self, instance: Instance<'_>, port: u16) -> Result<Target> {
        let namespace = self.namespaces().get(instance.name).map(Namespace::file).transpose()?;
        Ok(Target { address: SocketAddr::new(GUEST.into(), port), namespace })
    }

    fn ended(&self, instance: Instance<'_>) -> Option<String> {
        let pid = pid_in(&self.file(instance.name, "pid"))?;
        (!is_ours(pid, &self.folder)).then(|| "the machine is off".to_owned())
    }

    fn log(&self, instance: Instance<'_>) -> Vec<String> {
        let text = fs::read(self.file(instance.name, "log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(10)..].iter().map(|line| (*line).to_owned()).collect()
    }

    fn processes(&self, instance: Instance<'_>) -> Vec<i32> {
        pid_in(&self.file(instance.name, "pid")).into_iter().collect()
    }

    fn remove(&self, instance: Instance<'_>) -> Result<()> {
        end(&self.file(instance.name, "pid"), &self.folder);
        self.namespaces().remove(instance.name);
        for suffix in ["pid", "log"] {
            let _ = fs::remove_file(self.file(instance.name, suffix));
        }
        Ok(())
    }
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The init: joins the layers, makes what a container finds, runs the program and switches the machine off.
fn script(process: &Value) -> String {
    let words = |name: &str| {
        let words = process[name].as_array().into_iter().flatten().filter_map(Value::as_str);
        words.map(quoted).collect::<Vec<_>>().join(" ")
    };
    let folder = quoted(process["cwd"].as_str().unwrap_or("/"));
    format!(
        "#!/bin/busybox sh\n\
         B=/bin/busybox\n\
         $B mount -t devtmpfs dev /dev\n\
         $B mount -t erofs -o ro /dev/vda /lower\n\
         $B mount -t tmpfs tmpfs /rw\n\
         $B mkdir /rw/upper /rw/work\n\
         $B mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work overlay /root\n\
         $B mkdir -p /root/proc /root/sys /root/dev /root/tmp\n\
         $B mount -t proc proc /root/proc\n\
         $B mount -t sysfs sysfs /root/sys\n\
         $B mount -t devtmpfs dev /root/dev\n\
         $B ln -s /proc/self/fd /root/dev/fd\n\
         $B ln -s /proc/self/fd/1 /root/dev/stdout\n\
         $B ln -s /proc/self/fd/2 /root/dev/stderr\n\
         $B ifconfig lo 127.0.0.1 up\n\
         [ ! -e /root/sys/class/net/eth0 ] || $B ifconfig eth0 {GUEST} netmask 255.255.255.0 up\n\
         cd /root\n\
         $B env -i {env} $B chroot /root {shell}{args}\n\
         [ $? = 0 ] || $B printf '\\001' | $B dd of=/dev/port bs=1 seek={EXIT_PORT} 2>/dev/null\n\
         $B reboot -f\n",
        env = words("env"),
        args = words("args"),
        // Only a workdir that is not / needs a shell of the image's.
        shell = if folder == "'/'" {
            String::new()
        } else {
            format!("/bin/sh -c 'cd \"$0\" && exec \"$@\"' {folder} ")
        },
    )
}

/// The content of a program that needs no loader.
fn static_program(path: PathBuf) -> Option<Vec<u8>> {
    let bytes = fs::read(path).ok()?;
    // The loader's path (PT_INTERP) lies behind the program headers.
    let head = bytes.get(..4096)?;
    let is_dynamic = head.windows(8).any(|window| window == b"ld-linux");
    (!is_dynamic).then_some(bytes)
}

fn pid_in(file: &Path) -> Option<i32> {
    fs::read_to_string(file).ok()?.trim().parse().ok().filter(|pid| *pid > 0)
}

/// Whether a process is a machine of this measurement's, and not one that has its number by now.
fn is_ours(pid: i32, folder: &Path) -> bool {
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&command_line).contains(&*folder.to_string_lossy())
}

/// How long a killed machine may take to be gone.
const GONE: Duration = Duration::from_secs(10);

/// Kills a machine and waits until it is gone.
fn end(pid_file: &Path, folder: &Path) {
    let Some(pid) = pid_in(pid_file).filter(|pid| is_ours(*pid, folder)) else { return };
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    let deadline = Instant::now() + GONE;
    // A dead process has no command line.
    while is_ours(pid, folder) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Kills the machines of a killed measurement.
pub fn clean_up(folder: &Path) {
    let folder = folder.join(FOLDER);
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "pid") {
            end(&entry.path(), &folder);
        }
    }
}
