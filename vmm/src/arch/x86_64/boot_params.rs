//! `struct boot_params` (Documentation/arch/x86/zero-page.rst, boot.rst): what Linux reads of its machine at the 64-bit
//! entry.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::layout;
use crate::error::{Error, Result};
use crate::memory::GuestMemory;

/// Type of a range that is RAM.
pub(super) const E820_RAM: u32 = 1;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
const LOADER_UNKNOWN: u8 = 0xff;
const KERNEL_MIN_ALIGNMENT: u32 = 0x100_0000;

/// Where the initramfs is.
#[derive(Debug, Clone, Copy)]
pub struct Initrd {
    /// Guest-physical address.
    pub address: u64,
    /// Size, bytes.
    pub bytes: u32,
}

/// Writes the zero page and the command line. `header` is that of a bzImage, which reads it again.
///
/// # Errors
/// The command line is too long, or guest memory is too small.
pub fn write(
    memory: &GuestMemory,
    cmdline: &str,
    initrd: Option<Initrd>,
    header: Option<setup_header>,
) -> Result<()> {
    let cmdline_bytes = write_cmdline(memory, cmdline)?;
    let mut params = boot_params {
        hdr: header.unwrap_or(setup_header {
            boot_flag: BOOT_FLAG,
            header: HEADER_MAGIC,
            kernel_alignment: KERNEL_MIN_ALIGNMENT,
            ..Default::default()
        }),
        ..Default::default()
    };
    params.hdr.type_of_loader = LOADER_UNKNOWN;
    params.hdr.cmd_line_ptr = layout::CMDLINE as u32;
    params.hdr.cmdline_size = cmdline_bytes;
    if let Some(initrd) = initrd {
        params.hdr.ramdisk_image = initrd.address as u32;
        params.hdr.ramdisk_size = initrd.bytes;
    }
    let ranges = ram_ranges(memory);
    for (entry, (addr, size)) in params.e820_table.iter_mut().zip(&ranges) {
        *entry = boot_e820_entry { addr: *addr, size: *size, r#type: E820_RAM };
    }
    params.e820_entries = ranges.len() as u8;
    memory.write_obj(params, GuestAddress(layout::BOOT_PARAMS)).map_err(Error::write("boot_params"))
}

/// Writes the command line with its terminating zero; its length with it.
pub(super) fn write_cmdline(memory: &GuestMemory, cmdline: &str) -> Result<u32> {
    if cmdline.len() >= layout::CMDLINE_MAX {
        return Err(Error::CommandLine { bytes: cmdline.len(), limit: layout::CMDLINE_MAX - 1 });
    }
    let mut text = cmdline.as_bytes().to_vec();
    text.push(0);
    memory.write_slice(&text, GuestAddress(layout::CMDLINE)).map_err(Error::write("the command line"))?;
    Ok(text.len() as u32)
}

/// RAM that the kernel may use: address and size of each range.
pub(super) fn ram_ranges(memory: &GuestMemory) -> Vec<(u64, u64)> {
    let mut ranges = vec![(0, layout::BASE_MEMORY_END)];
    for region in memory.iter() {
        let start = region.start_addr().raw_value().max(layout::HIGH_MEMORY);
        ranges.push((start, region.last_addr().raw_value() + 1 - start));
    }
    ranges
}
