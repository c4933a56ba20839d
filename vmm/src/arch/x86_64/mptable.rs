//! MP table (Intel MultiProcessor Specification 1.4): tells the guest its processors, the IO-APIC and the interrupt lines,
//! at no cost of an ACPI interpreter.

use vm_memory::{Bytes, GuestAddress};

use super::layout;
use crate::error::{Error, Result};
use crate::memory::GuestMemory;

const SPEC_REVISION_1_4: u8 = 4;
const APIC_VERSION: u8 = 0x14;
const ENTRY_PROCESSOR: u8 = 0;
const ENTRY_BUS: u8 = 1;
const ENTRY_IO_APIC: u8 = 2;
const ENTRY_IO_INTERRUPT: u8 = 3;
const ENTRY_LOCAL_INTERRUPT: u8 = 4;
const CPU_ENABLED: u8 = 1;
const CPU_BOOTSTRAP: u8 = 2;
const CPU_STEPPING: u32 = 0x600;
const CPU_FEATURE_FPU: u32 = 1;
const CPU_FEATURE_APIC: u32 = 1 << 9;
const INTERRUPT_VECTORED: u8 = 0;
const INTERRUPT_NMI: u8 = 1;
const INTERRUPT_EXTERNAL: u8 = 3;
const ALL_LOCAL_APICS: u8 = 0xff;
const HEADER_BYTES: u16 = 44;

/// Writes the table for `vcpus` processors and the interrupt lines `lines` of the IO-APIC. Only lines in use are named: the guest sets up
/// each with several accesses that trap.
///
/// # Errors
/// Guest memory is too small.
pub fn write(memory: &GuestMemory, vcpus: u8, lines: &[u32]) -> Result<()> {
    let table = table(vcpus, lines);
    memory.write_slice(&table, GuestAddress(layout::MP_TABLE)).map_err(Error::write("the MP table"))?;
    let mut pointer = [0_u8; 16];
    pointer[0..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&(layout::MP_TABLE as u32).to_le_bytes());
    pointer[8] = 1; // length in units of 16 bytes
    pointer[9] = SPEC_REVISION_1_4;
    pointer[10] = checksum(&pointer);
    memory.write_slice(&pointer, GuestAddress(layout::MP_POINTER)).map_err(Error::write("the MP pointer"))
}

/// The byte that makes the sum of `bytes` zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

fn table(vcpus: u8, lines: &[u32]) -> Vec<u8> {
    let io_apic_id = vcpus;
    let mut entries = Vec::new();
    let mut count = 0_u16;
    let mut push = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    for cpu in 0..vcpus {
        let flags = if cpu == 0 { CPU_ENABLED | CPU_BOOTSTRAP } else { CPU_ENABLED };
        let mut entry = vec![ENTRY_PROCESSOR, cpu, APIC_VERSION, flags];
        entry.extend_from_slice(&CPU_STEPPING.to_le_bytes());
        entry.extend_from_slice(&(CPU_FEATURE_FPU | CPU_FEATURE_APIC).to_le_bytes());
        entry.extend_from_slice(&[0; 8]);
        push(&entry);
    }
    push(&[&[ENTRY_BUS, 0][..], b"ISA   "].concat());
    push(&[&[ENTRY_IO_APIC, io_apic_id, APIC_VERSION, 1][..], &layout::IO_APIC.to_le_bytes()].concat());
    for line in lines {
        let line = *line as u8;
        push(&[ENTRY_IO_INTERRUPT, INTERRUPT_VECTORED, 0, 0, 0, line, io_apic_id, line]);
    }
    push(&[ENTRY_LOCAL_INTERRUPT, INTERRUPT_EXTERNAL, 0, 0, 0, 0, 0, 0]);
    push(&[ENTRY_LOCAL_INTERRUPT, INTERRUPT_NMI, 0, 0, 0, 0, ALL_LOCAL_APICS, 1]);

    let length = HEADER_BYTES + entries.len() as u16;
    let mut table = Vec::with_capacity(length.into());
    table.extend_from_slice(b"PCMP");
    table.extend_from_slice(&length.to_le_bytes());
    table.extend_from_slice(&[SPEC_REVISION_1_4, 0]);
    table.extend_from_slice(b"RKVM    MICROVM     ");
    table.extend_from_slice(&[0; 6]); // no OEM table
    table.extend_from_slice(&count.to_le_bytes());
    table.extend_from_slice(&layout::LOCAL_APIC.to_le_bytes());
    table.extend_from_slice(&[0; 4]);
    table.extend_from_slice(&entries);
    table[7] = checksum(&table);
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_VCPUS;

    #[test]
    fn sums_are_zero_and_the_largest_table_ends_before_what_follows() {
        let lines: Vec<u32> = (0..=layout::LAST_IRQ).collect();
        for vcpus in [1, 2, MAX_VCPUS] {
            let table = table(vcpus, &lines);
            assert_eq!(table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
            assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
            assert!(layout::MP_TABLE + table.len() as u64 <= layout::PVH_START_INFO);
        }
    }
}
