//! CPUID as each vCPU sees it (on a PVM host the guest's native code sees the real machine instead).

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX};

use crate::host::KvmKind;

const LEAF_FEATURES: u32 = 0x1;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
const LEAF_POWER: u32 = 0x8000_0007;
const POWER_EDX_INVARIANT_TSC: u32 = 1 << 8;
const FEATURES_ECX_HYPERVISOR: u32 = 1 << 31;
const FEATURES_ECX_TSC_DEADLINE: u32 = 1 << 24;
const FEATURES_EDX_HYPER_THREADING: u32 = 1 << 28;
const TOPOLOGY_TYPE_SMT: u32 = 1 << 8;
const TOPOLOGY_TYPE_CORE: u32 = 2 << 8;

/// Fits what KVM supports to vCPU `index` of `count`: one thread a core, one package.
///
/// On a PVM host the time stamp counter is named invariant, as it is in what native code sees: without that Linux takes KVM's clock,
/// whose page such a host does not mark stable, and every `clock_gettime` would become a system call.
pub fn for_vcpu(supported: &CpuId, kind: KvmKind, index: u8, count: u8) -> CpuId {
    let mut cpuid = supported.clone();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            LEAF_FEATURES => {
                entry.ecx |= FEATURES_ECX_HYPERVISOR | FEATURES_ECX_TSC_DEADLINE;
                let logical_processors = u32::from(count.next_power_of_two());
                entry.ebx = (entry.ebx & 0x0000_ffff) | logical_processors << 16 | u32::from(index) << 24;
                if count > 1 {
                    entry.edx |= FEATURES_EDX_HYPER_THREADING;
                }
            }
            LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2 => {
                entry.flags |= KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
                entry.edx = u32::from(index);
                let core_bits = count.next_power_of_two().trailing_zeros();
                (entry.eax, entry.ebx, entry.ecx) = match entry.index {
                    0 => (0, 1, TOPOLOGY_TYPE_SMT),
                    1 => (core_bits, u32::from(count), 1 | TOPOLOGY_TYPE_CORE),
                    other => (0, 0, other),
                };
            }
            LEAF_POWER if kind == KvmKind::Pvm => entry.edx |= POWER_EDX_INVARIANT_TSC,
            _ => {}
        }
    }
    cpuid
}
