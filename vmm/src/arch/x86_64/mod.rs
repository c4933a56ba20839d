//! x86-64: where things are in guest memory, and the state in which the kernel is entered.

pub mod acpi;
pub mod boot_params;
pub mod cpuid;
pub mod layout;
pub mod mptable;
pub mod pvh;
pub mod registers;
