//! `hvm_start_info` (xen.git, public/arch-x86/hvm/start_info.h): what a kernel reads of its machine at the PVH entry.

use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{Bytes, GuestAddress};

use super::boot_params::{E820_RAM, Initrd, ram_ranges, write_cmdline};
use super::layout;
use crate::error::{Error, Result};
use crate::memory::GuestMemory;

const MAGIC: u32 = 0x336e_c578;
/// With a memory map.
const VERSION: u32 = 1;

/// Writes the start information and the command line.
///
/// # Errors
/// The command line is too long, or guest memory is too small.
pub fn write(memory: &GuestMemory, cmdline: &str, initrd: Option<Initrd>) -> Result<()> {
    let error = || Error::write("the PVH start information");
    write_cmdline(memory, cmdline)?;
    let ranges = ram_ranges(memory);
    let module_at = layout::PVH_START_INFO + size_of::<hvm_start_info>() as u64;
    let map_at = module_at + size_of::<hvm_modlist_entry>() as u64;
    if let Some(initrd) = initrd {
        for (index, value) in [initrd.address, initrd.bytes.into(), 0, 0_u64].iter().enumerate() {
            memory.write_obj(*value, GuestAddress(module_at + 8 * index as u64)).map_err(error())?;
        }
    }
    for (index, (start, bytes)) in ranges.iter().enumerate() {
        let at = map_at + (index * size_of::<hvm_memmap_table_entry>()) as u64;
        for (offset, value) in [(0, *start), (8, *bytes), (16, u64::from(E820_RAM))] {
            memory.write_obj(value, GuestAddress(at + offset)).map_err(error())?;
        }
    }
    let info = [MAGIC, VERSION, 0, initrd.is_some().into()];
    for (index, value) in info.iter().enumerate() {
        memory.write_obj(*value, GuestAddress(layout::PVH_START_INFO + 4 * index as u64)).map_err(error())?;
    }
    let pointers = [module_at, layout::CMDLINE, 0, map_at, ranges.len() as u64];
    for (index, value) in pointers.iter().enumerate() {
        memory
            .write_obj(*value, GuestAddress(layout::PVH_START_INFO + 16 + 8 * index as u64))
            .map_err(error())?;
    }
    Ok(())
}
