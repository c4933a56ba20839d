//! From the plan to a running machine.

use std::fs::File;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rkvm_guest_protocol::{GuestSetup, INIT_PORT};
use rkvm_oci::{Error, Result};

use super::descriptor;
use crate::backend::plan::{NamedFile, Plan, PlannedTemplate};
use crate::jail::seccomp::{self, Thread};
use crate::template::{Recorded, Template};
use crate::virtio::balloon::{Balloon, Offers};
use crate::virtio::block::Block;
use crate::virtio::console::{Console, TerminalSize};
use crate::virtio::fs::{Fs, Share};
use crate::virtio::net::Net;
use crate::virtio::rng::Rng;
use crate::virtio::vsock::Vsock;
use crate::{Access, Host, Image, Microvm, Processors, VmConfig};

/// What is left of the plan for the conversation with the guest.
pub(super) struct Parts {
    /// The stream of the guest's init.
    pub guest: UnixStream,
    /// Listens for commands.
    pub control: UnixListener,
    /// For the number of processes that the guest has killed for want of memory.
    pub oom_kills: File,
    /// Whether the streams 0, 1 and 2 are one terminal.
    pub terminal: bool,
    /// Whether the program is executed as soon as it can be.
    pub at_once: bool,
    /// How long the guest may take to become ready.
    pub boot_limit: Duration,
    /// What the guest is told.
    pub setup: GuestSetup,
}

/// No network link but those that are asked for.
const CMDLINE: &str = "dummy.numdummies=0";

fn vmm(error: crate::Error) -> Error {
    Error::failed("start", "the microVM", crate::backend::chain(&error))
}

fn image(file: &NamedFile) -> Result<Image> {
    Ok(Image { name: file.path.clone(), file: File::from(descriptor(file.fd)?) })
}

/// Builds the machine and lets it run.
pub(super) fn start(plan: Plan) -> Result<(Microvm, Parts)> {
    let host = Host::from_fd(descriptor(plan.kvm)?, Path::new("/dev/kvm")).map_err(vmm)?;
    let mut config = VmConfig::new(image(&plan.kernel)?);
    config.initrd = Some(image(&plan.initrd)?);
    config.cmdline = format!("{CMDLINE} {}", plan.cmdline);
    config.vcpus = plan.vcpus;
    config.processors = Processors::ByInit;
    config.memory_mib = plan.memory_mib;
    config.attach(Rng::over(File::from(descriptor(plan.entropy)?)));
    if let Some(image) = &plan.image {
        let file = File::from(descriptor(image.fd)?);
        config.attach(Block::new(file, &image.path, Access::ReadOnly, "rkvm-image").map_err(vmm)?);
    }
    for disk in &plan.disks {
        let access = if disk.writable { Access::ReadWrite } else { Access::ReadOnly };
        let file = File::from(descriptor(disk.file.fd)?);
        config.attach(Block::new(file, &disk.file.path, access, &disk.serial).map_err(vmm)?);
    }
    if plan.share.is_some() {
        let proc_self_fd = Some(Arc::new(File::from(descriptor(plan.proc_self_fd)?)));
        config.attach(Fs::open(&Share { root: "/".into(), proc_self_fd }).map_err(vmm)?);
    }
    let failed = |source| Error::failed("connect", "the guest's sockets", source);
    let (guest, theirs) = UnixStream::pair().map_err(failed)?;
    let listener = UnixListener::from(descriptor(plan.vsock)?);
    config.attach(Vsock::new(listener).map_err(vmm)?.offer(INIT_PORT, theirs));
    if let Some(tap) = &plan.tap {
        config.attach(Net::new(descriptor(tap.fd)?, tap.mac).map_err(vmm)?);
    }
    if let Some(end) = plan.console {
        let output = descriptor(end)?;
        let input = output.try_clone().map_err(failed)?;
        let size = TerminalSize { columns: 80, rows: 25 };
        config.attach(Console::new(input, output, size).map_err(vmm)?);
        config.cmdline = format!("{CMDLINE} console=hvc0 {}", plan.cmdline);
    }
    config.attach(Balloon::new(Offers::NoStatistics).map_err(vmm)?);
    config.template = match &plan.template {
        PlannedTemplate::None => Template::None,
        PlannedTemplate::Record => Template::Record,
        PlannedTemplate::Use { fd, key } => {
            let file = File::from(descriptor(*fd)?);
            let recorded = Recorded::open(file, key);
            let failed = |source| Error::failed("use", "the template of such machines", source);
            Template::Use(Box::new(recorded.map_err(failed)?))
        }
    };
    let control = UnixListener::from(descriptor(plan.control)?);
    let machine = crate::build(&host, config).map_err(vmm)?;
    machine.start_with(|kind| seccomp::confine(Thread::Of(kind))).map_err(vmm)?;
    let parts = Parts {
        guest,
        control,
        oom_kills: File::from(descriptor(plan.oom_kills)?),
        terminal: plan.terminal,
        at_once: plan.at_once,
        boot_limit: Duration::from_millis(plan.boot_timeout_ms),
        setup: plan.setup,
    };
    Ok((machine, parts))
}
