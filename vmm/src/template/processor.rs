//! The state of a processor between two instructions.

use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events,
    kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::sys;
use crate::error::{Error, Result};
use crate::host::{KvmKind, MSR_PVM_REGISTER};

const MSR_TSC: u32 = 0x10;
const MSR_TSC_ADJUST: u32 = 0x3b;
const MSR_TSC_DEADLINE: u32 = 0x6e0;

/// What `KVM_GET_*` gives of a vCPU.
#[derive(Debug, Serialize, Deserialize)]
pub struct Processor {
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xcrs: kvm_xcrs,
    xsave: Box<kvm_xsave>,
    debugregs: kvm_debugregs,
    lapic: kvm_lapic_state,
    /// Model-specific registers with their values.
    msrs: Vec<(u32, u64)>,
    events: kvm_vcpu_events,
}

impl Processor {
    /// The state of `vcpu`, which does not run; `msrs` are the model-specific registers that its KVM lists.
    ///
    /// # Errors
    /// KVM does not say.
    pub fn of(vcpu: &VcpuFd, msrs: &[u32], kind: KvmKind) -> Result<Self> {
        Ok(Self {
            // First: it has KVM finish what it has put off (api.rst, KVM_GET_MP_STATE).
            mp_state: vcpu.get_mp_state().map_err(Error::kvm("read a processor's state"))?,
            regs: vcpu.get_regs().map_err(Error::kvm("read registers"))?,
            sregs: vcpu.get_sregs().map_err(Error::kvm("read segment registers"))?,
            xcrs: vcpu.get_xcrs().map_err(Error::kvm("read extended control registers"))?,
            xsave: Box::new(vcpu.get_xsave().map_err(Error::kvm("read the floating-point state"))?),
            debugregs: vcpu.get_debug_regs().map_err(Error::kvm("read debug registers"))?,
            lapic: vcpu.get_lapic().map_err(Error::kvm("read the local APIC"))?,
            msrs: read_msrs(vcpu, msrs, kind)?,
            events: vcpu.get_vcpu_events().map_err(Error::kvm("read pending exceptions"))?,
        })
    }

    /// Gives `vcpu` this state.
    ///
    /// # Errors
    /// KVM refuses a part.
    pub fn give(&self, vcpu: &VcpuFd) -> Result<()> {
        vcpu.set_mp_state(self.mp_state).map_err(Error::kvm("set a processor's state"))?;
        vcpu.set_regs(&self.regs).map_err(Error::kvm("set registers"))?;
        vcpu.set_sregs(&self.sregs).map_err(Error::kvm("set segment registers"))?;
        vcpu.set_xcrs(&self.xcrs).map_err(Error::kvm("set extended control registers"))?;
        sys::set_xsave(vcpu, &self.xsave).map_err(Error::kvm("set the floating-point state"))?;
        vcpu.set_debug_regs(&self.debugregs).map_err(Error::kvm("set debug registers"))?;
        vcpu.set_lapic(&self.lapic).map_err(Error::kvm("set the local APIC"))?;
        write_msrs(vcpu, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events).map_err(Error::kvm("set pending exceptions"))
    }
}

/// Whether a register belongs to a machine's state. A PVM guest reads the host's own time stamp counter, whatever KVM is told of it.
fn counts(index: u32, kind: KvmKind) -> bool {
    kind != KvmKind::Pvm || ![MSR_TSC, MSR_TSC_ADJUST].contains(&index)
}

fn read_msrs(vcpu: &VcpuFd, indexes: &[u32], kind: KvmKind) -> Result<Vec<(u32, u64)>> {
    let own = (kind == KvmKind::Pvm).then_some(MSR_PVM_REGISTER);
    let indexes = indexes.iter().copied().filter(|index| counts(*index, kind)).chain(own);
    let mut values = Vec::new();
    for index in indexes {
        let entry = kvm_msr_entry { index, ..Default::default() };
        // One entry always fits in the wrapper.
        let Ok(mut one) = Msrs::from_entries(&[entry]) else { continue };
        // KVM lists some that this processor does not have.
        if vcpu.get_msrs(&mut one).map_err(Error::kvm("read model-specific registers"))? == 1 {
            values.push((index, one.as_slice()[0].data));
        }
    }
    // The timer's deadline means something only once the counter has its value.
    values.sort_by_key(|(index, _)| *index == MSR_TSC_DEADLINE);
    Ok(values)
}

fn write_msrs(vcpu: &VcpuFd, values: &[(u32, u64)]) -> Result<()> {
    let entries: Vec<_> = values
        .iter()
        .map(|(index, data)| kvm_msr_entry { index: *index, data: *data, ..Default::default() })
        .collect();
    let mut rest = entries.as_slice();
    while !rest.is_empty() {
        // As many as KVM lists fit in the wrapper.
        let Ok(all) = Msrs::from_entries(rest) else { return Ok(()) };
        let done = vcpu.set_msrs(&all).map_err(Error::kvm("set model-specific registers"))?;
        // It stops at one that may only be read: that has its value already.
        rest = rest.get(done + 1..).unwrap_or_default();
    }
    Ok(())
}
