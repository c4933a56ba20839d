//! What a driver of each device knows, for one that means harm.

use std::os::unix::fs::FileExt;

use rustix::thread::{CapabilitySet as Cap, CapabilitySets};

use super::hostile::{Knowledge, Part, Random};
use crate::virtio::block::{Access, Block};
use crate::vm::ThreadSetup;

pub(crate) const ENTROPY: Knowledge = Knowledge {
    content: noise,
    shapes: &[&[Part::Writable(64)], &[Part::Writable(8), Part::Writable(4000)]],
};

pub(crate) const BLOCK: Knowledge = Knowledge {
    content: block_header,
    shapes: &[
        &[Part::Readable(16), Part::Readable(512), Part::Writable(1)],
        &[Part::Readable(16), Part::Writable(4096), Part::Writable(512), Part::Writable(1)],
        &[Part::Readable(16), Part::Writable(1)],
        &[Part::Readable(32), Part::Writable(1)],
        &[Part::Readable(16), Part::Readable(8192), Part::Writable(1)],
        &[Part::Readable(16), Part::Writable(20), Part::Writable(1)],
    ],
};

pub(crate) const BALLOON: Knowledge = Knowledge {
    content: page_numbers,
    shapes: &[&[Part::Content], &[Part::Writable(4096), Part::Writable(0x10000)], &[Part::Readable(1024)]],
};

pub(crate) const CONSOLE: Knowledge = Knowledge {
    content: noise,
    shapes: &[&[Part::Writable(100)], &[Part::Content, Part::Readable(200)], &[Part::Content]],
};

pub(crate) const SOCKETS: Knowledge = Knowledge {
    content: socket_packet,
    shapes: &[
        &[Part::Writable(44), Part::Writable(4096)],
        &[Part::Writable(4140)],
        &[Part::Readable(44)],
        &[Part::Readable(44), Part::Readable(64)],
        &[Part::Readable(44), Part::Readable(4096)],
    ],
};

pub(crate) const FILES: Knowledge = Knowledge {
    content: file_request,
    shapes: &[
        &[Part::Readable(96), Part::Writable(4096)],
        &[Part::Readable(40), Part::Readable(56), Part::Writable(160)],
        &[Part::Readable(96), Part::Writable(16), Part::Writable(8192)],
        &[Part::Readable(48), Part::Writable(16)],
    ],
};

pub(crate) const PACKETS: Knowledge = Knowledge {
    content: |random| (0..random.below(200)).map(|_| random.next() as u8).collect(),
    shapes: &[
        &[Part::Writable(1526)],
        &[Part::Writable(12), Part::Writable(65536)],
        &[Part::Content],
        &[Part::Readable(12), Part::Readable(1400)],
    ],
};

fn noise(random: &mut Random) -> Vec<u8> {
    (0..random.below(96)).map(|_| random.next() as u8).collect()
}

fn block_header(random: &mut Random) -> Vec<u8> {
    let kind = random.below(15) as u32;
    let sector = if random.one_in(4) { random.next() } else { random.below(70) };
    let mut bytes = [kind.to_le_bytes(), [0; 4]].concat();
    bytes.extend(sector.to_le_bytes());
    // Of a discard: sector, count, flags.
    bytes.extend(random.below(70).to_le_bytes());
    bytes.extend((random.below(70) as u32).to_le_bytes());
    bytes.extend((random.below(3) as u32).to_le_bytes());
    bytes
}

fn page_numbers(random: &mut Random) -> Vec<u8> {
    let number = |random: &mut Random| match random.below(4) {
        0 => random.next() as u32,
        1 => u32::MAX,
        _ => random.below(0x400) as u32,
    };
    (0..random.below(64)).flat_map(|_| number(random).to_le_bytes()).collect()
}

fn socket_packet(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((if random.one_in(8) { random.next() } else { 3 }).to_le_bytes());
    bytes.extend((if random.one_in(8) { random.next() } else { 2 }).to_le_bytes());
    bytes.extend((random.below(4) as u32).to_le_bytes());
    bytes.extend((random.pick(&[1023_u32, 1024, 1025, 7, u32::MAX])).to_le_bytes());
    bytes.extend((random.pick(&[0_u32, 1, 64, 4096, u32::MAX])).to_le_bytes());
    bytes.extend((random.pick(&[1_u16, 1, 1, 2])).to_le_bytes());
    bytes.extend((random.below(9) as u16).to_le_bytes());
    bytes.extend((random.below(4) as u32).to_le_bytes());
    bytes.extend((random.next() as u32 >> random.below(32)).to_le_bytes());
    bytes.extend((random.next() as u32 >> random.below(32)).to_le_bytes());
    bytes.extend(noise(random));
    bytes
}

/// Every request of the protocol but MKNOD: the server has the right to everything but device nodes, and so has this test.
fn file_request(random: &mut Random) -> Vec<u8> {
    const MKNOD: u32 = 8;
    let operation = match random.below(52) as u32 {
        MKNOD => 1,
        operation => operation,
    };
    let length = if random.one_in(6) { random.next() as u32 >> random.below(32) } else { 96 };
    let mut bytes = [length.to_le_bytes(), operation.to_le_bytes()].concat();
    bytes.extend(random.next().to_le_bytes());
    bytes.extend((if random.one_in(6) { random.next() } else { 1 + random.below(4) }).to_le_bytes());
    // User and group, process.
    bytes.extend([0; 16]);
    while bytes.len() < 96 {
        match random.below(5) {
            0 => bytes.extend(random.pick(&[
                &b"a\0"[..],
                b"b\0",
                b"..\0",
                b"../outside\0",
                b"a/../../outside\0",
                b"no-zero",
            ])),
            1 => bytes.extend(random.below(8).to_le_bytes()),
            2 => bytes.extend(random.next().to_le_bytes()),
            3 => bytes.extend((random.next() as u32 >> random.below(32)).to_le_bytes()),
            _ => bytes.extend([0; 8]),
        }
    }
    bytes
}

pub(crate) fn disk(sectors: u64) -> (tempfile::NamedTempFile, Block) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let content: Vec<u8> = (0..sectors * 512).map(|at| (at / 512) as u8).collect();
    file.as_file().write_all_at(&content, 0).unwrap();
    let block = Block::open(file.path(), Access::ReadWrite, "test").unwrap();
    (file, block)
}

/// Threads of the file server with the privileges that it needs and no other, if this process has them.
pub(crate) fn file_server() -> Option<ThreadSetup> {
    let kept = Cap::CHOWN
        | Cap::DAC_OVERRIDE
        | Cap::DAC_READ_SEARCH
        | Cap::FOWNER
        | Cap::FSETID
        | Cap::SETGID
        | Cap::SETUID;
    let setup = ThreadSetup::of(move |_| {
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: Cap::empty() };
        Ok(rustix::thread::set_capabilities(None, sets)?)
    });
    rustix::thread::capabilities(None).unwrap().effective.contains(kept).then_some(setup)
}
