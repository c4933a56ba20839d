//! Folders shared with a guest: each case boots the guest's kernel with this very program as its init, which is then the guest's half of
//! the case. The host's half prepares the folder, may act while the guest runs, and looks at what is left.
//!
//! Skipped without `/dev/kvm` or a kernel that fits (`./x guest` builds it; `RKVM_GUEST` names a folder with one).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod access;
mod files;
mod guest;
mod host;
mod machine;
mod names;
mod overlay;
mod sys;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// A test: what guest and host do.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    vcpus: u8,
    guest: fn(),
    prepare: fn(&Folder),
    meanwhile: fn(&Folder),
    check: fn(&Folder),
}

impl Case {
    /// A case whose guest's half is `guest`.
    pub const fn new(name: &'static str, guest: fn()) -> Self {
        fn nothing(_: &Folder) {}
        Self { name, vcpus: 1, guest, prepare: nothing, meanwhile: nothing, check: nothing }
    }

    /// With two processors.
    pub const fn smp(mut self) -> Self {
        self.vcpus = 2;
        self
    }

    /// What the host does before the guest starts.
    pub const fn prepare(mut self, prepare: fn(&Folder)) -> Self {
        self.prepare = prepare;
        self
    }

    /// What the host does while the guest runs.
    pub const fn meanwhile(mut self, meanwhile: fn(&Folder)) -> Self {
        self.meanwhile = meanwhile;
        self
    }

    /// What the host finds afterwards.
    pub const fn check(mut self, check: fn(&Folder)) -> Self {
        self.check = check;
        self
    }
}

/// The host's side of a case: a temporary folder with the shared one in it, and something outside of that.
pub struct Folder {
    outer: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        std::fs::create_dir(outer.path().join("share")).unwrap();
        Self { outer }
    }

    /// The shared folder, or something in it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.outer.path().join("share").join(name)
    }

    /// Something outside the shared folder.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.outer.path().join(name)
    }

    /// Waits until the guest has made `name`.
    pub fn wait_for(&self, name: &str) {
        wait_until(name, || self.at(name).exists());
    }
}

/// Waits, with a bound, until `done` says so.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed() < machine::LIMIT, "{what}: nothing happened");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn cases() -> Vec<Case> {
    [files::CASES, names::CASES, access::CASES, overlay::CASES, host::CASES].concat()
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        return guest::init();
    }
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, marker, rest @ ..] = arguments.as_slice()
        && marker == guest::CHILD
    {
        return guest::child(rest);
    }
    let unusable = machine::unusable();
    if let Some(reason) = &unusable {
        eprintln!("skipped: {reason}");
    }
    // Mounts of the cases are seen by nobody else and end with this process.
    let private = sys::private_mounts();
    let trials = cases()
        .into_iter()
        .map(|case| {
            Trial::test(case.name, move || run(&case))
                .with_ignored_flag(unusable.is_some() || private.is_err())
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn run(case: &Case) -> Result<(), Failed> {
    let folder = Folder::new();
    (case.prepare)(&folder);
    machine::run(case, &folder)?;
    (case.check)(&folder);
    sys::unmount_below(folder.outer.path());
    Ok(())
}

/// A path within the guest's mount.
pub fn at(name: &str) -> PathBuf {
    Path::new(guest::MOUNT).join(name)
}
