//! The machine's side of a recording: its processor stops at the guest's marker and says what it finds, and goes on when it may.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::SystemTime;

use kvm_bindings::{CpuId, kvm_cpuid_entry2, kvm_irqchip};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use vm_memory::{Address as _, GuestMemoryBackend as _, GuestMemoryRegion as _, GuestRegionMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{CHIPS, Processor, State};
use crate::devices::{Held, MmioBus};
use crate::error::{Error, Result};
use crate::events::borrow;
use crate::host::KvmKind;
use crate::memory::{self, GuestMemory};

/// Memory of a machine, as the process has it that runs the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Where it begins, guest-physical.
    pub address: u64,
    /// Its length.
    pub bytes: u64,
    /// Where it begins in the process.
    pub place: u64,
}

/// A machine that stands still to be recorded.
#[derive(Debug, Serialize, Deserialize)]
pub struct Snapshot {
    pub(super) state: State,
    pub(super) regions: Vec<Region>,
}

/// For whoever runs the machine: becomes readable when the guest says that it can be recorded. Its processor stands still from then on,
/// until this is dropped.
#[derive(Debug)]
pub struct Recording {
    ready: EventFd,
    snapshot: Receiver<Snapshot>,
    _go: Sender<()>,
}

impl Recording {
    /// What the machine is like, once this is readable; `None` if it could not be said.
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.snapshot.try_recv().ok()
    }
}

impl AsFd for Recording {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.ready, self.ready.as_raw_fd())
    }
}

/// For the machine's first processor.
#[derive(Debug)]
pub(crate) struct Recorder {
    vm: Arc<VmFd>,
    memory: GuestMemory,
    windows: MmioBus,
    /// The model-specific registers that KVM lists.
    msrs: Vec<u32>,
    kind: KvmKind,
    cpuid: Vec<kvm_cpuid_entry2>,
    ready: EventFd,
    snapshot: Sender<Snapshot>,
    go: Receiver<()>,
}

/// The host's time of day, ns since 1970.
pub(super) fn time_of_day() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos() as i64
}

impl Recorder {
    /// Both sides, for a machine with these parts.
    ///
    /// # Errors
    /// KVM does not list its registers, or no descriptor is left.
    pub fn new(
        kvm: &Kvm,
        vm: &Arc<VmFd>,
        memory: &GuestMemory,
        windows: &MmioBus,
        kind: KvmKind,
        supported: &CpuId,
    ) -> Result<(Self, Recording)> {
        let event = || Error::os("make an event descriptor");
        let ready = EventFd::new(EFD_NONBLOCK).map_err(event())?;
        let msrs = kvm.get_msr_index_list().map_err(Error::kvm("list its model-specific registers"))?;
        let (snapshot, received) = channel();
        let (go, wait) = channel();
        let ours = Recording { ready: ready.try_clone().map_err(event())?, snapshot: received, _go: go };
        let recorder = Self {
            vm: Arc::clone(vm),
            memory: memory.clone(),
            windows: windows.clone(),
            msrs: msrs.as_slice().to_vec(),
            kind,
            cpuid: supported.as_slice().to_vec(),
            ready,
            snapshot,
            go: wait,
        };
        Ok((recorder, ours))
    }

    /// Says what the machine is like, and waits until it may go on. Called on the thread of `vcpu`, the only processor that has been started,
    /// between two instructions.
    pub fn stand_still(self, vcpu: &VcpuFd) {
        let held = self.windows.hold();
        // Without one the machine only is no template.
        if let Ok(snapshot) = self.look(vcpu, &held) {
            let _ = self.snapshot.send(snapshot);
        }
        let _ = self.ready.write(1);
        // Nothing is ever sent: it comes back when the other side is gone.
        let _ = self.go.recv();
    }

    fn look(&self, vcpu: &VcpuFd, devices: &Held<'_>) -> Result<Snapshot> {
        let busy = || Error::os("record a machine")(io::ErrorKind::ResourceBusy.into());
        let devices = devices.progress().ok_or_else(busy)?;
        let chips = (0..CHIPS).map(|chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            let read = self.vm.get_irqchip(&mut chip);
            read.map(|()| chip).map_err(Error::kvm("read an interrupt controller"))
        });
        let chips = chips.collect::<Result<_>>()?;
        let processor = Processor::of(vcpu, &self.msrs, self.kind)?;
        let time = time_of_day();
        let clock = self.vm.get_clock().map_err(Error::kvm("read the guest's clock"))?.clock;
        let regions = self.memory.iter().map(region).collect::<Result<_>>()?;
        let cpuid = self.cpuid.clone();
        Ok(Snapshot { state: State { clock, time, cpuid, chips, processor, devices }, regions })
    }
}

fn region(region: &GuestRegionMmap<()>) -> Result<Region> {
    let place = memory::place(region)?;
    Ok(Region { address: region.start_addr().raw_value(), bytes: region.len(), place })
}
