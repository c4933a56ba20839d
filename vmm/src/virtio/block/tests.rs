//! Requests against a model of the disk, and media that fail or take their time.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc;

use proptest::prelude::*;
use virtio_bindings::virtio_blk::VIRTIO_BLK_S_OK;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::testing::devices::disk;
use crate::virtio::testing::{BUFFERS, Buffer, HIGH_START, Rig, Ring};

const SECTORS: u64 = 64;
const STATUS: u64 = BUFFERS + 0x100;
const DATA: u64 = HIGH_START;

/// One request with its data in pieces of `piece` bytes: (status, bytes written).
fn request(rig: &Rig, ring: &mut Ring, kind: u32, sector: u64, data: Data<'_>, piece: u32) -> (u8, u32) {
    rig.memory.write_obj([u64::from(kind), sector], GuestAddress(BUFFERS)).unwrap();
    rig.memory.write_obj(0xee_u8, GuestAddress(STATUS)).unwrap();
    let mut buffers = vec![Buffer::Readable(BUFFERS, 16)];
    let bytes = match data {
        Data::Out(bytes) => {
            rig.memory.write_slice(bytes, GuestAddress(DATA)).unwrap();
            bytes.len() as u32
        }
        Data::In(bytes) => bytes,
    };
    for at in (0..bytes).step_by(piece as usize) {
        let (address, length) = (DATA + u64::from(at), piece.min(bytes - at));
        buffers.push(match data {
            Data::Out(_) => Buffer::Readable(address, length),
            Data::In(_) => Buffer::Writable(address, length),
        });
    }
    buffers.push(Buffer::Writable(STATUS, 1));
    let head = ring.add(&rig.memory, &buffers);
    let (used, written) = rig.exchange(0, ring);
    assert_eq!(used, head);
    (rig.memory.read_obj(GuestAddress(STATUS)).unwrap(), written)
}

#[derive(Clone, Copy)]
enum Data<'a> {
    /// From the guest.
    Out(&'a [u8]),
    /// So many bytes to the guest.
    In(u32),
}

fn range(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
}

const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// Reads, writes and zeroings do what they do to an array, in pieces of any size, and nothing when they reach beyond the end.
    #[test]
    fn requests_do_what_they_do_to_an_array(
        steps in prop::collection::vec((0_u32..4, 0..SECTORS + 2, 1_u64..8, any::<u8>(), 1_u32..3000), 1..24),
    ) {
        let (file, block) = disk(SECTORS);
        let mut model: Vec<u8> = (0..SECTORS * 512).map(|at| (at / 512) as u8).collect();
        let mut rig = Rig::new(block);
        let ring = &mut rig.start(u64::MAX, 256)[0];
        for (kind, sector, count, byte, piece) in steps {
            let piece = piece.max(64);
            let bytes = (count * 512) as usize;
            let place = sector as usize * 512..sector as usize * 512 + bytes;
            let fits = place.end <= model.len();
            let status = if fits { OK } else { IOERR };
            match kind {
                0 => {
                    let (got, written) = request(&rig, ring, IN, sector, Data::In(bytes as u32), piece);
                    prop_assert_eq!((got, written), (status, if fits { bytes as u32 + 1 } else { 1 }));
                    if fits {
                        let mut data = vec![0; bytes];
                        rig.memory.read_slice(&mut data, GuestAddress(DATA)).unwrap();
                        prop_assert_eq!(&data, &model[place]);
                    }
                }
                1 => {
                    let data = vec![byte; bytes];
                    prop_assert_eq!(request(&rig, ring, OUT, sector, Data::Out(&data), piece), (status, 1));
                    if fits {
                        model[place].fill(byte);
                    }
                }
                2 => {
                    let data = range(sector, count as u32, u32::from(byte & 1));
                    let got = request(&rig, ring, WRITE_ZEROES, 0, Data::Out(&data), piece);
                    prop_assert_eq!(got, (status, 1));
                    if fits {
                        model[place].fill(0);
                    }
                }
                _ => prop_assert_eq!(request(&rig, ring, FLUSH, 0, Data::In(0), piece), (OK, 1)),
            }
        }
        let mut content = vec![0; model.len()];
        file.as_file().read_exact_at(&mut content, 0).unwrap();
        prop_assert!(content == model);
        prop_assert_eq!(file.as_file().metadata().unwrap().len(), SECTORS * 512);
    }
}

#[test]
fn requests_that_are_not_possible_are_refused_each_in_its_way() {
    let (_file, block) = disk(SECTORS);
    let mut rig = Rig::new(block);
    let ring = &mut rig.start(u64::MAX, 256)[0];
    assert_eq!(request(&rig, ring, 77, 0, Data::In(512), 512).0, UNSUPP);
    assert_eq!(request(&rig, ring, IN, 0, Data::In(100), 100).0, IOERR, "not whole sectors");
    assert_eq!(request(&rig, ring, IN, u64::MAX, Data::In(512), 512).0, IOERR);
    assert_eq!(
        request(&rig, ring, DISCARD, 0, Data::Out(&range(0, 1, 1)), 16).0,
        UNSUPP,
        "a flag of zeroing"
    );
    assert_eq!(request(&rig, ring, WRITE_ZEROES, 0, Data::Out(&range(0, 1, 2)), 16).0, UNSUPP);
    assert_eq!(request(&rig, ring, DISCARD, 0, Data::Out(&range(SECTORS, 1, 0)), 16).0, IOERR);
    assert_eq!(request(&rig, ring, DISCARD, 0, Data::Out(&range(0, u32::MAX, 0)), 16).0, IOERR);
    assert_eq!(request(&rig, ring, DISCARD, 0, Data::Out(&[0; 32]), 32).0, IOERR, "two ranges");
    assert_eq!(request(&rig, ring, DISCARD, 0, Data::Out(&range(1, 2, 0)), 16).0, OK);
    assert_eq!(request(&rig, ring, GET_ID, 0, Data::In(20), 7), (OK, 21));
    let mut id = [0; 20];
    rig.memory.read_slice(&mut id, GuestAddress(DATA)).unwrap();
    assert_eq!(&id, b"test\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn a_disk_that_may_not_be_written_is_not() {
    let (file, _) = disk(SECTORS);
    // Opened for writing on purpose: the device must not rely on the descriptor.
    let file = File::options().read(true).write(true).open(file.path()).unwrap();
    let block = Block::new(file, Path::new("disk"), Access::ReadOnly, "").unwrap();
    let mut rig = Rig::new(block);
    let ring = &mut rig.start(u64::MAX, 64)[0];
    assert_eq!(request(&rig, ring, OUT, 0, Data::Out(&[1; 512]), 512).0, IOERR);
    assert_eq!(request(&rig, ring, WRITE_ZEROES, 0, Data::Out(&range(0, 1, 0)), 16).0, IOERR);
    assert_eq!(request(&rig, ring, IN, 5, Data::In(512), 512).0, OK);
    assert_eq!(rig.memory.read_obj::<u8>(GuestAddress(DATA)).unwrap(), 5);
}

#[test]
fn a_file_that_was_cut_off_gives_errors_and_is_reported() {
    let (file, block) = disk(SECTORS);
    let (tell, told) = mpsc::channel();
    block.on_trouble(Box::new(move |trouble| tell.send(trouble.to_string()).unwrap()));
    let mut rig = Rig::new(block);
    let ring = &mut rig.start(u64::MAX, 64)[0];
    file.as_file().set_len(512).unwrap();
    assert_eq!(request(&rig, ring, IN, 1, Data::In(512), 512).0, IOERR);
    assert!(told.recv().unwrap().contains("cut off"));
    assert_eq!(request(&rig, ring, IN, 0, Data::In(512), 512).0, OK);
}

#[test]
fn a_full_host_is_reported_and_the_guest_gets_an_error() {
    // Writing to it always fails with ENOSPC.
    let full = File::options().read(true).write(true).open("/dev/full").unwrap();
    let reports = Reports::new("disk".into());
    let (tell, told) = mpsc::channel();
    reports.tell_to(Box::new(move |trouble| tell.send(trouble).unwrap()));
    let medium = Medium {
        file: full,
        sectors: SECTORS,
        access: Access::ReadWrite,
        id: [0; 20],
        reports,
        tells_waiting: AtomicBool::new(true),
    };
    let mut rig = Rig::new(Block { workers: Workers::new(medium), config: config(SECTORS) });
    let ring = &mut rig.start(u64::MAX, 64)[0];
    for _ in 0..20 {
        assert_eq!(request(&rig, ring, OUT, 0, Data::Out(&[1; 512]), 512).0, IOERR);
    }
    let reports: Vec<_> = told.try_iter().collect();
    assert_eq!(reports.len(), 8, "a guest cannot fill the host's log");
    assert!(
        matches!(&reports[0], DiskTrouble::Full { source, .. } if source.raw_os_error() == Some(libc::ENOSPC))
    );
}

#[test]
fn a_size_that_is_not_whole_sectors_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for bytes in [0, 513] {
        file.as_file().set_len(bytes).unwrap();
        let error = Block::open(file.path(), Access::ReadOnly, "").unwrap_err();
        let source = std::error::Error::source(&error).unwrap().downcast_ref::<io::Error>().unwrap();
        assert!(source.to_string().contains(&format!("{bytes} bytes")), "{source}");
    }
}

/// More requests than helpers that all have to wait: none is lost, and a reset in their midst ends.
#[test]
fn many_slow_requests_at_once() {
    let (_file, block) = disk(SECTORS);
    let mut rig = Rig::new(block);
    for round in 0..20 {
        let ring = &mut rig.start(u64::MAX, 256)[0];
        rig.memory.write_obj([u64::from(FLUSH), 0], GuestAddress(BUFFERS)).unwrap();
        for _ in 0..100 {
            ring.add(&rig.memory, &[Buffer::Readable(BUFFERS, 16), Buffer::Writable(STATUS, 1)]);
        }
        rig.notify(0);
        if round % 2 == 0 {
            for _ in 0..100 {
                rig.wait_used(ring);
            }
        } else {
            rig.reset();
        }
    }
}
