//! A machine of which nothing is known yet but its size: everything that takes long and needs neither its devices nor what it boots.

use std::sync::Arc;

use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuFd, VmFd};

use crate::arch::x86_64::layout;
use crate::config::{HugePages, check_size};
use crate::error::{Error, Result};
use crate::host::{self, Host, KvmKind};
use crate::memory::{self, Ram, Shown};
use crate::template::{Resumption, Template};
use crate::virtio::window::Windows;

/// What must be known for a hull.
#[derive(Debug)]
pub struct Outline {
    /// Virtual processors.
    pub vcpus: u8,
    /// Guest memory, MiB.
    pub memory_mib: u32,
    /// How it is backed.
    pub huge_pages: HugePages,
    /// How many virtio devices the machine will have.
    pub devices: usize,
    /// Where it begins, or what is made of it.
    pub template: Template,
}

/// Where the machine begins.
#[derive(Debug)]
pub(crate) enum Origin {
    Boot,
    /// As well, and it can be recorded.
    RecordedBoot,
    Template(Resumption),
}

/// The machine: KVM has it, with its memory, interrupt controllers and processors.
#[derive(Debug)]
pub struct Hull {
    pub(crate) ram: Ram,
    pub(crate) vm: Arc<VmFd>,
    pub(crate) registers: Windows,
    pub(crate) shown: Shown,
    pub(crate) supported: CpuId,
    pub(crate) vcpus: Vec<VcpuFd>,
    pub(crate) kind: KvmKind,
    pub(crate) origin: Origin,
    devices: usize,
}

impl Hull {
    /// Makes it.
    ///
    /// No path is opened. No thread is left but one that reads the memory of a template, until the machine is started or this is dropped.
    ///
    /// # Errors
    /// KVM refuses a step.
    pub fn lay(host: &Host, outline: Outline) -> Result<Self> {
        let Outline { vcpus, memory_mib, huge_pages, devices, template } = outline;
        check_size(vcpus, memory_mib)?;
        let ram = Ram::map(memory_mib, huge_pages)?;
        let origin = match template {
            Template::None => Origin::Boot,
            Template::Record => Origin::RecordedBoot,
            Template::Use(recorded) => Origin::Template(Resumption::begin(recorded, ram.memory())?),
        };
        let vm = Arc::new(host.kvm.create_vm().map_err(Error::kvm("create a VM"))?);
        // Memory first: with an interrupt controller in place each region costs a grace period.
        ram.register(&vm)?;
        let registers = Windows::new(devices)?;
        let shown = memory::show_windows(&vm, &registers)?;
        vm.create_irq_chip().map_err(Error::kvm("create the interrupt controllers"))?;
        vm.set_tss_address(layout::KVM_TSS).map_err(Error::kvm("place the TSS"))?;
        let supported = match &origin {
            Origin::Template(resumption) => resumption.cpuid()?,
            Origin::Boot | Origin::RecordedBoot => host.cpuid()?,
        };
        let vcpus = (0..vcpus)
            .map(|index| vm.create_vcpu(index.into()).map_err(Error::kvm("create a vCPU")))
            .collect::<Result<Vec<_>>>()?;
        let kind = host::kind_of(&vcpus[0], &supported);
        Ok(Self { ram, vm, registers, shown, supported, vcpus, kind, origin, devices })
    }

    /// Whether its guest goes on from a template.
    pub fn resumes(&self) -> bool {
        matches!(self.origin, Origin::Template(_))
    }

    /// Whether it is for a machine with so many devices.
    pub fn fits(&self, devices: usize) -> bool {
        self.devices == devices
    }
}
