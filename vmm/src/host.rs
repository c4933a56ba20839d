//! What this host's `/dev/kvm` offers.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry};
use kvm_ioctls::{Cap, Kvm};

use crate::error::{Error, Result};

/// MSR whose value tells that the host runs guests without hardware virtualization (PVM).
pub const MSR_PVM_SIGNATURE: u32 = 0x4b56_4d11;
/// MSR through which a vCPU of a PVM guest opts in to native execution; part of a vCPU's state.
pub const MSR_PVM_REGISTER: u32 = 0x4b56_4d10;
const KVM_DEVICE: &str = "/dev/kvm";
/// The only version since Linux 2.6.22 (Documentation/virt/kvm/api.rst, 4.1).
const API_VERSION: i32 = 12;
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

/// What a user can be told about this host.
#[derive(Debug)]
pub enum Offer {
    /// Virtual machines run here.
    Kvm(KvmKind),
    /// They do not; why, and what to do.
    None(Error),
}

impl Offer {
    /// Asks `/dev/kvm`.
    pub fn ask() -> Self {
        Host::open().and_then(|host| host.kind()).map_or_else(Self::None, Self::Kvm)
    }
}

impl std::fmt::Display for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kvm(kind) => kind.fmt(f),
            Self::None(error) => write!(f, "none: {error}"),
        }
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
        Self::open_at(Path::new(KVM_DEVICE))
    }

    fn open_at(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|source| Error::OpenKvm {
            path: path.into(),
            hint: hint(&source),
            source,
        })?;
        Self::from_fd(file.into(), path)
    }

    /// As [`Host::open`], over an open descriptor that errors call `name`.
    ///
    /// # Errors
    /// It is not KVM's, or lacks a capability.
    pub fn from_fd(descriptor: OwnedFd, name: &Path) -> Result<Self> {
        let kvm = sys::kvm(descriptor);
        let version = kvm.get_api_version();
        if version < 0 {
            let source = io::Error::from_raw_os_error(libc::ENOTTY);
            return Err(Error::OpenKvm { path: name.into(), hint: "it is another device", source });
        }
        if version != API_VERSION {
            return Err(Error::KvmVersion { path: name.into(), version, wanted: API_VERSION });
        }
        for (capability, name) in [
            (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
            (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
            (Cap::Irqfd, "KVM_CAP_IRQFD"),
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
            (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        ] {
            if !kvm.check_extension(capability) {
                return Err(Error::MissingCapability { capability: name });
            }
        }
        Ok(Self { kvm })
    }

    /// What guests see of the processor, with what each needs.
    ///
    /// # Errors
    /// KVM does not say, or a feature is missing.
    pub(crate) fn cpuid(&self) -> Result<CpuId> {
        let supported =
            self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::kvm("list its CPUID"))?;
        check_features(&supported)?;
        Ok(supported)
    }

    /// Which kind of KVM this is: asks a throw-away vCPU for the PVM signature, which any other host refuses.
    ///
    /// # Errors
    /// No VM can be made.
    pub fn kind(&self) -> Result<KvmKind> {
        let supported = self.cpuid()?;
        let vm = self.kvm.create_vm().map_err(Error::kvm("create a VM"))?;
        let vcpu = vm.create_vcpu(0).map_err(Error::kvm("create a vCPU"))?;
        Ok(kind_of(&vcpu, &supported))
    }
}

/// Checks that guests will find what they need.
fn check_features(supported: &CpuId) -> Result<()> {
    let leaf = |function| {
        supported.as_slice().iter().find(|entry| entry.function == function).copied().unwrap_or_default()
    };
    let (basic, extended) = (leaf(1), leaf(0x8000_0001));
    for (present, feature) in [
        (basic.edx & (1 << 6) != 0, "physical address extension (pae)"),
        (basic.edx & (1 << 9) != 0, "local APIC (apic)"),
        (basic.edx & (1 << 26) != 0, "SSE2 (sse2)"),
        (extended.edx & (1 << 20) != 0, "no-execute pages (nx)"),
        (extended.edx & (1 << 29) != 0, "64-bit mode (lm)"),
    ] {
        if !present {
            return Err(Error::MissingFeature { feature });
        }
    }
    Ok(())
}

/// What to do about a `/dev/kvm` that cannot be opened.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => {
            "this host has no KVM: load kvm_intel or kvm_amd, switch virtualization on in its firmware, or, in a virtual \
             machine, enable nested virtualization; --isolation=container works without"
        }
        Some(libc::EACCES | libc::EPERM) => {
            "no permission: run as root, or join the group that owns it; root is refused where it is on a file system mounted \
             nodev, or not among the devices that the cgroup of a container allows"
        }
        Some(libc::EBUSY) => "another hypervisor has the processor's virtualization in use",
        _ => "see the kernel log (dmesg)",
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

mod sys;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_missing_or_another_says_what_to_do() {
        let error = |path| Host::open_at(Path::new(path)).map(drop).unwrap_err().to_string();
        assert!(error("/nonexistent/kvm").contains("cannot open /nonexistent/kvm: this host has no KVM"));
        assert!(error("/dev/null").contains("cannot open /dev/null: it is another device"));
    }

    #[test]
    fn a_feature_that_is_missing_is_named() {
        let entry = |function, edx| kvm_bindings::kvm_cpuid_entry2 { function, edx, ..Default::default() };
        let check = |basic: u32, extended: u32| {
            check_features(&CpuId::from_entries(&[entry(1, basic), entry(0x8000_0001, extended)]).unwrap())
        };
        let (basic, extended) = (1 << 6 | 1 << 9 | 1 << 26, 1 << 20 | 1 << 29);
        check(basic, extended).unwrap();
        for (basic, extended, name) in [
            (basic & !(1 << 6), extended, "(pae)"),
            (basic & !(1 << 9), extended, "(apic)"),
            (basic & !(1 << 26), extended, "(sse2)"),
            (basic, extended & !(1 << 20), "(nx)"),
            (basic, extended & !(1 << 29), "(lm)"),
            (0, 0, "(pae)"),
        ] {
            let error = check(basic, extended).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("guests need it"), "{error}");
        }
    }
}
