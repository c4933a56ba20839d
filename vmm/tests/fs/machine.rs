//! The host's half: a machine whose init is this program.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libtest_mimic::Failed;
use rkvm_vmm::virtio::fs::{Fs, Share};
use rkvm_vmm::{Console, Host, Image, KvmKind, VmConfig, build};

use crate::{Case, Folder, guest};

/// Far more than a case takes, even on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Why no guest can run here.
pub fn unusable() -> Option<String> {
    match Host::open().and_then(|host| host.kind()) {
        Err(error) => Some(error.to_string()),
        Ok(_) if kernel().is_none() => Some("no guest kernel; build it with ./x guest".to_owned()),
        Ok(_) => None,
    }
}

/// The guest kernel that this host needs.
fn kernel() -> Option<PathBuf> {
    let variant = match Host::open().ok()?.kind().ok()? {
        KvmKind::Pvm => "pvm",
        KvmKind::Hardware(_) => "plain",
    };
    let name = format!("vmlinux-{variant}");
    let named = std::env::var_os("RKVM_GUEST").map(|folder| Path::new(&folder).join(&name));
    let beside =
        std::env::current_exe().ok()?.ancestors().nth(2).map(|folder| folder.join("guest").join(&name));
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/guest-kernel");
    let cached = std::fs::read_dir(cache).into_iter().flatten().flatten().filter_map(|entry| {
        let fits = entry.file_name().to_string_lossy().starts_with(&format!("{variant}-"));
        fits.then(|| entry.path().join("vmlinux"))
    });
    named.into_iter().chain(beside).chain(cached).find(|path| path.is_file())
}

/// What the guest writes on its console.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Boots a machine for `case`, lets the host act, and waits for the guest's verdict.
pub fn run(case: &Case, folder: &Folder) -> Result<(), Failed> {
    let initrd = folder.outside("initrd");
    std::fs::write(&initrd, initramfs()).unwrap();
    let output = Output::default();
    let mut config = VmConfig::new(Image::open(&kernel().unwrap()).unwrap());
    config.initrd = Some(Image::open(&initrd).unwrap());
    config.vcpus = case.vcpus;
    config.console = Console::Full;
    config.console_output = Some(Box::new(output.clone()));
    config.cmdline = format!("quiet panic=-1 {}{}", guest::CASE, case.name);
    config.attach(Fs::open(&Share { root: folder.at(""), proc_self_fd: None }).unwrap());
    let machine = build(&Host::open().unwrap(), config).unwrap();
    machine.start().unwrap();
    // The guest's reason to fail is worth more than the host's wait for what it then did not do.
    let host = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (case.meanwhile)(folder)));
    let end = machine.wait(Some(LIMIT));
    let text = String::from_utf8_lossy(&output.0.lock().unwrap()).into_owned();
    if !text.contains(guest::PASSED) {
        return Err(format!("{end}\n{text}").into());
    }
    host.map_err(|_| "the host's half failed".into())
}

/// An uncompressed initramfs (newc cpio) with this program as `/init` and a console for it to complain on.
fn initramfs() -> Vec<u8> {
    const REGULAR: u32 = 0o100_755;
    const DIRECTORY: u32 = 0o040_755;
    const CHARACTER_DEVICE: u32 = 0o020_600;
    let mut archive = Vec::new();
    let mut entry = |name: &str, mode: u32, device: (u32, u32), content: &[u8]| {
        let fields =
            [0, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, device.0, device.1, name.len() as u32 + 1, 0];
        archive.extend_from_slice(b"070701");
        for field in fields {
            write!(archive, "{field:08X}").unwrap();
        }
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    };
    entry("dev", DIRECTORY, (0, 0), &[]);
    entry("dev/console", CHARACTER_DEVICE, (5, 1), &[]);
    entry("init", REGULAR, (0, 0), &loadable(&std::fs::read("/proc/self/exe").unwrap()));
    entry("TRAILER!!!", 0, (0, 0), &[]);
    archive
}

/// A program without what is not loaded to run it: symbols and debugging data, which are most of a test program.
fn loadable(elf: &[u8]) -> Vec<u8> {
    let word = |at: usize, bytes: usize| {
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(&elf[at..at + bytes]);
        u64::from_le_bytes(value) as usize
    };
    // ELF64: program headers at 0x20, size and number of each at 0x36 and 0x38; a segment's place at 0x08 and size at 0x20.
    let (table, size, number) = (word(0x20, 8), word(0x36, 2), word(0x38, 2));
    let segments = (0..number).map(|index| table + index * size);
    let end = segments.map(|header| word(header + 0x08, 8) + word(header + 0x20, 8)).max().unwrap();
    let mut program = elf[..end].to_vec();
    // No section headers: place, number, and index of their names.
    program[0x28..0x30].fill(0);
    program[0x3c..0x40].fill(0);
    program
}
