//! What this host's `/dev/kvm` offers.

use kvm_bindings::{CpuId, Msrs, kvm_msr_entry};
use kvm_ioctls::{Cap, Kvm};

use crate::error::{Error, Result};

/// MSR whose value tells that the host runs guests without hardware virtualization (PVM).
pub const MSR_PVM_SIGNATURE: u32 = 0x4b56_4d11;
/// MSR through which a vCPU of a PVM guest opts in to native execution; part of a vCPU's state.
pub const MSR_PVM_REGISTER: u32 = 0x4b56_4d10;
const PVM_SIGNATURE: u64 = 0x4d_5650;

/// Who made the processor, as CPUID leaf 0 says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// VT-x.
    Intel,
    /// SVM.
    Amd,
    /// Another one.
    Other,
}

/// How KVM runs guest code here; decides which guest kernel fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvmKind {
    /// VT-x or SVM: any kernel.
    Hardware(Vendor),
    /// Deprivileged in ring 3 over shadow page tables: only a kernel built for it.
    Pvm,
}

impl std::fmt::Display for KvmKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hardware(Vendor::Intel) => "hardware (Intel VT-x)",
            Self::Hardware(Vendor::Amd) => "hardware (AMD SVM)",
            Self::Hardware(Vendor::Other) => "hardware",
            Self::Pvm => "PVM (no hardware virtualization: guest kernels need patches)",
        })
    }
}

/// An open `/dev/kvm`.
#[derive(Debug)]
pub struct Host {
    /// The system descriptor.
    pub kvm: Kvm,
}

impl Host {
    /// Opens `/dev/kvm` and checks what every boot needs.
    ///
    /// # Errors
    /// There is no KVM, no permission, or it lacks a capability.
    pub fn open() -> Result<Self> {
        let kvm = Kvm::new().map_err(|source| Error::OpenKvm {
            path: "/dev/kvm".into(),
            hint: match source.errno() {
                libc::ENOENT => {
                    "this host has no KVM: load kvm_intel or kvm_amd, or enable nested virtualization"
                }
                libc::EACCES | libc::EPERM => "no permission: run as root or join the group that owns it",
                _ => "see the kernel log",
            },
            source,
        })?;
        for (capability, name) in [
            (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
            (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
            (Cap::Irqfd, "KVM_CAP_IRQFD"),
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
            (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
        ] {
            if !kvm.check_extension(capability) {
                return Err(Error::MissingCapability { capability: name });
            }
        }
        Ok(Self { kvm })
    }

    /// Which kind of KVM this is: asks a throw-away vCPU for the PVM signature, which any other host refuses.
    ///
    /// # Errors
    /// No VM can be made.
    pub fn kind(&self) -> Result<KvmKind> {
        let vm = self.kvm.create_vm().map_err(Error::kvm("create a VM"))?;
        let vcpu = vm.create_vcpu(0).map_err(Error::kvm("create a vCPU"))?;
        let supported = self
            .kvm
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(Error::kvm("list its CPUID"))?;
        Ok(kind_of(&vcpu, &supported))
    }
}

/// Kind of the KVM that `vcpu` belongs to.
pub(crate) fn kind_of(vcpu: &kvm_ioctls::VcpuFd, supported: &CpuId) -> KvmKind {
    let entry = kvm_msr_entry { index: MSR_PVM_SIGNATURE, ..Default::default() };
    let Ok(mut msrs) = Msrs::from_entries(&[entry]) else { return KvmKind::Hardware(vendor(supported)) };
    match vcpu.get_msrs(&mut msrs) {
        Ok(1) if msrs.as_slice()[0].data == PVM_SIGNATURE => KvmKind::Pvm,
        _ => KvmKind::Hardware(vendor(supported)),
    }
}

fn vendor(supported: &CpuId) -> Vendor {
    let Some(leaf) = supported.as_slice().iter().find(|entry| entry.function == 0) else {
        return Vendor::Other;
    };
    match [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat().as_slice() {
        b"GenuineIntel" => Vendor::Intel,
        b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
        _ => Vendor::Other,
    }
}
