//! State in which a vCPU enters the kernel: long mode, paging on (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").

use kvm_bindings::{Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::layout;
use crate::error::{Error, Result};
use crate::kernel::Entry;
use crate::memory::GuestMemory;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_RESERVED: u64 = 1 << 1;
/// Present, writable, user. The user bit is for PVM hosts, which run the guest's kernel in ring 3: with it at every level the kernel is
/// native from its first instruction.
const PAGE_FLAGS: u64 = 0x7;
const PAGE_LARGE: u64 = 1 << 7;
const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const APIC_LVT_LINT0: usize = 0x350;
const APIC_LVT_LINT1: usize = 0x360;
const APIC_MODE_NMI: u32 = 0x4;
const APIC_MODE_EXTINT: u32 = 0x7;
/// Flat 64-bit code, flat data, TSS, flat 32-bit code: access byte and flags as in a descriptor's high half (AMD64 manual, volume 2, 4.8).
const GDT_ENTRIES: [u64; 5] =
    [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x008f_8b00_0000_ffff, 0x00cf_9b00_0000_ffff];

/// Writes the tables that the entry state refers to: descriptors, and the first GiB identity mapped.
///
/// # Errors
/// Guest memory is too small.
pub fn write_tables(memory: &GuestMemory) -> Result<()> {
    for (index, entry) in GDT_ENTRIES.iter().enumerate() {
        memory
            .write_obj(*entry, GuestAddress(layout::GDT + 8 * index as u64))
            .map_err(Error::write("the descriptor table"))?;
    }
    memory.write_obj(0_u64, GuestAddress(layout::IDT)).map_err(Error::write("the interrupt table"))?;
    let mut page_directory = Vec::with_capacity(4096);
    for entry in 0..512_u64 {
        page_directory.extend_from_slice(&((entry << 21) | PAGE_FLAGS | PAGE_LARGE).to_le_bytes());
    }
    memory
        .write_obj(layout::PDPT | PAGE_FLAGS, GuestAddress(layout::PML4))
        .and_then(|()| memory.write_obj(layout::PAGE_DIRECTORY | PAGE_FLAGS, GuestAddress(layout::PDPT)))
        .and_then(|()| memory.write_slice(&page_directory, GuestAddress(layout::PAGE_DIRECTORY)))
        .map_err(Error::write("the page tables"))
}

/// Sets the boot processor's registers so that it starts at `entry`. The others wait for their start-up interrupt.
///
/// # Errors
/// KVM refuses a value.
pub(crate) fn set_boot_state(vcpu: &VcpuFd, entry: Entry) -> Result<()> {
    let mut sregs = vcpu.get_sregs().map_err(Error::kvm("read segment registers"))?;
    let data = segment(2);
    sregs.tr = segment(3);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = (8 * GDT_ENTRIES.len() - 1) as u16;
    sregs.idt.base = layout::IDT;
    sregs.idt.limit = 7;
    let mut regs = kvm_regs {
        rflags: RFLAGS_RESERVED,
        rsp: layout::BOOT_STACK,
        rbp: layout::BOOT_STACK,
        ..Default::default()
    };
    match entry {
        Entry::Linux(address) => {
            sregs.cs = segment(1);
            sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
            sregs.cr3 = layout::PML4;
            sregs.cr4 |= CR4_PAE;
            sregs.efer |= EFER_LME | EFER_LMA;
            (regs.rip, regs.rsi) = (address, layout::BOOT_PARAMS);
        }
        Entry::Pvh(address) => {
            sregs.cs = segment(4);
            sregs.cr0 = CR0_PE | CR0_ET;
            (sregs.cr4, sregs.efer) = (0, 0);
            (regs.rip, regs.rbx) = (address, layout::PVH_START_INFO);
        }
    }
    vcpu.set_sregs(&sregs).map_err(Error::kvm("set segment registers"))?;
    vcpu.set_regs(&regs).map_err(Error::kvm("set registers"))
}

/// What every vCPU needs, the boot processor or not: floating-point state, MSRs, local APIC lines.
///
/// # Errors
/// KVM refuses a value.
pub fn set_common_state(vcpu: &VcpuFd) -> Result<()> {
    let fpu = kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(Error::kvm("set the floating-point state"))?;
    let entry =
        kvm_msr_entry { index: MSR_IA32_MISC_ENABLE, data: MISC_ENABLE_FAST_STRING, ..Default::default() };
    // One entry always fits in the wrapper.
    if let Ok(msrs) = Msrs::from_entries(&[entry]) {
        vcpu.set_msrs(&msrs).map_err(Error::kvm("set model-specific registers"))?;
    }
    let mut lapic = vcpu.get_lapic().map_err(Error::kvm("read the local APIC"))?;
    set_delivery_mode(&mut lapic, APIC_LVT_LINT0, APIC_MODE_EXTINT);
    set_delivery_mode(&mut lapic, APIC_LVT_LINT1, APIC_MODE_NMI);
    vcpu.set_lapic(&lapic).map_err(Error::kvm("set the local APIC"))
}

fn set_delivery_mode(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    // Bits 8 to 10 of the register, so bits 0 to 2 of its second byte.
    let byte = lapic.regs[register + 1] as u8;
    lapic.regs[register + 1] = ((byte & !0x7) | mode as u8) as _;
}

/// The segment register that loading entry `index` of the descriptor table would give.
fn segment(index: u16) -> kvm_segment {
    let entry = GDT_ENTRIES[usize::from(index)];
    let bits = |from: u32, count: u32| ((entry >> from) & ((1 << count) - 1)) as u8;
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: index * 8,
        type_: bits(40, 4),
        s: bits(44, 1),
        dpl: bits(45, 2),
        present: bits(47, 1),
        avl: bits(52, 1),
        l: bits(53, 1),
        db: bits(54, 1),
        g: bits(55, 1),
        unusable: 0,
        padding: 0,
    }
}
