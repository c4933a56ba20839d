//! The guest's physical address map.

/// MP floating pointer: in the first KiB, where Linux looks first. Each place that it looks in vain costs two flushes of
/// the shadow TLB on a PVM host, half a second in all for a table in the BIOS area.
pub const MP_POINTER: u64 = 0x10;
/// Global descriptor table.
pub const GDT: u64 = 0x500;
/// Interrupt descriptor table (empty; the kernel loads its own).
pub const IDT: u64 = 0x540;
/// MP configuration table, to [`PVH_START_INFO`].
pub const MP_TABLE: u64 = 0x1000;
/// `struct hvm_start_info` and what it points to.
pub const PVH_START_INFO: u64 = 0x6000;
/// `struct boot_params`, one page.
pub const BOOT_PARAMS: u64 = 0x7000;
/// Stack of the first instructions.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Page tables of the entry: PML4, page-directory pointers, and from [`PAGE_DIRECTORY`] one directory.
pub const PML4: u64 = 0x9000;
/// Page-directory pointer table.
pub const PDPT: u64 = 0xa000;
/// Page directory: the first GiB in 2 MiB pages, identity mapped.
pub const PAGE_DIRECTORY: u64 = 0xb000;
/// Kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Longest command line with its terminating zero, bytes (COMMAND_LINE_SIZE of x86 Linux).
pub const CMDLINE_MAX: usize = 2048;
/// End of base memory; from here to 1 MiB is what was the BIOS.
pub const BASE_MEMORY_END: u64 = 0x9_fc00;
/// ACPI root pointer, and the tables behind it: where Linux looks for it when nobody tells (the BIOS area).
pub const ACPI: u64 = 0xe_0000;
/// Start of the memory that kernels are loaded in.
pub const HIGH_MEMORY: u64 = 0x10_0000;
/// Start of the hole in RAM below 4 GiB for device windows, the IO-APIC and the local APIC.
pub const MMIO_GAP_START: u64 = 0xc000_0000;
/// First virtio-mmio window.
pub const VIRTIO_MMIO_START: u64 = 0xd000_0000;
/// Size of a virtio-mmio window, bytes.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// IO-APIC.
pub const IO_APIC: u32 = 0xfec0_0000;
/// Local APIC.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that Intel's VT-x without unrestricted guests needs for real mode.
pub const KVM_TSS: usize = 0xfffb_d000;
/// RAM above the gap.
pub const HIGH_RAM_START: u64 = 1 << 32;
/// First interrupt line of virtio devices; the lines below are those of the PC's classic devices.
pub const VIRTIO_FIRST_IRQ: u32 = 5;
/// Last interrupt line of the IO-APIC.
pub const LAST_IRQ: u32 = 23;
