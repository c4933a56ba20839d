//! Hostile guests: whatever a driver puts into rings and messages, no thread panics, nothing outside the shared folder is
//! touched, and the device goes on serving.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use virtio_queue::{Queue, QueueT as _};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::confined::{Confined, Served};
use super::session::Session;
use super::*;
use crate::memory::GuestMemory;
use crate::virtio::Interrupt;

const MEMORY: u64 = 4 << 20;
const SIZE: u16 = 16;
const TABLE: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const INDIRECT: u64 = 0x4000;
const MESSAGE: u64 = 0x10_0000;
const REPLY: u64 = 0x20_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT_FLAG: u16 = 4;

/// Numbers that are the same in every run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// Numbers that lie where mistakes are.
    fn awkward(&mut self) -> u64 {
        const EDGES: [u64; 14] = [
            0,
            1,
            2,
            3,
            15,
            16,
            0xfff,
            0x1000,
            0x10_0000,
            0x7fff_ffff,
            0xffff_ffff,
            i64::MAX as u64,
            1 << 63,
            u64::MAX,
        ];
        match self.below(4) {
            0 => self.next(),
            1 => self.next() % 40,
            _ => EDGES[self.below(EDGES.len())].wrapping_add(self.next() % 3).wrapping_sub(1),
        }
    }
}

/// A folder outside of which nothing may change, with the shared one in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        // Not on a disk: what a guest may ask for includes syncing all of it.
        let memory = Path::new("/dev/shm");
        let outer = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let share = outer.path().join("share");
        fs::create_dir_all(share.join("folder/inner")).unwrap();
        fs::write(share.join("file"), b"content of the file").unwrap();
        std::os::unix::fs::symlink("../secret", share.join("link")).unwrap();
        fs::write(outer.path().join("secret"), b"secret").unwrap();
        Self(outer)
    }

    fn check(&self) {
        let names: Vec<_> =
            fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(fs::read(self.0.path().join("secret")).unwrap(), b"secret");
        assert_eq!(fs::metadata(self.0.path().join("secret")).unwrap().permissions(), {
            fs::File::create(self.0.path().join("other")).unwrap().metadata().unwrap().permissions()
        });
        fs::remove_file(self.0.path().join("other")).unwrap();
    }

    fn server(&self) -> Served {
        let share = self.0.path().join("share");
        Served::new(Confined::new(serve(&Share { root: share, proc_self_fd: None }).unwrap()))
    }
}

/// A driver of our own, and a thread that serves it as one of the pool would.
struct Driver {
    memory: GuestMemory,
    session: Arc<Session>,
    kick: EventFd,
    thread: Option<JoinHandle<()>>,
    requests: u16,
}

impl Driver {
    fn new(folder: &Folder) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
        let mut queue = Queue::new(SIZE).unwrap();
        queue.set_size(SIZE);
        queue.set_desc_table_address(Some(TABLE as u32), None);
        queue.set_avail_ring_address(Some(AVAIL as u32), None);
        queue.set_used_ring_address(Some(USED as u32), None);
        queue.set_ready(true);
        assert!(queue.is_valid(&memory));
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        let activation = Activation {
            memory: memory.clone(),
            interrupt: Interrupt::alone(EventFd::new(EFD_NONBLOCK).unwrap()).unwrap(),
            queues: vec![(queue, kick.try_clone().unwrap())],
            features: FEATURE_VERSION_1,
        };
        let session = Arc::new(Session::new(activation).unwrap());
        let (served, server) = (Arc::clone(&session), folder.server());
        let thread = std::thread::spawn(move || {
            sys::leave_process_directory().unwrap();
            served.serve(&server).unwrap();
        });
        Self { memory, session, kick, thread: Some(thread), requests: 0 }
    }

    fn put<T: vm_memory::ByteValued>(&self, value: T, at: u64) {
        self.memory.write_obj(value, GuestAddress(at)).unwrap();
    }

    fn descriptor(&self, table: u64, index: u16, address: u64, bytes: u32, flags: u16, next: u16) {
        let at = table + u64::from(index) * 16;
        self.put(address, at);
        self.put(bytes, at + 8);
        self.put(flags, at + 12);
        self.put(next, at + 14);
    }

    /// Offers the chain that begins at `head`.
    fn offer(&mut self, head: u16) {
        self.put(head, AVAIL + 4 + u64::from(self.requests % SIZE) * 2);
        self.requests = self.requests.wrapping_add(1);
        self.put(self.requests, AVAIL + 2);
        self.kick.write(1).unwrap();
    }

    /// Waits for the answer to the last offer; its length.
    fn answer(&self) -> u32 {
        let begun = Instant::now();
        while self.memory.read_obj::<u16>(GuestAddress(USED + 2)).unwrap() != self.requests {
            assert!(begun.elapsed() < Duration::from_secs(30), "no answer");
            assert!(!self.thread.as_ref().unwrap().is_finished(), "the thread has ended");
            std::thread::yield_now();
        }
        let slot = u64::from(self.requests.wrapping_sub(1) % SIZE);
        self.memory.read_obj(GuestAddress(USED + 4 + slot * 8 + 4)).unwrap()
    }

    /// Sends a message as a driver should, with room for `room` bytes of reply; the reply.
    fn send(&mut self, message: &[u8], room: u32) -> Vec<u8> {
        self.memory.write_slice(message, GuestAddress(MESSAGE)).unwrap();
        let flags = if room > 0 { NEXT } else { 0 };
        self.descriptor(TABLE, 0, MESSAGE, message.len() as u32, flags, 1);
        self.descriptor(TABLE, 1, REPLY, room, WRITE, 0);
        self.offer(0);
        let bytes = self.answer();
        assert!(bytes <= room, "{bytes} bytes for {room}");
        let mut reply = vec![0; bytes as usize];
        self.memory.read_slice(&mut reply, GuestAddress(REPLY)).unwrap();
        reply
    }

    /// Mounts, looks at the file and reads it: the device serves. The numbers that it has given.
    fn works(&mut self) -> Known {
        assert_eq!(error(&self.send(&init(), 4096)), 0);
        let entry = self.send(&message(LOOKUP, ROOT, b"file\0"), 4096);
        assert_eq!(error(&entry), 0);
        let node = number(&entry, 16);
        let opened = self.send(&message(OPEN, node, &[0; 8]), 4096);
        assert_eq!(error(&opened), 0);
        let handle = number(&opened, 16);
        let read = self.send(&message(READ, node, &read_in(handle, 0, 100)), 4096);
        assert_eq!(error(&read), 0);
        let folder = self.send(&message(OPENDIR, ROOT, &words(&[0, 0])), 4096);
        assert_eq!(error(&folder), 0);
        Known { node, handle, folder: number(&folder, 16) }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.session.end();
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the thread has panicked");
    }
}

/// What a driver knows of the server after [`Driver::works`].
#[derive(Clone, Copy)]
struct Known {
    /// Node and handle of the file.
    node: u64,
    handle: u64,
    /// Handle of the shared folder.
    folder: u64,
}

/// Rounds of the tests by chance, and where their numbers begin: `RKVM_FUZZ=ROUNDS,SEED` for longer runs.
fn chance(rounds: u64) -> (u64, Numbers) {
    let given = std::env::var("RKVM_FUZZ").unwrap_or_default();
    let mut given = given.split(',').filter_map(|number| number.parse().ok());
    (given.next().unwrap_or(rounds), Numbers(given.next().unwrap_or(0x5eed)))
}

const ROOT: u64 = 1;
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const OPEN: u32 = 14;
const READ: u32 = 15;
const OPENDIR: u32 = 27;
const FALLOCATE: u32 = 43;

/// A message: header and body.
fn message(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((40 + body.len() as u32).to_le_bytes());
    bytes.extend(opcode.to_le_bytes());
    bytes.extend(0x1234_u64.to_le_bytes());
    bytes.extend(node.to_le_bytes());
    bytes.extend([0; 16]); // user, group, process, length of extensions
    bytes.extend(body);
    bytes
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn init() -> Vec<u8> {
    message(26, 0, &[words(&[7, 38, 1 << 17, u32::MAX]), words(&[u32::MAX; 12])].concat())
}

fn read_in(handle: u64, offset: u64, bytes: u32) -> Vec<u8> {
    [longs(&[handle, offset]), words(&[bytes, 0]), longs(&[0]), words(&[0, 0])].concat()
}

fn number(reply: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(reply[at..at + 8].try_into().unwrap())
}

fn error(reply: &[u8]) -> i32 {
    assert!(reply.len() >= 16, "a reply of {} bytes", reply.len());
    -i32::from_le_bytes(reply[4..8].try_into().unwrap())
}

/// One sensible message of every kind.
fn messages(known: Known) -> Vec<Vec<u8>> {
    let Known { node, handle, folder } = known;
    let name = |name: &[u8]| [name, b"\0"].concat();
    vec![
        init(),
        message(LOOKUP, ROOT, &name(b"folder")),
        message(LOOKUP, ROOT, &name(b"..")),
        message(LOOKUP, ROOT, &name(b"../secret")),
        message(LOOKUP, ROOT, &name(b"/etc/passwd")),
        message(LOOKUP, ROOT, &name(b"link")),
        message(FORGET, node, &longs(&[1])),
        message(42, 0, &[words(&[2, 0]), longs(&[node, 1, 3, u64::MAX])].concat()),
        message(3, node, &longs(&[1, handle])),
        message(4, node, &[words(&[0x1ff, 0]), longs(&[handle, 1000, 0, 0, 0, 0]), words(&[0; 8])].concat()),
        message(5, node + 1, &[]),
        message(6, ROOT, &[name(b"new-link"), name(b"../secret")].concat()),
        message(8, ROOT, &[words(&[0o100_644, 0, 0, 0]), name(b"node")].concat()),
        message(8, ROOT, &[words(&[0o060_644, 0x801, 0, 0]), name(b"../device")].concat()),
        message(9, ROOT, &[words(&[0o755, 0]), name(b"new-folder")].concat()),
        message(10, ROOT, &name(b"node")),
        message(11, ROOT, &name(b"new-folder")),
        message(12, ROOT, &[longs(&[ROOT]), name(b"file"), name(b"renamed")].concat()),
        message(45, ROOT, &[longs(&[ROOT]), words(&[2, 0]), name(b"renamed"), name(b"../secret")].concat()),
        message(13, ROOT, &[longs(&[node]), name(b"hard")].concat()),
        message(OPEN, node, &words(&[2, 0])),
        message(READ, node, &read_in(handle, 0, 4096)),
        message(
            16,
            node,
            &[longs(&[handle, 0]), words(&[5, 0]), longs(&[0]), words(&[0, 0]), b"bytes".to_vec()].concat(),
        ),
        message(17, ROOT, &[]),
        message(18, node, &[longs(&[handle]), words(&[0, 0]), longs(&[0])].concat()),
        message(20, node, &[longs(&[handle]), words(&[1, 0])].concat()),
        message(21, node, &[words(&[1, 0, 0, 0]), name(b"user.x"), b"y".to_vec()].concat()),
        message(22, node, &[words(&[100, 0]), name(b"user.x")].concat()),
        message(23, node, &words(&[100, 0])),
        message(24, node, &name(b"user.x")),
        message(25, node, &longs(&[handle, 0, 0])),
        message(OPENDIR, ROOT, &words(&[0, 0])),
        message(28, ROOT, &read_in(folder, 0, 4000)),
        message(44, ROOT, &read_in(folder, 0, 4000)),
        message(29, ROOT, &[longs(&[folder]), words(&[0, 0]), longs(&[0])].concat()),
        message(30, ROOT, &[longs(&[folder]), words(&[0, 0])].concat()),
        message(31, node, &[0; 48]),
        message(32, node, &[0; 48]),
        message(34, node, &words(&[7, 0])),
        message(35, ROOT, &[words(&[0o102, 0o644, 0, 0]), name(b"created")].concat()),
        message(36, 0, &longs(&[5])),
        message(38, 0, &[]),
        message(39, node, &[0; 32]),
        message(40, node, &[0; 24]),
        message(FALLOCATE, node, &[longs(&[handle, 0, 4096]), words(&[0, 0])].concat()),
        message(46, node, &[longs(&[handle, 3]), words(&[4, 0])].concat()),
        message(47, node, &longs(&[handle, 0, node, handle, 8, 10, 0])),
        message(48, node, &[0; 40]),
        message(51, ROOT, &[words(&[0o102, 0o644, 0, 0]), name(b"x")].concat()),
    ]
}

/// Changes a message: bytes, words, its length.
fn mutate(message: &mut Vec<u8>, known: Known, numbers: &mut Numbers) {
    for _ in 0..=numbers.below(3) {
        let length = message.len();
        match numbers.below(6) {
            0 => message[numbers.below(length)] = numbers.next() as u8,
            1 => {
                let (at, value) = (numbers.below(length) & !3, numbers.awkward() as u32);
                message[at..length.min(at + 4)].copy_from_slice(&value.to_le_bytes()[..4.min(length - at)]);
            }
            2 => {
                let (at, value) = (numbers.below(length) & !7, numbers.awkward());
                message[at..length.min(at + 8)].copy_from_slice(&value.to_le_bytes()[..8.min(length - at)]);
            }
            3 => message.truncate(numbers.below(length).max(1)),
            4 => message.extend(vec![numbers.next() as u8; numbers.below(64)]),
            // Nodes and handles that exist, and their neighbours.
            _ if length >= 48 => {
                let node = known.node.wrapping_add(numbers.next() % 12).wrapping_sub(2);
                let handle = known.handle.wrapping_add(numbers.next() % 12).wrapping_sub(2);
                message[16..24].copy_from_slice(&node.to_le_bytes());
                message[40..48].copy_from_slice(&handle.to_le_bytes());
            }
            _ => {}
        }
    }
    // The host's disk is not to be filled by a test: allocations stay small.
    if message.get(4..8) == Some(&FALLOCATE.to_le_bytes()) && message.len() >= 64 {
        message[48..64].copy_from_slice(&longs(&[numbers.next() % 5000, numbers.next() % 5000])[..16]);
    }
}

fn one_of(mut messages: Vec<Vec<u8>>, numbers: &mut Numbers) -> Vec<u8> {
    messages.swap_remove(numbers.below(messages.len()))
}

#[test]
fn serves_what_a_driver_should_send() {
    let folder = Folder::new();
    let mut driver = Driver::new(&folder);
    driver.works();
    let entry = driver.send(&message(LOOKUP, ROOT, b"folder\0"), 4096);
    assert_eq!(error(&entry), 0);
    for name in [&b"..\0"[..], b".\0", b"\0", b"../secret\0", b"/etc/passwd\0", b"folder/inner\0"] {
        assert_eq!(error(&driver.send(&message(LOOKUP, ROOT, name), 4096)), libc::EINVAL);
    }
    assert_eq!(error(&driver.send(&message(LOOKUP, number(&entry, 16), b"..\0"), 4096)), libc::EINVAL);
    // A device node, in the folder and above it.
    for name in [&b"disk\0"[..], b"../disk\0"] {
        let body = [words(&[0o060_644, 0x801, 0, 0]), name.to_vec()].concat();
        assert_eq!(error(&driver.send(&message(8, ROOT, &body), 4096)), libc::EPERM);
    }
    folder.check();
}

#[test]
fn numbers_on_which_the_library_would_panic_are_refused() {
    let folder = Folder::new();
    let mut driver = Driver::new(&folder);
    let Known { node, handle, .. } = driver.works();
    for offset in [i64::MAX as u64, 1 << 63, u64::MAX] {
        assert_eq!(
            error(&driver.send(&message(READ, node, &read_in(handle, offset, 4096)), 8192)),
            libc::EINVAL
        );
    }
    // Less room than a reply's header has.
    for opcode in [READ, 28, 44, LOOKUP] {
        for room in 0..16 {
            assert_eq!(driver.send(&message(opcode, node, &read_in(handle, 0, 0)), room), [0; 0]);
        }
    }
    // Messages that contradict themselves are answered, so that nobody waits for ever.
    let mut short = message(LOOKUP, ROOT, b"file\0");
    short[0] = 3;
    assert_eq!(error(&driver.send(&short, 4096)), libc::EINVAL);
    driver.works();
}

#[test]
fn mutated_messages_neither_stop_the_device_nor_leave_the_folder() {
    let folder = Folder::new();
    let mut driver = Driver::new(&folder);
    let (rounds, mut numbers) = chance(12_000);
    let mut known = driver.works();
    for round in 0..rounds {
        if round % 200 == 0 {
            // The names that earlier rounds may have removed or renamed.
            let share = folder.0.path().join("share");
            let _ = fs::remove_file(share.join("file"));
            let _ = fs::write(share.join("file"), b"content of the file");
            known = driver.works();
        }
        let mut message = one_of(messages(known), &mut numbers);
        if numbers.below(4) > 0 {
            mutate(&mut message, known, &mut numbers);
        }
        let room = [0, 8, 16, 24, 144, 160, 4096, 70_000][numbers.below(8)];
        driver.send(&message, room);
    }
    folder.check();
}

#[test]
fn hostile_chains_neither_stop_the_device_nor_leave_memory() {
    let folder = Folder::new();
    let mut driver = Driver::new(&folder);
    let known = driver.works();
    let (rounds, mut numbers) = chance(4_000);
    for _ in 0..rounds {
        let mut message = one_of(messages(known), &mut numbers);
        if numbers.below(2) == 0 {
            mutate(&mut message, known, &mut numbers);
        }
        driver.memory.write_slice(&message, GuestAddress(MESSAGE)).unwrap();
        // Tables of chance: loops, ends beyond the table, addresses and lengths beyond memory, any order of kinds.
        for table in [TABLE, INDIRECT] {
            for index in 0..SIZE {
                let address = match numbers.below(5) {
                    0 => numbers.awkward(),
                    1 => MESSAGE,
                    2 => MESSAGE + numbers.next() % 64,
                    3 => MEMORY - numbers.next() % 32,
                    _ => REPLY,
                };
                let bytes = [message.len() as u32, numbers.awkward() as u32, 40, 16, 4096][numbers.below(5)];
                let flags =
                    [NEXT, NEXT | WRITE, WRITE, 0, INDIRECT_FLAG, numbers.next() as u16][numbers.below(6)];
                let address =
                    if flags & INDIRECT_FLAG != 0 && numbers.below(2) == 0 { INDIRECT } else { address };
                let bytes = if flags & INDIRECT_FLAG != 0 { (bytes & !15).min(16 * 16) } else { bytes };
                driver.descriptor(table, index, address, bytes, flags, numbers.below(18) as u16);
            }
        }
        if numbers.below(3) == 0 {
            // A chain that begins as it should.
            driver.descriptor(TABLE, 0, MESSAGE, message.len() as u32, NEXT, 1);
        }
        driver.offer(numbers.below(SIZE as usize) as u16);
        driver.answer();
    }
    fs::write(folder.0.path().join("share/file"), b"content of the file").unwrap();
    driver.works();
    folder.check();
}

#[test]
fn a_ring_that_claims_more_than_it_holds_costs_no_time() {
    let folder = Folder::new();
    let mut driver = Driver::new(&folder);
    driver.works();
    // 1000 requests ahead in a ring of 16, and heads beyond the table.
    driver.put(driver.requests.wrapping_add(1000), AVAIL + 2);
    driver.kick.write(1).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let before = sys::thread_time(driver.thread.as_ref().unwrap());
    std::thread::sleep(Duration::from_millis(200));
    let spent = sys::thread_time(driver.thread.as_ref().unwrap()) - before;
    assert!(spent < Duration::from_millis(100), "{spent:?} spent on nothing");
    // The driver that mends its ring is served again.
    driver.put(driver.requests, AVAIL + 2);
    driver.works();
}

#[test]
fn chains_longer_than_any_request_are_turned_away() {
    let folder = Folder::new();
    let mut driver = Driver::new(&folder);
    let Known { node, handle, .. } = driver.works();
    // An indirect table whose descriptors all name the same two megabytes.
    let write =
        message(16, node, &[longs(&[handle, 0]), words(&[1 << 20, 0]), longs(&[0]), words(&[0, 0])].concat());
    driver.memory.write_slice(&write, GuestAddress(MESSAGE)).unwrap();
    const ENTRIES: u16 = 256;
    driver.descriptor(INDIRECT, 0, MESSAGE, write.len() as u32, NEXT, 1);
    for index in 1..ENTRIES {
        driver.descriptor(INDIRECT, index, MESSAGE, 2 << 20, NEXT, index + 1);
    }
    driver.descriptor(INDIRECT, ENTRIES, REPLY, 4096, WRITE, 0);
    driver.descriptor(TABLE, 0, INDIRECT, u32::from(ENTRIES + 1) * 16, INDIRECT_FLAG, 0);
    driver.offer(0);
    assert_eq!(driver.answer(), 0);
    assert_eq!(fs::metadata(folder.0.path().join("share/file")).unwrap().len(), 19);
    driver.works();
}

#[test]
fn a_session_that_has_ended_answers_nothing() {
    let folder = Folder::new();
    let mut driver = Driver::new(&folder);
    driver.works();
    driver.session.end();
    driver.memory.write_slice(&message(LOOKUP, ROOT, b"file\0"), GuestAddress(MESSAGE)).unwrap();
    let answered: u16 = driver.memory.read_obj(GuestAddress(USED + 2)).unwrap();
    driver.offer(0);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(driver.memory.read_obj::<u16>(GuestAddress(USED + 2)).unwrap(), answered);
}

#[test]
fn a_device_that_is_dropped_ends_its_threads() {
    let folder = Folder::new();
    let share = Share { root: folder.0.path().join("share"), proc_self_fd: None };
    let device = Fs::open(&share).unwrap();
    assert_eq!(&device.config()[..5], b"rkvm\0");
    device.pool.start(WORKERS, || sys::leave_process_directory().is_ok()).unwrap();
    let threads = device.pool.threads();
    drop(device);
    let begun = Instant::now();
    while threads.strong_count() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "a thread is left");
        std::thread::yield_now();
    }
}

#[test]
fn the_umask_of_the_process_stays() {
    let folder = Folder::new();
    let before = fs::File::create(folder.0.path().join("before")).unwrap().metadata().unwrap().permissions();
    let device = Fs::open(&Share { root: folder.0.path().join("share"), proc_self_fd: None }).unwrap();
    let after = fs::File::create(folder.0.path().join("after")).unwrap().metadata().unwrap().permissions();
    assert_eq!(before, after);
    drop(device);
}
