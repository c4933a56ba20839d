//! The boot recipe, in the order in which a machine is put together.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex};

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{IoEventAddress, VmFd};
use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::arch::x86_64::{boot_params, cpuid, layout, mptable, registers};
use crate::config::VmConfig;
use crate::devices::{BootMarker, Console, MmioBus, PortBus, SERIAL_IRQ};
use crate::error::{Error, Result};
use crate::event_loop::EventLoop;
use crate::host::Host;
use crate::memory::{self, GuestMemory};
use crate::vcpu::{ExitCounts, Vcpu};
use crate::virtio::block::Block;
use crate::virtio::mmio::{MmioTransport, NOTIFY_OFFSET};
use crate::virtio::rng::Rng;
use crate::virtio::vsock::Vsock;
use crate::virtio::{Interrupt, VirtioDevice};
use crate::vm::{Microvm, Parts};

/// Builds the microVM that `config` describes; [`Microvm::start`] runs it. The guest's console goes to `console`.
///
/// # Errors
/// A file is missing or does not fit, or KVM refuses a step.
pub fn build(host: &Host, config: &VmConfig, console: Option<Box<dyn Write + Send>>) -> Result<Microvm> {
    config.validate()?;
    // Memory first: with an interrupt controller in place each region costs a grace period.
    let vm = host.kvm.create_vm().map_err(Error::kvm("create a VM"))?;
    let memory = memory::map(config.memory_mib)?;
    memory::register(&vm, &memory)?;
    vm.create_irq_chip().map_err(Error::kvm("create the interrupt controllers"))?;
    vm.set_tss_address(layout::KVM_TSS).map_err(Error::kvm("place the TSS"))?;

    let event_loop = EventLoop::start()?;
    let mut cmdline = config.cmdline.clone();
    let windows = attach_devices(&vm, &memory, &event_loop, devices(config)?, &mut cmdline)?;

    let entry = load_kernel(&memory, config)?;
    let initrd = load_initrd(&memory, config)?;
    boot_params::write(&memory, &cmdline, initrd)?;
    mptable::write(&memory, config.vcpus)?;
    registers::write_tables(&memory)?;

    let interrupt = EventFd::new(EFD_NONBLOCK).map_err(Error::os("make an event descriptor"))?;
    vm.register_irqfd(&interrupt, SERIAL_IRQ).map_err(Error::kvm("connect an interrupt line"))?;
    let ports = Arc::new(Mutex::new(PortBus {
        console: Console::new(interrupt, console),
        marker: BootMarker::default(),
    }));

    let supported =
        host.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::kvm("list its CPUID"))?;
    let counts = Arc::new(Mutex::new(ExitCounts::new()));
    let mut vcpus = Vec::with_capacity(config.vcpus.into());
    for index in 0..config.vcpus {
        let fd = vm.create_vcpu(index.into()).map_err(Error::kvm("create a vCPU"))?;
        fd.set_cpuid2(&cpuid::for_vcpu(&supported, index, config.vcpus)).map_err(Error::kvm("set CPUID"))?;
        registers::set_common_state(&fd)?;
        if index == 0 {
            registers::set_boot_state(&fd, entry)?;
        }
        vcpus.push(Vcpu {
            fd,
            ports: Arc::clone(&ports),
            windows: windows.clone(),
            counts: Arc::clone(&counts),
        });
    }
    Ok(Microvm::new(Parts { vm, memory, event_loop, vcpus, ports, counts }))
}

/// The virtio devices of `config`, in the order of their windows.
fn devices(config: &VmConfig) -> Result<Vec<Box<dyn VirtioDevice>>> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = vec![Box::new(Rng::new()?)];
    for (index, disk) in config.disks.iter().enumerate() {
        devices.push(Box::new(Block::open(&disk.path, disk.access, &format!("rkvm-disk{index}"))?));
    }
    if let Some(path) = &config.vsock {
        devices.push(Box::new(Vsock::bind(path)?));
    }
    Ok(devices)
}

/// Gives each device a window, an interrupt line and a notification descriptor a queue, and names it on the command line, which
/// is where a kernel without firmware tables finds it.
fn attach_devices(
    vm: &VmFd,
    memory: &GuestMemory,
    event_loop: &EventLoop,
    devices: Vec<Box<dyn VirtioDevice>>,
    cmdline: &mut String,
) -> Result<MmioBus> {
    let limit = (layout::LAST_IRQ - layout::VIRTIO_FIRST_IRQ + 1) as usize;
    if devices.len() > limit {
        return Err(Error::TooManyDevices { count: devices.len(), limit });
    }
    let event = || EventFd::new(EFD_NONBLOCK).map_err(Error::os("make an event descriptor"));
    let mut windows = MmioBus::default();
    for (index, device) in devices.into_iter().enumerate() {
        let base = layout::VIRTIO_MMIO_START + index as u64 * layout::VIRTIO_MMIO_SIZE;
        let irq = layout::VIRTIO_FIRST_IRQ + index as u32;
        let line = event()?;
        vm.register_irqfd(&line, irq).map_err(Error::kvm("connect an interrupt line"))?;
        let mut notifiers = Vec::new();
        for queue in 0..device.queue_sizes().len() as u32 {
            let notifier = event()?;
            vm.register_ioevent(&notifier, &IoEventAddress::Mmio(base + NOTIFY_OFFSET), queue)
                .map_err(Error::kvm("connect a queue's notification"))?;
            notifiers.push(Arc::new(notifier));
        }
        let interrupt = Interrupt::new(line);
        windows.push(MmioTransport::new(device, memory.clone(), interrupt, notifiers, event_loop.endpoint()));
        let _ = write!(cmdline, " virtio_mmio.device=4K@{base:#x}:{irq}");
    }
    Ok(windows)
}

/// Loads the kernel and gives its 64-bit entry point back.
fn load_kernel(memory: &GuestMemory, config: &VmConfig) -> Result<u64> {
    let path = &config.kernel;
    let mut file = File::open(path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let loaded = Elf::load(memory, None, &mut file, Some(GuestAddress(layout::HIGH_MEMORY)))
        .map_err(|source| Error::NotAKernel { path: path.clone(), source })?;
    Ok(loaded.kernel_load.0)
}

/// Loads the initramfs at the end of low memory, out of the kernel's way.
fn load_initrd(memory: &GuestMemory, config: &VmConfig) -> Result<Option<boot_params::Initrd>> {
    const PAGE: u64 = 4096;
    let Some(path) = &config.initrd else { return Ok(None) };
    let read = |source| Error::Read { path: path.clone(), source };
    let mut file = File::open(path).map_err(read)?;
    let bytes = file.metadata().map_err(read)?.len();
    let low_end = memory.iter().next().map_or(0, |region| region.len());
    let room = low_end.saturating_sub(2 * layout::HIGH_MEMORY);
    if bytes > room {
        return Err(Error::DoesNotFit { what: "the initramfs", bytes, memory_mib: config.memory_mib });
    }
    let address = (low_end - bytes) & !(PAGE - 1);
    memory
        .read_exact_volatile_from(GuestAddress(address), &mut file, bytes as usize)
        .map_err(Error::write("the initramfs"))?;
    Ok(Some(boot_params::Initrd { address, bytes: bytes as u32 }))
}
