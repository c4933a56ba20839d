//! QEMU's microvm machine.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;

use super::Workload;
use super::guest::{self, GUEST, Guest, HOST};
use super::network::Namespace;
use crate::contestant::{Contestant, Instance, Launch, Mode, Target};
use crate::error::Result;
use crate::model::{Subject, SubjectKind};
use crate::probe::Probe;

/// What `--with` calls it.
pub const NAME: &str = "qemu-microvm";
/// The program.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// Name of the folder of its files.
pub const FOLDER: &str = "qemu";
/// Where the init tells that the program failed.
const EXIT_PORT: u16 = 0x501;

/// The processor: the host's. QEMU takes over its capability register (MSR 0x10a) where KVM offers one, and gives up where KVM does not let
/// it be set: on a PVM host with an AMD processor, which has no such register.
fn processor() -> &'static str {
    match fs::read_to_string("/proc/cpuinfo") {
        Ok(text) if !text.contains("GenuineIntel") => "host,migratable=off,+invtsc,-arch-capabilities",
        _ => "host,migratable=off,+invtsc",
    }
}

/// `qemu-system-x86_64 -M microvm`.
pub struct Qemu {
    subject: Subject,
    program: PathBuf,
    guest: Guest,
    folder: PathBuf,
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
        let folder = workload.folder.join(FOLDER);
        // A status other than 0 ends the machine through a port that makes QEMU fail.
        let ending =
            format!("[ $? = 0 ] || $B printf '\\001' | $B dd of=/dev/port bs=1 seek={EXIT_PORT} 2>/dev/null");
        let guest = match guest::prepare(workload, probe, &folder, &ending)? {
            Ok(guest) => guest,
            Err(reason) => return Ok(Err(reason)),
        };
        let subject = Subject {
            id: NAME.to_owned(),
            kind: SubjectKind::Peer,
            name: NAME.to_owned(),
            command_line: vec![],
            differences: [
                "its root filesystem is made before the command and its writes go to the guest's memory",
                "its program runs as root without any of the container's limits and filters",
                guest::LINK,
                "it keeps no record, no log and no monitor",
            ]
            .map(str::to_owned)
            .to_vec(),
        };
        let mut qemu = Self {
            subject,
            program,
            guest,
            folder,
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
        add(&["-accel", "kvm", "-cpu", processor(), "-smp", "1"]);
        add(&[
            "-m",
            &self.guest.memory_mib.to_string(),
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        add(&[
            "-kernel",
            &self.guest.machine.kernel.to_string_lossy(),
            "-initrd",
            &self.guest.initrd.to_string_lossy(),
        ]);
        add(&["-append", &self.append()]);
        add(&[
            "-drive",
            &format!("if=none,id=root,format=raw,readonly=on,file={}", self.guest.machine.root.display()),
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
        // It writes the file before the command returns, and removes it when it ends.
        let pid = guest::pid_in(&self.file(instance.name, "pid"));
        (!pid.is_some_and(|pid| guest::is_ours(pid, &self.folder))).then(|| "the machine is off".to_owned())
    }

    fn log(&self, instance: Instance<'_>) -> Vec<String> {
        guest::log(&self.file(instance.name, "log"))
    }

    fn processes(&self, instance: Instance<'_>) -> Vec<i32> {
        guest::pid_in(&self.file(instance.name, "pid")).into_iter().collect()
    }

    fn remove(&self, instance: Instance<'_>) -> Result<()> {
        guest::end(&self.file(instance.name, "pid"), &self.folder);
        self.namespaces().remove(instance.name);
        for suffix in ["pid", "log"] {
            let _ = fs::remove_file(self.file(instance.name, suffix));
        }
        Ok(())
    }
}
