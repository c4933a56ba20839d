//! ACPI tables for kernels of distributions, which read neither MP tables nor devices on the command line: processors, IO-APIC, and a
//! "hardware-reduced" machine (ACPI 6.5, section 4.1) whose devices are in the DSDT.

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use vm_memory::{Bytes, GuestAddress};

use super::layout;
use crate::error::{Error, Result};
use crate::memory::GuestMemory;

const OEM: [u8; 6] = *b"RKVM  ";
const OEM_TABLE: [u8; 8] = *b"MICROVM ";
const OEM_REVISION: u32 = 1;
const TABLE_HEADER_BYTES: u32 = 36;
const DSDT_REVISION: u8 = 6;
/// Of the FADT's IA-PC boot flags: no VGA, no message-signalled interrupts, no PCIe power states, no CMOS clock.
const NOT_THERE: u16 = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5;
/// Hardware id of a virtio-mmio device in Linux (drivers/virtio/virtio_mmio.c).
const VIRTIO_MMIO: &str = "LNRO0005";
const SERIAL: &str = "PNP0501";

/// A virtio-mmio window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Guest-physical address.
    pub base: u64,
    /// Interrupt line.
    pub irq: u32,
}

/// The first serial port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SerialPort {
    /// First I/O port, of eight.
    pub port: u16,
    /// Interrupt line.
    pub irq: u32,
}

/// Writes the tables, the root pointer at [`layout::ACPI`].
///
/// # Errors
/// Guest memory is too small.
pub fn write(memory: &GuestMemory, vcpus: u8, windows: &[Window], serial: Option<SerialPort>) -> Result<()> {
    let mut at = layout::ACPI + u64::from(TABLE_HEADER_BYTES).next_multiple_of(64);
    let mut place = |table: &[u8]| {
        let address = at;
        at = (at + table.len() as u64).next_multiple_of(16);
        memory.write_slice(table, GuestAddress(address)).map_err(Error::write("the ACPI tables"))?;
        Ok::<u64, Error>(address)
    };
    let dsdt = place(&dsdt(windows, serial))?;
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION).dsdt_64(dsdt).flag(Flags::HwReducedAcpi);
    fadt.iapc_boot_arch = NOT_THERE.into();
    let fadt = place(&bytes(&fadt.finalize()))?;
    let apic = LocalInterruptController::Address(layout::LOCAL_APIC);
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, apic);
    for cpu in 0..vcpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(vcpus, layout::IO_APIC, 0));
    let madt = place(&bytes(&madt))?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(&bytes(&xsdt))?;
    memory
        .write_slice(&bytes(&Rsdp::new(OEM, xsdt)), GuestAddress(layout::ACPI))
        .map_err(Error::write("the ACPI tables"))
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn dsdt(windows: &[Window], serial: Option<SerialPort>) -> Vec<u8> {
    let mut devices = Vec::new();
    if let Some(SerialPort { port, irq }) = serial {
        aml::Device::new(
            "_SB_.COM1".into(),
            vec![
                &aml::Name::new("_HID".into(), &aml::EISAName::new(SERIAL)),
                &aml::Name::new("_UID".into(), &aml::ZERO),
                &aml::Name::new(
                    "_CRS".into(),
                    &aml::ResourceTemplate::new(vec![
                        &aml::Interrupt::new(true, true, false, false, irq),
                        &aml::IO::new(port, port, 0, 8),
                    ]),
                ),
            ],
        )
        .to_aml_bytes(&mut devices);
    }
    for (index, window) in windows.iter().enumerate() {
        aml::Device::new(
            format!("_SB_.V{index:03}").as_str().into(),
            vec![
                &aml::Name::new("_HID".into(), &VIRTIO_MMIO),
                &aml::Name::new("_UID".into(), &index),
                // The device sees what the processors see.
                &aml::Name::new("_CCA".into(), &aml::ONE),
                &aml::Name::new(
                    "_CRS".into(),
                    &aml::ResourceTemplate::new(vec![
                        &aml::Memory32Fixed::new(true, window.base as u32, layout::VIRTIO_MMIO_SIZE as u32),
                        &aml::Interrupt::new(true, true, false, false, window.irq),
                    ]),
                ),
            ],
        )
        .to_aml_bytes(&mut devices);
    }
    let mut table = Sdt::new(*b"DSDT", TABLE_HEADER_BYTES, DSDT_REVISION, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&devices);
    table.as_slice().to_vec()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::config::{HugePages, MAX_VCPUS};
    use crate::memory::Ram;

    #[test]
    fn every_table_is_reached_from_the_root_and_sums_to_zero() {
        let ram = Ram::map(32, HugePages::Never).unwrap();
        let memory = ram.memory();
        let windows: Vec<Window> = (0..19)
            .map(|i| Window { base: layout::VIRTIO_MMIO_START + 4096 * i, irq: 5 + i as u32 })
            .collect();
        write(memory, MAX_VCPUS, &windows, Some(SerialPort { port: 0x3f8, irq: 4 })).unwrap();
        let long = |at| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
        let mut root = [0; 36];
        memory.read_slice(&mut root, GuestAddress(layout::ACPI)).unwrap();
        assert!(root.starts_with(b"RSD PTR "));
        assert_eq!(root.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        let check = |at: u64, signature: &[u8]| {
            let length = memory.read_obj::<u32>(GuestAddress(at + 4)).unwrap();
            let mut table = vec![0; length as usize];
            memory.read_slice(&mut table, GuestAddress(at)).unwrap();
            assert!(table.starts_with(signature), "{table:?}");
            assert_eq!(table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
            assert!(at + u64::from(length) <= layout::HIGH_MEMORY);
        };
        let xsdt = long(layout::ACPI + 24);
        check(xsdt, b"XSDT");
        check(long(xsdt + 36), b"FACP");
        check(long(xsdt + 44), b"APIC");
        check(long(long(xsdt + 36) + 140), b"DSDT");
    }
}
