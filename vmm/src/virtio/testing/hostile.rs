//! A driver that means harm: rings, chains, indexes, registers and configuration of every wrong kind, from a seed.

use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_STATUS};
use vm_memory::{Bytes, GuestAddress};

use super::{BUFFERS, HIGH_END, HIGH_START, LOW_END, Rig, Ring};
use crate::virtio::{FEATURE_VERSION_1, VirtioDevice};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Rounds of a test run; `RKVM_FUZZ_ROUNDS` asks for more.
const DEFAULT_ROUNDS: u64 = 150;
/// A round that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);
const CONFIG: u64 = 0x100;

/// Numbers from a fuzzer's input, and from a seed (xorshift64*) when there is none or no more.
pub(crate) struct Random {
    state: u64,
    input: std::vec::IntoIter<u8>,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, input: vec![].into_iter() }
    }

    /// What `input` says, in as few bytes as a choice needs, so that a changed byte is another choice.
    pub(crate) fn from_input(input: &[u8]) -> Self {
        Self { input: Vec::from(input).into_iter(), ..Self::new(1) }
    }

    /// Whether everything that the fuzzer has said is done.
    pub(crate) fn is_empty(&self) -> bool {
        self.input.as_slice().is_empty()
    }

    fn take(&mut self, bytes: usize) -> Option<u64> {
        let enough = self.input.len() >= bytes;
        enough.then(|| self.input.by_ref().take(bytes).fold(0, |value, byte| value << 8 | u64::from(byte)))
    }

    pub(crate) fn next(&mut self) -> u64 {
        if let Some(value) = self.take(8) {
            return value;
        }
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        let value = match end {
            0..=0x100 => self.take(1),
            0x101..=0x1_0000 => self.take(2),
            _ => None,
        };
        value.unwrap_or_else(|| self.next() >> 16) % end
    }

    pub(crate) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// What a driver of this device knows, so that a good part of the harm gets past the first check.
#[derive(Clone, Copy)]
pub(crate) struct Knowledge {
    /// What it writes into the buffers that a device reads.
    pub(crate) content: fn(&mut Random) -> Vec<u8>,
    /// What chains look like.
    pub(crate) shapes: &'static [&'static [Part]],
}

/// A descriptor of a chain as it should be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// Content, for the device to read.
    Content,
    /// So many bytes for the device to read; those of a content that lies there, and noise.
    Readable(u32),
    /// So many bytes for the device to write.
    Writable(u32),
}

/// Harms `device` round after round; then it must still serve a driver that `works`.
pub(crate) fn run(device: impl VirtioDevice + 'static, knows: Knowledge, works: impl Fn(&mut Rig)) {
    run_in(Rig::new(device), knows, works);
}

/// As [`run`], with a device that is in place.
pub(crate) fn run_in(mut rig: Rig, knows: Knowledge, works: impl Fn(&mut Rig)) {
    let rounds = match std::env::var("RKVM_FUZZ_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("RKVM_FUZZ_ROUNDS is a number"),
        Err(_) => DEFAULT_ROUNDS,
    };
    let first = match std::env::var("RKVM_FUZZ_SEED") {
        Ok(seed) => seed.parse().expect("RKVM_FUZZ_SEED is a number"),
        Err(_) => 1,
    };
    works(&mut rig);
    let watchdog = Watchdog::new();
    for seed in first..first + rounds {
        watchdog.begin(seed);
        let seen = Seen(seed);
        let mut random = Random::new(seed);
        round(&mut rig, &mut random, knows);
        if random.one_in(8) {
            works(&mut rig);
        }
        std::mem::forget(seen);
    }
    rig.reset();
    works(&mut rig);
}

/// Names the seed of a round that fails.
struct Seen(u64);

impl Drop for Seen {
    fn drop(&mut self) {
        eprintln!("RKVM_FUZZ_SEED={} RKVM_FUZZ_ROUNDS=1 repeats it", self.0);
    }
}

/// Ends the process when a round does not end.
struct Watchdog(mpsc::Sender<u64>);

impl Watchdog {
    fn new() -> Self {
        let (begin, begun) = mpsc::channel();
        thread::spawn(move || {
            let mut seed = 0;
            loop {
                match begun.recv_timeout(LIMIT) {
                    Ok(next) => seed = next,
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        let _ = writeln!(
                            std::io::stderr(),
                            "a round hangs: RKVM_FUZZ_SEED={seed} RKVM_FUZZ_ROUNDS=1 repeats it"
                        );
                        std::process::abort();
                    }
                }
            }
        });
        Self(begin)
    }

    fn begin(&self, seed: u64) {
        self.0.send(seed).unwrap();
    }
}

/// One round of what `random` says.
pub(crate) fn round(rig: &mut Rig, random: &mut Random, knows: Knowledge) {
    let rings = match random.below(8) {
        0 => {
            rig.reset();
            registers(rig, random);
            (0..rig.queue_count()).map(|index| Ring::new(index, rig.queue_max(index))).collect()
        }
        1 | 2 => wrong_queues(rig, random),
        _ => {
            let size = 1 << random.below(11);
            let features = random.next() | random.next() & random.next();
            rig.start(features, size)
        }
    };
    for _ in 0..1 + random.below(4) {
        buffers(rig, random, knows);
        for (index, ring) in rings.iter().enumerate() {
            chains(rig, random, ring, knows);
            rig.notify(index);
        }
        if random.one_in(3) {
            // Changed under the device's eyes.
            rings.iter().for_each(|ring| chains(rig, random, ring, knows));
        } else {
            rig.settle();
        }
        configuration(rig, random);
        if random.one_in(16) {
            registers(rig, random);
        }
        rig.interrupted();
    }
    rig.settle();
    if random.one_in(2) {
        silent_after_reset(rig);
    }
}

/// A device that has been reset writes nothing more.
fn silent_after_reset(rig: &mut Rig) {
    rig.reset();
    let snapshot = |rig: &Rig| {
        let mut low = vec![0; LOW_END as usize];
        rig.memory.read_slice(&mut low, GuestAddress(0)).unwrap();
        low
    };
    let before = snapshot(rig);
    (0..rig.queue_count()).for_each(|index| rig.notify(index));
    rig.settle();
    assert!(before == snapshot(rig), "a device that has been reset wrote to the guest's memory");
}

/// A proper start, except that rings are where they should not be, or of sizes that do not exist.
fn wrong_queues(rig: &mut Rig, random: &mut Random) -> Vec<Ring> {
    let features = rig.offered() & random.next() | FEATURE_VERSION_1;
    rig.agree(features);
    let rings: Vec<Ring> = (0..rig.queue_count())
        .map(|index| {
            let mut ring = Ring::new(index, rig.queue_max(index) >> random.below(4));
            match random.below(8) {
                0 => ring.descriptors = address(random),
                1 => ring.available = address(random),
                2 => ring.used = address(random),
                3 => ring.used = ring.descriptors,
                4 => (ring.available, ring.used) = (LOW_END - 64, LOW_END - 32),
                _ => {}
            }
            ring
        })
        .collect();
    for (index, ring) in rings.iter().enumerate() {
        if !random.one_in(16) {
            rig.set_queue(index, ring);
        }
    }
    rig.write(VIRTIO_MMIO_STATUS, 0xf);
    // What follows writes rings where a driver can.
    rings.into_iter().enumerate().map(|(index, ring)| Ring::new(index, ring.size.max(1))).collect()
}

/// An address of the kind that breaks things.
pub(crate) fn address(random: &mut Random) -> u64 {
    match random.below(12) {
        0 => LOW_END - random.below(64),
        1 => LOW_END + random.below(64),
        2 => HIGH_START - random.below(64),
        3 => HIGH_END - random.below(5000),
        4 => random.below(BUFFERS),
        5 => random.next(),
        6 => u64::MAX - random.below(64),
        7 => 1 << random.below(64),
        _ => BUFFERS + random.below(LOW_END - BUFFERS),
    }
}

fn length(random: &mut Random) -> u32 {
    match random.below(10) {
        0 => 0,
        1 => random.next() as u32,
        2 => u32::MAX - random.below(16) as u32,
        3 => 1 << random.below(32),
        4 => 1,
        5 => random.below(20) as u32,
        6 => 512 * random.below(17) as u32,
        7 => 44 + random.below(64) as u32,
        _ => random.below(70_000) as u32,
    }
}

/// Where contents lie; as many of them as there are are made new before each burst.
const SLOTS: u64 = 32;
const SLOT: u64 = 0x4000;

fn slot(random: &mut Random) -> u64 {
    BUFFERS + random.below(SLOTS) * SLOT
}

/// Fills memory with what devices take for requests.
fn buffers(rig: &Rig, random: &mut Random, knows: Knowledge) {
    for slot in 0..SLOTS {
        let bytes = (knows.content)(random);
        rig.memory.write_slice(&bytes, GuestAddress(BUFFERS + slot * SLOT)).unwrap();
    }
}

/// Writes descriptors, heads and an index.
fn chains(rig: &Rig, random: &mut Random, ring: &Ring, knows: Knowledge) {
    let size = ring.size;
    let mut heads = Vec::new();
    let mut next = 0;
    while next < size.min(48) {
        heads.push(next);
        next = match random.one_in(3) {
            true => random_chain(rig, random, ring, next),
            false => {
                let shape = random.pick(knows.shapes);
                shaped_chain(rig, random, ring, next, shape)
            }
        };
    }
    let count = random.below(u64::from(size.min(24)) + 1) as u16;
    let before = ring.used_index(&rig.memory);
    for slot in 0..count {
        let head = if random.one_in(64) { random.next() as u16 } else { random.pick(&heads) };
        let at = ring.available + 4 + 2 * u64::from(before.wrapping_add(slot) % size);
        rig.memory.write_obj(head, GuestAddress(at)).unwrap();
    }
    let index = match random.below(40) {
        0 => random.next() as u16,
        1 => before.wrapping_sub(1),
        2 => before.wrapping_add(size),
        _ => before.wrapping_add(count),
    };
    ring.write_index(&rig.memory, index);
    if random.one_in(3) {
        ring.want_interrupt_after(&rig.memory, random.next() as u16);
    }
}

/// A chain from `first` on that is as it should be, or wrong in one place; the next free descriptor.
fn shaped_chain(rig: &Rig, random: &mut Random, ring: &Ring, first: u16, shape: &[Part]) -> u16 {
    let wrong = random.below(3 * shape.len() as u64);
    let mut index = first;
    for (position, part) in shape.iter().enumerate() {
        let (mut length, mut flags) = match *part {
            Part::Content => (96, 0),
            Part::Readable(bytes) => (bytes, 0),
            Part::Writable(bytes) => (bytes, WRITE),
        };
        let mut at = slot(random);
        let mut next = (index + 1) % ring.size;
        if position + 1 < shape.len() {
            flags |= NEXT;
        }
        if wrong == position as u64 {
            match random.below(5) {
                0 => at = address(random),
                1 => length = self::length(random),
                2 => flags ^= 1 << random.below(3),
                3 => next = random.next() as u16,
                _ => flags = random.next() as u16,
            }
        }
        ring.write_descriptor(&rig.memory, index, at, length, flags, next);
        index = next_index(index, ring);
    }
    // Behind the end of the table it begins again: chains that overlap are harm too.
    first + shape.len() as u16
}

fn next_index(index: u16, ring: &Ring) -> u16 {
    (index + 1) % ring.size
}

/// A chain in which nothing is sure.
fn random_chain(rig: &Rig, random: &mut Random, ring: &Ring, first: u16) -> u16 {
    let count = 1 + random.below(8) as u16;
    let mut index = first;
    for _ in 0..count {
        let next = if random.one_in(8) { random.next() as u16 } else { next_index(index, ring) };
        let mut flags = random.below(4) as u16;
        if random.one_in(12) {
            flags = random.next() as u16;
        }
        let (mut at, mut length) = (address(random), length(random));
        if random.one_in(6) {
            flags |= INDIRECT;
            at = slot(random) + 0x2000;
            length = if random.one_in(4) { length } else { 16 * random.below(64) as u32 };
            table(rig, random, at);
        }
        ring.write_descriptor(&rig.memory, index, at, length, flags, next);
        index = next_index(index, ring);
    }
    first + count
}

/// An indirect table, sometimes with tables or loops in it.
fn table(rig: &Rig, random: &mut Random, at: u64) {
    for index in 0..8 {
        let mut flags = random.below(4) as u16 | NEXT;
        if random.one_in(10) {
            flags |= INDIRECT;
        }
        let next = if random.one_in(6) { random.next() as u16 } else { index + 1 };
        let rest = u64::from(length(random)) | u64::from(flags) << 32 | u64::from(next) << 48;
        let descriptor = [address(random), rest];
        rig.memory.write_obj(descriptor, GuestAddress(at + 16 * u64::from(index))).unwrap();
    }
}

/// Reads and writes of the configuration, of any width, anywhere.
pub(crate) fn configuration(rig: &mut Rig, random: &mut Random) {
    for _ in 0..random.below(8) {
        let offset = if random.one_in(4) { random.next() } else { CONFIG + random.below(80) };
        let mut data = vec![random.next() as u8; 1 + random.below(8) as usize];
        rig.transport.read(offset, &mut data);
        rig.transport.write(offset.max(CONFIG), &data);
    }
}

/// Writes and reads of registers in no order.
pub(crate) fn registers(rig: &mut Rig, random: &mut Random) {
    for _ in 0..random.below(64) {
        let register = match random.below(6) {
            0 => VIRTIO_MMIO_STATUS,
            1 => VIRTIO_MMIO_QUEUE_SEL,
            2 => VIRTIO_MMIO_QUEUE_NOTIFY,
            _ => 4 * random.below(64) as u32,
        };
        let value = match random.below(6) {
            0 => random.next() as u32,
            1 => random.pick(&[0, 1, 3, 0xb, 0xf, 0x40, 0x80, u32::MAX]),
            2 => random.below(4) as u32,
            3 => address(random) as u32,
            4 => 1 << random.below(32),
            _ => random.below(2048) as u32,
        };
        rig.write(register, value);
        rig.read(register);
        let mut odd = vec![0; 1 + random.below(8) as usize];
        rig.transport.read(random.below(CONFIG), &mut odd);
        if random.one_in(4) {
            rig.transport.write(random.below(CONFIG), &odd);
        }
    }
}
