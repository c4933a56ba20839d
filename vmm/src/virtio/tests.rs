//! Each device against a driver that means harm, and what it must do for one that does not.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};
use vm_memory::{Bytes, GuestAddress};

use super::balloon::{Balloon, Offers};
use super::block::{Access, Block};
use super::console::{Console, TerminalSize};
use super::fs::{Fs, Share};
use super::rng::Rng;
use super::testing::devices::{BALLOON, BLOCK, CONSOLE, ENTROPY, FILES, SOCKETS, disk, file_server};
use super::testing::hostile;
use super::testing::{BUFFERS, Buffer, HIGH_START, Rig};
use super::vsock::Vsock;

const ALL: u64 = u64::MAX;

fn gives_random_bytes(rig: &mut Rig) {
    let mut rings = rig.start(ALL, 64);
    rig.memory.write_slice(&[0; 64], GuestAddress(BUFFERS)).unwrap();
    let head = rings[0].add(&rig.memory, &[Buffer::Writable(BUFFERS, 64)]);
    assert_eq!(rig.exchange(0, &mut rings[0]), (head, 64));
    let mut bytes = [0; 64];
    rig.memory.read_slice(&mut bytes, GuestAddress(BUFFERS)).unwrap();
    assert!(bytes.iter().filter(|byte| **byte == 0).count() < 32, "{bytes:?}");
}

#[test]
fn entropy_device() {
    hostile::run(Rng::new().unwrap(), ENTROPY, gives_random_bytes);
}

fn reads_what_was_written(rig: &mut Rig) {
    let mut rings = rig.start(ALL, 64);
    let header = |kind: u32| [u64::from(kind), 3];
    rig.memory.write_obj(header(VIRTIO_BLK_T_OUT), GuestAddress(BUFFERS)).unwrap();
    rig.memory.write_slice(&[0xa5; 1024], GuestAddress(BUFFERS + 0x1000)).unwrap();
    let status = BUFFERS + 0x100;
    let request = [
        Buffer::Readable(BUFFERS, 16),
        Buffer::Readable(BUFFERS + 0x1000, 1024),
        Buffer::Writable(status, 1),
    ];
    let head = rings[0].add(&rig.memory, &request);
    assert_eq!(rig.exchange(0, &mut rings[0]), (head, 1));
    rig.memory.write_obj(header(VIRTIO_BLK_T_IN), GuestAddress(BUFFERS)).unwrap();
    let request =
        [Buffer::Readable(BUFFERS, 16), Buffer::Writable(HIGH_START, 1024), Buffer::Writable(status, 1)];
    let head = rings[0].add(&rig.memory, &request);
    assert_eq!(rig.exchange(0, &mut rings[0]), (head, 1025));
    let mut data = [0; 1024];
    rig.memory.read_slice(&mut data, GuestAddress(HIGH_START)).unwrap();
    assert_eq!(data, [0xa5; 1024]);
}

#[test]
fn block_device() {
    let (file, block) = disk(64);
    hostile::run(block, BLOCK, reads_what_was_written);
    assert_eq!(file.as_file().metadata().unwrap().len(), 64 * 512, "the disk has grown");
}

#[test]
fn read_only_block_device() {
    let (file, _) = disk(64);
    let block = Block::open(file.path(), Access::ReadOnly, "test").unwrap();
    hostile::run(block, BLOCK, |_| {});
    let mut content = vec![0; 64 * 512];
    file.as_file().read_exact_at(&mut content, 0).unwrap();
    assert!(content.iter().enumerate().all(|(at, byte)| *byte == (at / 512) as u8), "the disk has changed");
}

fn takes_a_page(rig: &mut Rig) {
    let mut rings = rig.start(ALL, 64);
    rig.memory.write_slice(&[1; 0x2000], GuestAddress(HIGH_START)).unwrap();
    rig.memory.write_obj((HIGH_START / 4096) as u32, GuestAddress(BUFFERS)).unwrap();
    let head = rings[0].add(&rig.memory, &[Buffer::Readable(BUFFERS, 4)]);
    assert_eq!(rig.exchange(0, &mut rings[0]), (head, 0));
    let byte = |at| rig.memory.read_obj::<u8>(GuestAddress(at)).unwrap();
    assert_eq!((byte(HIGH_START), byte(HIGH_START + 0x1000)), (0, 1));
    // Reporting is the fourth queue when every feature is wanted.
    let head = rings[3].add(&rig.memory, &[Buffer::Writable(HIGH_START + 0x1000, 0x1000)]);
    assert_eq!(rig.exchange(3, &mut rings[3]), (head, 0));
    assert_eq!(rig.memory.read_obj::<u8>(GuestAddress(HIGH_START + 0x1000)).unwrap(), 0);
}

#[test]
fn balloon() {
    hostile::run(Balloon::new(Offers::All).unwrap(), BALLOON, takes_a_page);
}

#[test]
fn console() {
    let (input, mut keyboard) = std::io::pipe().unwrap();
    let (screen, output) = std::io::pipe().unwrap();
    // What hostile rounds print is read away.
    let (printed, prints) = std::sync::mpsc::channel();
    let mut screen = File::from(OwnedFd::from(screen));
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 65536];
        while let Ok(count @ 1..) = screen.read(&mut bytes) {
            let _ = printed.send(bytes[..count].to_vec());
        }
    });
    let size = TerminalSize { columns: 80, rows: 24 };
    let device = Console::new(OwnedFd::from(input), OwnedFd::from(output), size).unwrap();
    keyboard.write_all(b"typed").unwrap();
    hostile::run(device, CONSOLE, move |rig| {
        let mut rings = rig.start(ALL, 64);
        let text = b"what the guest prints";
        rig.memory.write_slice(text, GuestAddress(BUFFERS)).unwrap();
        let head = rings[1].add(&rig.memory, &[Buffer::Readable(BUFFERS, text.len() as u32)]);
        assert_eq!(rig.exchange(1, &mut rings[1]), (head, 0));
        let mut seen = Vec::new();
        while !seen.ends_with(text) {
            seen.extend(prints.recv().unwrap());
        }
        let mut columns = [0; 2];
        rig.transport.read(0x100, &mut columns);
        assert_eq!(columns, [80, 0]);
    });
    reader.join().unwrap();
}

#[test]
fn socket_device() {
    let folder = tempfile::tempdir().unwrap();
    let device = Vsock::bind(&folder.path().join("vsock.sock")).unwrap();
    hostile::run(device, SOCKETS, |rig| drop(rig.start(ALL, 64)));
}

fn opens_a_session(rig: &mut Rig) {
    let mut rings = rig.start(ALL, 64);
    // FUSE_INIT, of version 7.31.
    let header = [104_u32, 26, 1, 0, 1, 0, 0, 0, 0, 0, 7, 31, 0x2_0000, 0];
    for (index, word) in header.iter().enumerate() {
        rig.memory.write_obj(*word, GuestAddress(BUFFERS + 4 * index as u64)).unwrap();
    }
    rig.memory.write_slice(&[0; 48], GuestAddress(BUFFERS + 56)).unwrap();
    let head =
        rings[1].add(&rig.memory, &[Buffer::Readable(BUFFERS, 104), Buffer::Writable(HIGH_START, 4096)]);
    let (used, bytes) = rig.exchange(1, &mut rings[1]);
    let [length, error]: [u32; 2] = rig.memory.read_obj(GuestAddress(HIGH_START)).unwrap();
    assert_eq!((used, error), (head, 0));
    assert!(bytes >= 16 && length == bytes, "{length} and {bytes}");
}

#[test]
fn file_system_device() {
    let Some(setup) = file_server() else {
        eprintln!("skipped: the file server needs root");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let shared = folder.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("a"), "content").unwrap();
    std::fs::write(folder.path().join("outside"), "untouched").unwrap();
    let device = Fs::open(&Share { root: shared, proc_self_fd: None }).unwrap();
    hostile::run_in(Rig::confined(device, setup), FILES, opens_a_session);
    let names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(std::fs::read_to_string(folder.path().join("outside")).unwrap(), "untouched");
}
