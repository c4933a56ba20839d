#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;

use super::*;
use crate::config::HugePages;
use crate::host::Vendor;
use crate::memory::Ram;

fn image(bytes: &[u8]) -> Image {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    Image::open(file.path()).unwrap()
}

/// An ELF file with one segment at 2 MiB that holds `content`, and `notes`.
fn elf(content: &[u8], notes: &[u8], memory_bytes: u64) -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let longs = |file: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    longs(&mut file, &[0x20_0000, 64, 0]);
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    let data = 64 + 2 * 56;
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    longs(&mut file, &[data, 0x20_0000, 0x20_0000, content.len() as u64, memory_bytes, 0x1000]);
    file.extend([4, 0, 0, 0, 4, 0, 0, 0]);
    longs(&mut file, &[data + content.len() as u64, 0, 0, notes.len() as u64, notes.len() as u64, 4]);
    file.extend(content);
    file.extend(notes);
    file
}

fn note(name: &[u8], kind: u32, text: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    note.extend((name.len() as u32).to_le_bytes());
    note.extend((text.len() as u32).to_le_bytes());
    note.extend(kind.to_le_bytes());
    for part in [name, text] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

fn load_on(kind: KvmKind, file: &[u8], protocol: Protocol) -> Result<Loaded> {
    let ram = Ram::map(32, HugePages::Never).unwrap();
    let image = image(file);
    load(ram.memory(), &inspect(&image)?, &image, protocol, kind, 32)
}

const HARDWARE: KvmKind = KvmKind::Hardware(Vendor::Amd);
const HALT: &[u8] = &[0xf4];

#[test]
fn the_salt_decides_where_a_kernel_may_run() {
    let with = |salt: &[u8]| elf(HALT, &note(b"Linux\0", 0x100, salt), 1);
    assert!(load_on(KvmKind::Pvm, &with(b"rkvm-pvm\0"), Protocol::Detect).is_ok());
    assert!(load_on(HARDWARE, &with(b"rkvm-plain\0"), Protocol::Detect).is_ok());
    let text = |kind, salt: &[u8]| load_on(kind, &with(salt), Protocol::Detect).unwrap_err().to_string();
    assert!(text(HARDWARE, b"rkvm-pvm\0").contains("--variant plain"), "{}", text(HARDWARE, b"rkvm-pvm\0"));
    assert!(text(KvmKind::Pvm, b"rkvm-plain\0").contains("--variant pvm"));
}

#[test]
fn a_kernel_without_our_note_is_known_by_its_banner() {
    let mut content = vec![b'L'; (1 << 20) - 5];
    content.extend(b"Linux version 6.12.3-generic (x@y) #1");
    let file = elf(&content, &note(b"Linux\0", 0x100, b"\0"), content.len() as u64);
    assert!(load_on(HARDWARE, &file, Protocol::Detect).is_ok());
    let error = load_on(KvmKind::Pvm, &file, Protocol::Detect).unwrap_err().to_string();
    assert!(error.contains("Linux 6.12.3-generic"), "{error}");
    content.splice((1 << 20) - 5.., *b"Linux version 6.1.9-mypvm (x@y) #1");
    let file = elf(&content, &note(b"Linux\0", 0x100, b"\0"), content.len() as u64);
    assert!(load_on(KvmKind::Pvm, &file, Protocol::Detect).is_ok());
}

#[test]
fn what_is_no_kernel_is_told_by_what_it_is() {
    let mut arm = elf(HALT, &[], 1);
    arm[18] = 183;
    let mut object = elf(HALT, &[], 1);
    object[16] = 1;
    for (bytes, reason) in [
        (vec![], "empty"),
        (vec![0x1f, 0x8b, 8], "gzip"),
        (b"#!/bin/sh\n".to_vec(), "neither an ELF file nor a bzImage"),
        (arm, "another processor"),
        (object, "no executable"),
        (b"\x7fELF".to_vec(), "nothing more"),
        (b"\x7fELF\x01\x01".to_vec(), "32-bit"),
    ] {
        let error = load_on(HARDWARE, &bytes, Protocol::Detect).unwrap_err();
        assert!(matches!(error, Error::NotAKernel { .. }) && error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn a_kernel_that_is_too_large_asks_for_memory() {
    for bytes in [31 << 20, 1 << 40, u64::MAX] {
        let error = load_on(HARDWARE, &elf(HALT, &[], bytes), Protocol::Detect).unwrap_err();
        assert!(
            matches!(error, Error::DoesNotFit { .. }) && error.to_string().contains("--memory"),
            "{error}"
        );
    }
}

#[test]
fn the_pvh_entry_is_for_kernels_that_are_not_linux_or_on_demand() {
    let pvh = note(b"Xen\0", 18, &0x20_1000_u32.to_le_bytes());
    let linux = note(b"Linux\0", 0x101, &[0; 4]);
    let both = [linux, pvh.clone()].concat();
    let entry = |notes: &[u8], protocol| load_on(HARDWARE, &elf(HALT, notes, 1), protocol).unwrap().entry;
    assert_eq!(entry(&pvh, Protocol::Detect), Entry::Pvh(0x20_1000));
    assert_eq!(entry(&both, Protocol::Detect), Entry::Linux(0x20_0000));
    assert_eq!(entry(&both, Protocol::Pvh), Entry::Pvh(0x20_1000));
    assert_eq!(entry(&pvh, Protocol::Linux), Entry::Linux(0x20_0000));
    let error = load_on(HARDWARE, &elf(HALT, &[], 1), Protocol::Pvh).unwrap_err().to_string();
    assert!(error.contains("no PVH entry"), "{error}");
}

#[test]
fn headers_that_point_anywhere_do_no_harm() {
    let good = elf(HALT, &note(b"Linux\0", 0x100, b"rkvm-plain\0"), 1);
    for at in 0..64 + 2 * 56 {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            let _ = load_on(HARDWARE, &bad, Protocol::Detect);
        }
    }
}

/// A bzImage as far as its header goes: one setup sector and `code`.
fn bzimage(code: &[u8], init_size: u32) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1] = 1;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    file[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    file[0x211] = 1;
    file[0x214..0x218].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    file[0x22c..0x230].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    file[0x236..0x238].copy_from_slice(&1_u16.to_le_bytes());
    file[0x258..0x260].copy_from_slice(&0x100_0000_u64.to_le_bytes());
    file[0x260..0x264].copy_from_slice(&init_size.to_le_bytes());
    file[0x300..0x30e].copy_from_slice(b"6.1.0-test (x)");
    file.extend(code);
    file
}

#[test]
fn a_bzimage_is_entered_at_its_64_bit_entry_and_never_on_a_pvm_host() {
    let file = bzimage(&[0xf4; 600], 4096);
    let loaded = load_on(HARDWARE, &file, Protocol::Detect).unwrap();
    assert_eq!((loaded.entry, loaded.end), (Entry::Linux(0x10_0200), 0x100_1000));
    assert!(loaded.header.is_some());
    let error = load_on(KvmKind::Pvm, &file, Protocol::Detect).unwrap_err().to_string();
    assert!(error.contains("Linux 6.1.0-test"), "{error}");
    let error = load_on(HARDWARE, &bzimage(HALT, 64 << 20), Protocol::Detect).unwrap_err();
    assert!(matches!(error, Error::DoesNotFit { .. }), "{error}");
    let mut old = file;
    old[0x236] = 0;
    let error = load_on(HARDWARE, &old, Protocol::Detect).unwrap_err().to_string();
    assert!(error.contains("no 64-bit entry"), "{error}");
}
