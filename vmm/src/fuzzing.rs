//! What a fuzzer drives (`fuzz/`, `./x fuzz`), and what the inputs it has found are replayed with: whatever a hostile guest can send to a
//! device or over the protocol, and whatever a file that a user names may contain.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use rkvm_guest_protocol::{Answer, FrameReader, GuestSetup, Message, ToGuest, ToHost};
use rkvm_linux::mounts::options::Plan;

use crate::arch::x86_64::{acpi, mptable};
use crate::config::{Image, Protocol};
use crate::host::KvmKind;
use crate::memory::GuestMemory;
use crate::virtio::VirtioDevice;
use crate::virtio::balloon::{Balloon, Offers};
use crate::virtio::console::{Console, TerminalSize};
use crate::virtio::fs::{Fs, Share};
use crate::virtio::net::over_socket::OverSocket;
use crate::virtio::rng::Rng;
use crate::virtio::testing::devices::{
    BALLOON, BLOCK, CONSOLE, ENTROPY, FILES, PACKETS, SOCKETS, disk, file_server,
};
use crate::virtio::testing::hostile::{self, Knowledge, Random};
use crate::virtio::testing::{Rig, memory_of};
use crate::virtio::vsock::Vsock;
use crate::{backend, kernel};

/// Names of what can be fuzzed.
pub const TARGETS: [&str; 13] = [
    "balloon",
    "block",
    "config",
    "console",
    "frames",
    "fs",
    "kernel",
    "net",
    "registers",
    "rng",
    "setup",
    "tables",
    "vsock",
];

/// Memory of the machine that a kernel is loaded into: enough for its place at 16 MiB, and for errors about too little.
const KERNEL_MEMORY_MIB: u32 = 24;

/// A device that lives as long as the thread, with what it needs.
struct Subject {
    rig: Rig,
    knows: Knowledge,
    /// The other ends of its descriptors, or the folder that it shares.
    _surroundings: Box<dyn Any>,
}

thread_local! {
    static SUBJECTS: RefCell<HashMap<String, Option<Subject>>> = RefCell::default();
    static KERNEL_MEMORY: GuestMemory = memory_of(u64::from(KERNEL_MEMORY_MIB) << 20);
}

/// Feeds `input` to `target`, one of [`TARGETS`].
///
/// # Panics
/// `target` is none of them, or the input has found a mistake.
pub fn run(target: &str, input: &[u8]) {
    match target {
        "config" => config(input),
        "frames" => frames(input),
        "kernel" => kernel(input),
        "setup" => setup(input),
        "tables" => tables(input),
        device => drive(device, input),
    }
}

fn drive(name: &str, input: &[u8]) {
    SUBJECTS.with_borrow_mut(|subjects| {
        // `None`: this process lacks a privilege that the device needs.
        let Some(subject) = subjects.entry(name.to_owned()).or_insert_with(|| subject(name)) else { return };
        let mut random = Random::from_input(input);
        subject.rig.reset();
        if name == "registers" {
            while !random.is_empty() {
                hostile::registers(&mut subject.rig, &mut random);
                hostile::configuration(&mut subject.rig, &mut random);
            }
            return;
        }
        hostile::round(&mut subject.rig, &mut random, subject.knows);
    });
}

fn subject(name: &str) -> Option<Subject> {
    fn of(device: impl VirtioDevice + 'static, knows: Knowledge, surroundings: impl Any) -> Subject {
        Subject { rig: Rig::new(device), knows, _surroundings: Box::new(surroundings) }
    }
    Some(match name {
        "balloon" => of(Balloon::new(Offers::All).unwrap(), BALLOON, ()),
        "block" | "registers" => {
            let (file, block) = disk(64);
            of(block, BLOCK, file)
        }
        "console" => {
            let (input, keyboard) = std::io::pipe().unwrap();
            let (screen, output) = std::io::pipe().unwrap();
            std::thread::spawn(move || {
                let mut screen = File::from(OwnedFd::from(screen));
                while let Ok(1..) = screen.read(&mut [0; 65536]) {}
            });
            let size = TerminalSize { columns: 80, rows: 24 };
            of(Console::new(input.into(), output.into(), size).unwrap(), CONSOLE, keyboard)
        }
        "fs" => {
            let setup = file_server()?;
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("a"), "content").unwrap();
            let device = Fs::open(&Share { root: folder.path().to_owned(), proc_self_fd: None }).unwrap();
            Subject { rig: Rig::confined(device, setup), knows: FILES, _surroundings: Box::new(folder) }
        }
        "net" => {
            let (device, host) = OverSocket::pair();
            host.set_nonblocking(true).unwrap();
            (0..32).for_each(|_| drop(host.send(&[7; 600])));
            of(device, PACKETS, host)
        }
        "rng" => of(Rng::new().unwrap(), ENTROPY, ()),
        "vsock" => {
            let folder = tempfile::tempdir().unwrap();
            of(Vsock::bind(&folder.path().join("vsock.sock")).unwrap(), SOCKETS, folder)
        }
        other => panic!("there is no target {other:?}; there are: {}", TARGETS.join(", ")),
    })
}

/// Both directions of the guest protocol: what is understood says the same when it is sent on.
fn frames(input: &[u8]) {
    let [cut, stream @ ..] = input else { return };
    parse::<ToHost>(*cut, stream, ToHost::encode);
    parse::<ToGuest>(*cut, stream, ToGuest::encode);
}

fn parse<M: Message>(cut: u8, stream: &[u8], encode: fn(&M) -> Vec<u8>) {
    let mut reader = FrameReader::new();
    for part in stream.chunks(usize::from(cut).max(1)) {
        reader.push(part);
        loop {
            match reader.next_message::<M>() {
                Ok(Some(message)) => {
                    let mut again = FrameReader::new();
                    let bytes = encode(&message);
                    again.push(&bytes);
                    assert_eq!(
                        again.next_message::<M>().unwrap().map(|message| encode(&message)),
                        Some(bytes)
                    );
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// Documents inside the protocol's frames.
fn setup(input: &[u8]) {
    let _ = serde_json::from_slice::<GuestSetup>(input);
    let _ = serde_json::from_slice::<Answer>(input);
}

/// config.json, as far as both backends read it before anything is made.
fn config(input: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<oci_spec::runtime::Spec>(input) else { return };
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let _ = Plan::new(index, mount, Path::new("/bundle"));
    }
    let _ = backend::convert(&spec, Path::new("/bundle"), input.len().is_multiple_of(2));
}

/// A kernel's file.
fn kernel(input: &[u8]) {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, input).unwrap();
    let image = Image { name: "fuzz".into(), file };
    let protocol = match input.len() % 3 {
        0 => Protocol::Linux,
        1 => Protocol::Detect,
        _ => Protocol::Pvh,
    };
    KERNEL_MEMORY.with(|memory| {
        for kind in [KvmKind::Pvm, KvmKind::Hardware(crate::host::Vendor::Intel)] {
            if let Ok(info) = kernel::inspect(&image) {
                let _ = kernel::load(memory, &info, &image, protocol, kind, KERNEL_MEMORY_MIB);
            }
        }
    });
}

/// The tables that name processors and devices: any number of either is written, or refused.
fn tables(input: &[u8]) {
    let [vcpus, lines @ ..] = input else { return };
    let lines: Vec<u32> = lines.iter().map(|line| u32::from(*line)).collect();
    let windows: Vec<acpi::Window> = lines
        .iter()
        .zip(0..)
        .map(|(irq, index)| acpi::Window { base: 0xd000_0000 + 0x1000 * index, irq: *irq })
        .collect();
    KERNEL_MEMORY.with(|memory| {
        let _ = mptable::write(memory, *vcpus, &lines);
        let _ = acpi::write(memory, *vcpus, &windows, None);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs that a fuzzer has kept because each goes a way of its own, and those that have once failed.
    #[test]
    fn the_corpus_does_no_harm() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        for target in TARGETS {
            let files = std::fs::read_dir(corpus.join(target)).unwrap();
            let mut count = 0;
            for file in files {
                let file = file.unwrap().path();
                eprintln!("{}", file.display());
                run(target, &std::fs::read(&file).unwrap());
                count += 1;
            }
            assert!(count > 0, "{target} has no corpus");
        }
    }
}
