//! Machines that go on where another one had booted to.
//!
//! A *template* is a file with the state of a machine whose kernel has booted and whose init waits for what it is to become: memory, the first
//! processor, interrupt controllers, the clock, and how far the drivers of its devices are. A machine on its way is recorded at a
//! moment that its guest names by a marker ([`Recording`], [`write()`]); any number of machines of the same shape begin with it
//! ([`Recorded`]). Each has a copy of its memory and devices of its own, and is told at once what makes it another machine than
//! the others: a seed for its random numbers, the time, its hardware address (`Own` of the guest protocol).
//!
//! No container has been in the machine by then, and whoever writes the file is its creator, not the process that runs guests: what a guest
//! does later reaches no template. A template holds for one host until that boots again, because processor, KVM and clock must be what they
//! were. Whoever opens one answers for that by its key, and for the file's being one that only the host's root can have written.

mod file;
mod filling;
mod processor;
mod recording;
mod sys;

use kvm_bindings::kvm_irqchip;
use kvm_ioctls::{VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::virtio::mmio::Progress;
pub use file::{Recorded, write};
pub(crate) use filling::Filling;
use processor::Processor;
pub(crate) use recording::Recorder;
pub use recording::{Recording, Region, Snapshot};

/// Interrupt controllers of a machine: two 8259 and an I/O APIC.
const CHIPS: u32 = 3;

/// Where a machine begins.
#[derive(Debug, Default)]
pub enum Template {
    /// It boots.
    #[default]
    None,
    /// It boots, and can be recorded when its guest says so: see [`crate::Microvm::recording`].
    Record,
    /// It goes on from this one.
    Use(Box<Recorded>),
}

/// Everything of a machine but its memory.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    /// The guest's clock (`KVM_GET_CLOCK`), ns.
    clock: u64,
    /// The host's time of day at that moment, ns since 1970.
    time: i64,
    chips: Vec<kvm_irqchip>,
    processor: Processor,
    devices: Vec<Progress>,
}

impl State {
    /// Gives a machine the state of interrupt controllers, first processor and clock. How far the guest's time of day is behind the
    /// host's from now on, ns.
    fn give(&self, vm: &VmFd, vcpu: &VcpuFd) -> Result<i64> {
        for chip in &self.chips {
            vm.set_irqchip(chip).map_err(Error::kvm("set an interrupt controller"))?;
        }
        self.processor.give(vcpu)?;
        let clock = kvm_bindings::kvm_clock_data { clock: self.clock, ..Default::default() };
        let time = recording::time_of_day();
        vm.set_clock(&clock).map_err(Error::kvm("set the guest's clock"))?;
        Ok(time - self.time)
    }
}
