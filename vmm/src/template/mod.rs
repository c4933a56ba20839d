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

use std::sync::Arc;

use kvm_bindings::{CpuId, kvm_cpuid_entry2, kvm_irqchip};
use kvm_ioctls::{VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::memory::GuestMemory;
use crate::memory::ahead::Ahead;
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

/// A template on its way into a machine: its memory is being read.
#[derive(Debug)]
pub(crate) struct Resumption {
    recorded: Box<Recorded>,
    filling: Arc<Filling>,
    /// Fills on another processor.
    ahead: Ahead,
}

impl Resumption {
    /// Has `memory` filled by a thread on another processor.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn begin(recorded: Box<Recorded>, memory: &GuestMemory) -> Result<Self> {
        let filling = Arc::new(recorded.filling(memory)?);
        let ahead = Ahead::new(memory);
        ahead.help(Arc::clone(&filling));
        Ok(Self { recorded, filling, ahead })
    }

    /// What KVM lets guests see of the processor, on the host of the template.
    ///
    /// # Errors
    /// It is more than KVM takes.
    pub(crate) fn cpuid(&self) -> Result<CpuId> {
        self.recorded.cpuid()
    }

    /// Fills what is left of the memory, and gives the machine the rest of the state, but for its devices. No thread is left. How far the
    /// guest's time of day is behind the host's from now on, ns, and how far the drivers of its devices are, by their order.
    ///
    /// # Errors
    /// The template cannot be read, or KVM refuses a step.
    pub(crate) fn finish(self, vm: &VmFd, vcpu: &VcpuFd) -> Result<(i64, Vec<Progress>)> {
        let Self { recorded, filling, ahead } = self;
        filling.work();
        // The other thread is through as well when it is gone.
        drop(ahead);
        filling.outcome().map_err(Error::os("read a template's memory"))?;
        let behind = recorded.give(vm, vcpu)?;
        Ok((behind, recorded.into_devices()))
    }
}

/// Everything of a machine but its memory.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    /// The guest's clock (`KVM_GET_CLOCK`), ns.
    clock: u64,
    /// The host's time of day at that moment, ns since 1970.
    time: i64,
    /// What KVM lets guests see of the processor: listing it again would take the host 0.3 ms.
    cpuid: Vec<kvm_cpuid_entry2>,
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
