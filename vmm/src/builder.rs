//! The boot recipe, in the order in which a machine is put together.

use std::fmt::Write as _;
use std::io::Seek as _;
use std::sync::{Arc, Mutex};

use kvm_ioctls::{Cap, IoEventAddress, VcpuFd, VmFd};
use rkvm_guest_protocol::TEMPLATE_WORD;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::arch::x86_64::acpi::{self, SerialPort, Window};
use crate::arch::x86_64::{boot_params, cpuid, layout, mptable, pvh, registers};
use crate::config::{Console, HugePages, Image, Processors, VmConfig};
use crate::devices::{BootMarker, MmioBus, PortBus, SERIAL_IRQ, SERIAL_PORT, SerialConsole};
use crate::error::{Error, Result};
use crate::event_loop::EventLoop;
use crate::events::Events;
use crate::host::{Host, KvmKind};
use crate::hull::{Hull, Origin, Outline};
use crate::kernel::{self, Entry, Finds, Loaded};
use crate::memory::ahead::Ahead;
use crate::memory::{GuestMemory, Shown};
use crate::template::Recorder;
use crate::vcpu::{Control, Counters, Vcpu};
use crate::virtio::mmio::{ACK_OFFSET, LATER, MmioTransport, NOTIFY_OFFSET};
use crate::virtio::window::Windows;
use crate::virtio::{Interrupt, VirtioDevice};
use crate::vm::{Begun, Microvm, Parts};

/// Ends the machine at once when the guest's kernel reboots or panics: by a triple fault, there is no firmware to ask.
const CMDLINE: &str = "reboot=t panic=-1";
/// What the kernel prints before it dies, straight to the port; no driver is probed for.
const CMDLINE_EMERGENCY: &str = "quiet earlyprintk=serial,0x3f8,115200,keep 8250.nr_uarts=0";
const CMDLINE_FULL: &str = "console=ttyS0";
/// The kernel starts one processor, init the others.
const CMDLINE_ONE_PROCESSOR: &str = "maxcpus=1";

/// Builds the microVM that `config` describes; [`Microvm::start`] runs it.
///
/// No path is opened and no thread is left, so this and what is started from it can be in a jail.
///
/// # Errors
/// A file does not fit, or KVM refuses a step.
pub fn build(host: &Host, mut config: VmConfig) -> Result<Microvm> {
    let outline = Outline {
        vcpus: config.vcpus,
        memory_mib: config.memory_mib,
        huge_pages: config.huge_pages,
        devices: config.devices.len(),
        template: std::mem::take(&mut config.template),
    };
    finish(host, Hull::lay(host, outline)?, config)
}

/// As [`build`], over a hull of the size that `config` has; where the machine begins is up to the hull.
///
/// # Errors
/// As for [`build`].
pub fn finish(host: &Host, hull: Hull, mut config: VmConfig) -> Result<Microvm> {
    let devices = std::mem::take(&mut config.devices);
    if !hull.fits(devices.len()) {
        return Err(Error::Config {
            setting: "devices",
            value: devices.len() as u64,
            wanted: "as many as the hull was made for",
        });
    }
    let boots = !hull.resumes();
    let Hull { ram, vm, registers, shown, supported, vcpus: mut vcpu_fds, kind, origin, .. } = hull;
    let memory = ram.memory();
    let ahead = (boots && config.huge_pages == HugePages::Transparent).then(|| Ahead::new(memory));
    let event_loop = EventLoop::new()?;
    let (bus, windows) = attach_devices(&vm, memory, &registers, &event_loop, devices)?;
    if shown == Shown::Yes && vm.check_extension(Cap::CoalescedMmio) {
        keep_writes(&vm, &windows, &mut vcpu_fds)?;
    }
    let entry = match boots {
        true => {
            let recorded = matches!(origin, Origin::RecordedBoot);
            Some(prepare_boot(&config, recorded, memory, ahead.as_ref(), kind, &windows)?)
        }
        false => None,
    };
    drop(ahead);

    let events = Arc::new(Events::new()?);
    let interrupt = EventFd::new(EFD_NONBLOCK).map_err(Error::os("make an event descriptor"))?;
    vm.register_irqfd(&interrupt, SERIAL_IRQ).map_err(Error::kvm("connect an interrupt line"))?;
    let ports = Arc::new(Mutex::new(PortBus {
        console: SerialConsole::new(interrupt, config.console_output),
        marker: BootMarker::new(Arc::clone(&events)),
    }));

    let counters = Arc::new(Counters::default());
    let control = Arc::new(Control::default());
    let processors = vcpu_fds.len() as u8;
    let mut vcpus = Vec::with_capacity(vcpu_fds.len());
    for (index, fd) in (0..).zip(vcpu_fds) {
        fd.set_cpuid2(&cpuid::for_vcpu(&supported, kind, index, processors))
            .map_err(Error::kvm("set CPUID"))?;
        registers::set_common_state(&fd)?;
        if let (0, Some(entry)) = (index, entry) {
            registers::set_boot_state(&fd, entry)?;
        }
        vcpus.push(Vcpu {
            fd,
            ports: Arc::clone(&ports),
            windows: bus.clone(),
            counters: Arc::clone(&counters),
            events: Arc::clone(&events),
            control: Arc::clone(&control),
            recorder: None,
        });
    }
    let (mut begun, mut recording) = (None, None);
    match origin {
        Origin::Boot => {}
        Origin::RecordedBoot => {
            let (recorder, ours) = Recorder::new(&host.kvm, &vm, memory, &bus, kind, &supported)?;
            (vcpus[0].recorder, recording) = (Some(recorder), Some(ours));
        }
        Origin::Template(resumption) => begun = Some(Begun::with(resumption)),
    }
    let parts = Parts {
        vm,
        ram,
        registers,
        event_loop,
        vcpus,
        control,
        events,
        ports,
        counters,
        kind,
        begun,
        recording,
    };
    Ok(Microvm::new(parts))
}

/// Loads kernel and initramfs, and writes what the kernel is told; where it begins.
fn prepare_boot(
    config: &VmConfig,
    recorded: bool,
    memory: &GuestMemory,
    ahead: Option<&Ahead>,
    kind: KvmKind,
    windows: &[Window],
) -> Result<Entry> {
    let info = kernel::inspect(&config.kernel)?;
    if let (Some(ahead), Some(end)) = (ahead, info.end) {
        ahead.begin(end);
    }
    let kernel = kernel::load(memory, &info, &config.kernel, config.protocol, kind, config.memory_mib)?;
    let initrd = match &config.initrd {
        Some(image) => Some(load_initrd(memory, image, &kernel, config.memory_mib)?),
        None => None,
    };
    let mut cmdline = first_words(config.console, config.processors);
    if recorded {
        let _ = write!(cmdline, " {TEMPLATE_WORD}=1");
    }
    match kernel.finds {
        Finds::Acpi => {
            let serial = SerialPort { port: SERIAL_PORT, irq: SERIAL_IRQ };
            let serial = (config.console != Console::Emergency).then_some(serial);
            acpi::write(memory, config.vcpus, windows, serial)?;
        }
        Finds::MpTable => {
            for Window { base, irq } in windows {
                let _ = write!(cmdline, " virtio_mmio.device=4K@{base:#x}:{irq}");
            }
            let mut lines = interrupt_lines(config.console);
            lines.extend(windows.iter().map(|window| window.irq));
            mptable::write(memory, config.vcpus, &lines)?;
        }
    }
    let _ = write!(cmdline, " {}", config.cmdline);
    match kernel.entry {
        Entry::Linux(_) => boot_params::write(memory, &cmdline, initrd, kernel.header)?,
        Entry::Pvh(_) => pvh::write(memory, &cmdline, initrd)?,
    }
    registers::write_tables(memory)?;
    Ok(kernel.entry)
}

/// The beginning of the command line: what the machine is like.
fn first_words(console: Console, processors: Processors) -> String {
    let mut words = match console {
        Console::Emergency => format!("{CMDLINE} {CMDLINE_EMERGENCY}"),
        Console::Full => format!("{CMDLINE} {CMDLINE_FULL}"),
        Console::Unset => String::new(),
    };
    if processors == Processors::ByInit {
        let _ = write!(words, " {CMDLINE_ONE_PROCESSOR}");
    }
    words
}

/// Lines of the IO-APIC that have something behind them even without a virtio device.
fn interrupt_lines(console: Console) -> Vec<u32> {
    match console {
        Console::Emergency => vec![],
        Console::Full | Console::Unset => vec![SERIAL_IRQ],
    }
}

/// Gives each device a window, an interrupt line and a notification descriptor a queue.
fn attach_devices(
    vm: &VmFd,
    memory: &GuestMemory,
    registers: &Windows,
    event_loop: &EventLoop,
    devices: Vec<Box<dyn VirtioDevice>>,
) -> Result<(MmioBus, Vec<Window>)> {
    let limit = (layout::LAST_IRQ - layout::VIRTIO_FIRST_IRQ + 1) as usize;
    if devices.len() > limit {
        return Err(Error::TooManyDevices { count: devices.len(), limit });
    }
    let event = || EventFd::new(EFD_NONBLOCK).map_err(Error::os("make an event descriptor"));
    let (mut bus, mut windows) = (MmioBus::default(), Vec::new());
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
        // Nobody reads it: what the guest acknowledges so is over with the write.
        vm.register_ioevent(&event()?, &IoEventAddress::Mmio(base + ACK_OFFSET), Interrupt::USED_BUFFER)
            .map_err(Error::kvm("connect an interrupt's acknowledgement"))?;
        let (window, endpoint) = (registers.window(index), event_loop.endpoint());
        bus.push(MmioTransport::new(device, memory.clone(), window, line, notifiers, endpoint));
        windows.push(Window { base, irq });
    }
    Ok((bus, windows))
}

/// Has KVM keep writes to registers that can wait. Only where no read exits: one that did would have to wait for them.
fn keep_writes(vm: &VmFd, windows: &[Window], vcpus: &mut [VcpuFd]) -> Result<()> {
    for vcpu in vcpus {
        vcpu.map_coalesced_mmio_ring().map_err(Error::kvm("map the kept writes"))?;
    }
    for (window, registers) in windows.iter().flat_map(|window| LATER.map(|registers| (window, registers))) {
        let address = IoEventAddress::Mmio(window.base + registers.start);
        vm.register_coalesced_mmio(address, (registers.end - registers.start) as u32)
            .map_err(Error::kvm("keep writes to registers"))?;
    }
    Ok(())
}

/// Loads the initramfs right behind the kernel, where guest memory is backed already: at another place it would take a huge page of
/// its own.
fn load_initrd(
    memory: &GuestMemory,
    image: &Image,
    kernel: &Loaded,
    memory_mib: u32,
) -> Result<boot_params::Initrd> {
    const PAGE: u64 = 4096;
    let read = |source| Error::Read { path: image.name.clone(), source };
    let mut file = &image.file;
    let bytes = file.metadata().map_err(read)?.len();
    file.rewind().map_err(read)?;
    let address = kernel.end.next_multiple_of(PAGE);
    if address.checked_add(bytes).is_none_or(|end| end > kernel.initrd_max) {
        return Err(Error::DoesNotFit { what: "the initramfs", bytes, memory_mib });
    }
    memory
        .read_exact_volatile_from(GuestAddress(address), &mut file, bytes as usize)
        .map_err(Error::write("the initramfs"))?;
    Ok(boot_params::Initrd { address, bytes: bytes as u32 })
}
