//! One test's own corner of the host.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bundle::Bundle;
use crate::command::{Cmd, binary};
use crate::isolation::Isolation;
use crate::leaks::{Leaks, Marks};
use crate::{image, reap, wait};

/// Every sandbox's folder begins with this, which is how leak checks tell theirs from another's.
pub(crate) const PREFIX: &str = "rkvmt-";

/// A folder with an engine root of its own, whose name marks everything that the test makes on the host.
///
/// Dropping it checks for leftovers, each of which fails the test, and then removes all of them by force.
#[derive(Debug)]
pub struct Sandbox {
    tag: String,
    path: PathBuf,
    ids: Mutex<BTreeSet<String>>,
    check: bool,
    isolation: Isolation,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// A new one, in a short path below /tmp (names of Unix sockets are limited to 108 bytes).
    ///
    /// # Panics
    /// The test does not run as root, or the folder cannot be made.
    pub fn new() -> Self {
        Self::of(Isolation::Container)
    }

    /// As [`Sandbox::new`]; the containers that [`Sandbox::rkvm`] makes are kept apart as `isolation` says.
    ///
    /// # Panics
    /// As [`Sandbox::new`].
    pub fn of(isolation: Isolation) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "these tests need root: they make namespaces and cgroups");
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let tag = format!("{PREFIX}{:x}-{number:x}", std::process::id());
            let path = Path::new("/tmp").join(&tag);
            match fs::create_dir(&path) {
                Ok(()) => return Self { tag, path, ids: Mutex::default(), check: true, isolation },
                // Left by an earlier run that had our process id and was killed.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => panic!("cannot make {}: {error}", path.display()),
            }
        }
    }

    /// A name that nothing else on the host has: for cgroups, container ids.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The folder, for the test's own files.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The engine's root (`RKVM_ROOT`): `run` and `lib` are in it.
    pub fn root(&self) -> PathBuf {
        self.path.join("r")
    }

    /// The state store that [`Sandbox::oci`] uses.
    pub fn oci_root(&self) -> PathBuf {
        self.path.join("oci")
    }

    /// A container id that marks what it is used for as this sandbox's.
    pub fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    /// `linux.cgroupsPath` of container `name`.
    pub fn cgroup(&self, name: &str) -> String {
        format!("/{}/{name}", self.tag)
    }

    /// Any program, in the sandbox's folder.
    pub fn command(&self, program: impl Into<PathBuf>) -> Cmd {
        Cmd::new(program, &self.path.join("output")).cwd(&self.path)
    }

    /// `rkvm ARGS` with the sandbox's root, and with its isolation for what makes a container.
    pub fn rkvm<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Cmd {
        self.learn_ids();
        self.command(binary("rkvm")).env("RKVM_ROOT", self.root()).args(self.isolated(args))
    }

    /// `args` with the sandbox's isolation, if they make a container.
    pub fn isolated<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Vec<OsString> {
        let mut args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let makes = args.first().is_some_and(|verb| verb == "run" || verb == "create");
        if makes && self.isolation == Isolation::Vm {
            args.insert(1, "--isolation=vm".into());
        }
        args
    }

    /// How its containers are kept apart.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// `rkvm-oci --root STORE ARGS`, with the sandbox's isolation.
    pub fn oci<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Cmd {
        let isolation: &[&str] = if self.isolation == Isolation::Vm { &["--isolation", "vm"] } else { &[] };
        self.command(binary("rkvm-oci")).arg("--root").arg(self.oci_root()).args(isolation).args(args)
    }

    /// Counts what carries `id` as this sandbox's: for a container that came and went between two commands.
    pub fn remember(&self, id: &str) {
        assert!(id.len() >= 12, "{id:?} is no container's id");
        self.ids.lock().expect("ids").insert(id.to_owned());
    }

    /// Loads `busybox:latest` into the sandbox's image store.
    ///
    /// # Panics
    /// `rkvm load` fails.
    #[track_caller]
    pub fn load_busybox(&self) {
        self.rkvm(["load", "-i"]).arg(image::busybox_archive()).ok();
    }

    /// A new bundle with a busybox root filesystem that runs `args`.
    ///
    /// # Panics
    /// Files cannot be written.
    pub fn bundle(&self, name: &str, args: &[&str]) -> Bundle {
        Bundle::new(&self.path.join("b").join(name), &self.cgroup(name), args)
    }

    /// Engine containers that exist now: their ids mark what belongs to the sandbox, after they are gone too.
    fn learn_ids(&self) {
        let mut ids = self.ids.lock().expect("ids");
        for folder in [self.root().join("lib/containers"), self.root().join("run"), self.oci_root()] {
            let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
            ids.extend(names.filter_map(|name| name.into_string().ok()).filter(|name| name.len() >= 12));
        }
    }

    pub(crate) fn marks(&self) -> Marks {
        self.learn_ids();
        Marks {
            tag: self.tag.clone(),
            ids: self.ids.lock().expect("ids").clone(),
            network: rkvm_net::Network::open(&self.root().join("lib")).name().to_owned(),
            root: self.root(),
            oci_root: self.oci_root(),
        }
    }

    /// What is on the host now that this sandbox's containers made: everything that has to be gone when the last one is
    /// removed.
    pub fn leaks(&self) -> Leaks {
        Leaks::find(&self.marks())
    }

    /// Waits until nothing is left of this sandbox's containers: the kernel takes some things down in the background.
    ///
    /// # Panics
    /// Something stays; the message names all of it.
    #[track_caller]
    pub fn assert_no_leaks(&self) {
        let mut leaks = Leaks::default();
        let clean = wait::within(Duration::from_secs(15), || {
            leaks = self.leaks();
            // A subreaper has the containers' processes as children.
            leaks.pids.iter().for_each(|pid| reap::reap(*pid));
            leaks.is_empty().then_some(())
        });
        assert!(clean.is_some(), "left behind by {}:\n{leaks}", self.tag);
    }

    /// Does without the leak check at the end, for a test that says itself what it leaves. All is removed nevertheless.
    pub fn without_leak_check(&mut self) {
        self.check = false;
    }

    /// Removes by force whatever is left.
    fn clear(&self) {
        for _ in 0..3 {
            let leaks = self.leaks();
            // A frozen process does not die.
            for cgroup in &leaks.cgroups {
                let _ = fs::write(cgroup.join("freezer.state"), "THAWED");
                let _ = fs::write(cgroup.join("cgroup.freeze"), "0");
            }
            for pid in &leaks.pids {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            for mount in leaks.mounts.iter().rev() {
                let _ = umount2(mount, MntFlags::MNT_DETACH);
            }
            for link in &leaks.links {
                let _ = Command::new("ip")
                    .args(["link", "del", link])
                    .stderr(std::process::Stdio::null())
                    .status();
            }
            for table in &leaks.tables {
                let _ = Command::new("nft").args(["delete", "table"]).args(table.split(' ')).status();
            }
            wait::within(Duration::from_secs(2), || {
                leaks.pids.iter().for_each(|pid| reap::reap(*pid));
                self.leaks().pids.is_empty().then_some(())
            });
            for cgroup in leaks.cgroups.iter().rev() {
                let _ = fs::remove_dir(cgroup);
            }
            if self.leaks().pids.is_empty() && self.leaks().cgroups.is_empty() {
                break;
            }
        }
        for cgroup in self.marks().cgroup_parents() {
            let _ = fs::remove_dir(cgroup);
        }
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let check = self.check && !std::thread::panicking();
        let result =
            check.then(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.assert_no_leaks())));
        self.clear();
        if let Some(Err(panic)) = result {
            std::panic::resume_unwind(panic);
        }
    }
}
