//! Guest kernels: which kind a file is, whether it fits this host and machine, and loading it.

mod elf_file;

use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use vm_memory::{Bytes, GuestAddress};

use crate::arch::x86_64::layout;
use crate::config::{Image, Protocol};
use crate::error::{Error, Result};
use crate::host::KvmKind;
use crate::memory::{GuestMemory, low_end};

/// Our kernels' marks: the build salt, a note in the ELF file (guest/kernel/config).
const SALT_PVM: &str = "rkvm-pvm";
const SALT_PLAIN: &str = "rkvm-plain";
/// What is in the version of a kernel that is built for PVM.
const PVM_IN_VERSION: &str = "pvm";
/// Linux's banner, wherever it is in the image (init/version.c).
const BANNER: &[u8] = b"Linux version ";
/// `HdrS` at this offset makes a file a Linux boot image (Documentation/arch/x86/boot.rst).
const HEADER_AT: u64 = 0x1f1;
const MAGIC_AT: usize = 0x202;
const VERSION_POINTER_AT: usize = 0x20e;
/// Boot protocol 2.12, the first with a 64-bit entry.
const PROTOCOL_64_BIT: u16 = 0x20c;
const XLF_KERNEL_64: u16 = 1;
const ENTRY_64_OFFSET: u64 = 0x200;
const MAX_VERSION: usize = 256;

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// An ELF executable (`vmlinux`).
    Elf,
    /// A Linux boot image (`bzImage`, `vmlinuz`).
    BzImage,
}

/// What kind of host a kernel is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Hardware virtualization.
    Hardware,
    /// PVM hosts.
    Pvm,
    /// The file does not say.
    Unknown,
}

/// What a kernel file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelInfo {
    /// How it is packed.
    pub form: Form,
    /// What it is built for.
    pub fit: Fit,
    /// Its version as `uname -r` shows it, where the file says so at no cost (a bzImage).
    pub version: Option<String>,
    is_linux: bool,
    /// First address behind an ELF file in memory; a boot image unpacks itself.
    pub(crate) end: Option<u64>,
}

/// Where a vCPU begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Linux's 64-bit entry.
    Linux(u64),
    /// The 32-bit PVH entry.
    Pvh(u64),
}

/// Where a kernel finds its processors and devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finds {
    /// In an MP table and on the command line: the quicker way, which our kernels take.
    MpTable,
    /// In ACPI tables: the only way of a distribution's kernel.
    Acpi,
}

/// A kernel in guest memory.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub entry: Entry,
    pub finds: Finds,
    /// A bzImage's header, which it wants to see again.
    pub header: Option<setup_header>,
    /// First address behind it, with what it needs to unpack itself.
    pub end: u64,
    /// Highest address that the initramfs may have.
    pub initrd_max: u64,
}

/// Looks at a kernel file.
///
/// # Errors
/// It cannot be read, or is no kernel for x86-64.
pub fn inspect(image: &Image) -> Result<KernelInfo> {
    let read = |source| Error::Read { path: image.name.clone(), source };
    let not = |reason: &'static str| Error::NotAKernel { path: image.name.clone(), reason };
    let mut start = vec![0; 4096];
    let length = read_some(&image.file, &mut start, 0).map_err(read)?;
    start.truncate(length);
    if start.starts_with(b"\x7fELF") {
        let notes = elf_file::notes(&image.file, &start).map_err(read)?.map_err(not)?;
        let end = elf_file::end(&image.file, &start).map_err(read)?;
        let fit = match notes.salt.as_deref() {
            Some(SALT_PVM) => Fit::Pvm,
            Some(SALT_PLAIN) => Fit::Hardware,
            _ => Fit::Unknown,
        };
        return Ok(KernelInfo { form: Form::Elf, fit, version: None, is_linux: notes.linux, end: Some(end) });
    }
    if start.get(MAGIC_AT..MAGIC_AT + 4) == Some(b"HdrS") {
        let pointer = u16::from_le_bytes([start[VERSION_POINTER_AT], start[VERSION_POINTER_AT + 1]]);
        let mut text = [0; MAX_VERSION];
        let length = read_some(&image.file, &mut text, 0x200 + u64::from(pointer)).map_err(read)?;
        let version = (pointer != 0).then(|| first_word(&text[..length]));
        // Its decompressor alone takes minutes in the emulator, whatever kernel is inside.
        return Ok(KernelInfo {
            form: Form::BzImage,
            fit: Fit::Hardware,
            version,
            is_linux: true,
            end: None,
        });
    }
    Err(not(match start.as_slice() {
        [] => "it is empty",
        [0x1f, 0x8b, ..] => "it is compressed with gzip: unpack it",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "it is compressed with zstd: unpack it",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "it is compressed with xz: unpack it",
        _ => "it is neither an ELF file nor a bzImage",
    }))
}

/// Checks what a kernel says of itself against the host.
///
/// # Errors
/// It is built for another kind of host.
pub(crate) fn check_fit(info: &KernelInfo, image: &Image, kind: KvmKind) -> Result<()> {
    let path = image.name.clone();
    match (info.fit, kind) {
        (Fit::Pvm, KvmKind::Hardware(_)) => Err(Error::KernelForPvm { path }),
        (Fit::Hardware, KvmKind::Pvm) => {
            Err(Error::KernelForHardware { path, version: info.version.clone() })
        }
        _ => Ok(()),
    }
}

/// Loads a kernel, as [`inspect`] has found it, that fits the host.
///
/// # Errors
/// It is built for another kind of host, or does not fit in memory.
pub(crate) fn load(
    memory: &GuestMemory,
    info: &KernelInfo,
    image: &Image,
    protocol: Protocol,
    kind: KvmKind,
    memory_mib: u32,
) -> Result<Loaded> {
    check_fit(info, image, kind)?;
    let bytes =
        image.file.metadata().map_err(|source| Error::Read { path: image.name.clone(), source })?.len();
    let loaded = match info.form {
        Form::Elf => load_elf(memory, image, protocol, info)?,
        Form::BzImage => load_bzimage(memory, image, protocol)?,
    };
    let low_end = low_end(memory);
    if loaded.end > low_end {
        return Err(Error::DoesNotFit { what: "the kernel", bytes: loaded.end.max(bytes), memory_mib });
    }
    if kind == KvmKind::Pvm && info.is_linux && info.fit == Fit::Unknown {
        // A kernel without our note: its banner decides.
        match banner(memory, loaded.end) {
            Some(version) if !version.contains(PVM_IN_VERSION) => {
                return Err(Error::KernelForHardware { path: image.name.clone(), version: Some(version) });
            }
            _ => {}
        }
    }
    Ok(loaded)
}

fn load_elf(memory: &GuestMemory, image: &Image, protocol: Protocol, info: &KernelInfo) -> Result<Loaded> {
    let end = info.end.unwrap_or(0);
    let initrd_max = low_end(memory) - 1;
    if end > initrd_max {
        // Told by the caller, which knows how much memory there is; nothing to load.
        return Ok(Loaded { entry: Entry::Linux(0), finds: Finds::MpTable, header: None, end, initrd_max });
    }
    let mut file = &image.file;
    let loaded = Elf::load(memory, None, &mut file, Some(GuestAddress(layout::HIGH_MEMORY)))
        .map_err(|source| Error::LoadKernel { path: image.name.clone(), source })?;
    let pvh = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(address) => Some(Entry::Pvh(address.0)),
        _ => None,
    };
    let linux = Entry::Linux(loaded.kernel_load.0);
    let entry = match protocol {
        Protocol::Linux => linux,
        Protocol::Detect if info.is_linux => linux,
        Protocol::Detect => pvh.unwrap_or(linux),
        Protocol::Pvh => pvh.ok_or_else(|| Error::NotAKernel {
            path: image.name.clone(),
            reason: "it has no PVH entry (no note XEN_ELFNOTE_PHYS32_ENTRY)",
        })?,
    };
    Ok(Loaded { entry, finds: Finds::MpTable, header: None, end: loaded.kernel_end.max(end), initrd_max })
}

fn load_bzimage(memory: &GuestMemory, image: &Image, protocol: Protocol) -> Result<Loaded> {
    let not = |reason| Error::NotAKernel { path: image.name.clone(), reason };
    if protocol == Protocol::Pvh {
        return Err(not("a bzImage has no PVH entry: take the ELF vmlinux"));
    }
    let mut file = &image.file;
    file.seek(io::SeekFrom::Start(HEADER_AT))
        .map_err(|source| Error::Read { path: image.name.clone(), source })?;
    let loaded = BzImage::load(memory, None, &mut file, Some(GuestAddress(layout::HIGH_MEMORY)))
        .map_err(|source| Error::LoadKernel { path: image.name.clone(), source })?;
    let Some(header) = loaded.setup_header else { return Err(not("its header is missing")) };
    let (version, flags) = (header.version, header.xloadflags);
    if version < PROTOCOL_64_BIT || flags & XLF_KERNEL_64 == 0 {
        return Err(not("it has no 64-bit entry: a 32-bit kernel, or one older than Linux 3.8"));
    }
    // It unpacks itself to its preferred address, and needs `init_size` bytes there.
    let unpacked = header.pref_address.max(loaded.kernel_load.0).saturating_add(header.init_size.into());
    Ok(Loaded {
        entry: Entry::Linux(loaded.kernel_load.0 + ENTRY_64_OFFSET),
        finds: Finds::Acpi,
        header: Some(header),
        end: loaded.kernel_end.max(unpacked),
        initrd_max: u64::from(header.initrd_addr_max).min(low_end(memory) - 1),
    })
}

/// The version in Linux's banner, searched in the image's memory up to `end`.
fn banner(memory: &GuestMemory, end: u64) -> Option<String> {
    const STEP: usize = 1 << 20;
    let mut window = vec![0; STEP + MAX_VERSION];
    let mut at = layout::HIGH_MEMORY;
    while at < end {
        let length = window.len().min((low_end(memory) - at) as usize);
        memory.read_slice(&mut window[..length], GuestAddress(at)).ok()?;
        if let Some(found) = find(&window[..length], BANNER) {
            return Some(first_word(&window[found + BANNER.len()..length]));
        }
        at += STEP as u64;
    }
    None
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|byte| *byte == wanted[0]) {
        at += next;
        if bytes[at..].starts_with(wanted) {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// Text up to the first space or zero, without what a terminal would act on.
fn first_word(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| !byte.is_ascii_graphic()).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end.min(MAX_VERSION)]).into_owned()
}

/// Reads as much as there is.
fn read_some(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests;
