//! From outline and plan to a running machine.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rkvm_guest_protocol::host::Connection;
use rkvm_guest_protocol::{GuestSetup, INIT_PORT, Link, ToGuest};
use rkvm_oci::{Error, Result};

use super::given::{self, Given};
use super::session;
use crate::backend::channel::Channel;
use crate::backend::plan::{FoundLink, NamedFile, Outline, Plan, PlannedStreams, PlannedTemplate};
use crate::config::HugePages;
use crate::hull::{self, Hull};
use crate::jail::seccomp::{self, Thread};
use crate::jail::{self, Closed, Enclosure, Streams};
use crate::template::{Recorded, Template};
use crate::virtio::balloon::{Balloon, Offers};
use crate::virtio::block::Block;
use crate::virtio::console::{Console, TerminalSize};
use crate::virtio::fs::{Fs, Share};
use crate::virtio::net::Net;
use crate::virtio::rng::Rng;
use crate::virtio::vsock::Vsock;
use crate::{Access, Host, Image, Microvm, Processors, VmConfig, builder};

/// What is left of the plan for the conversation with the guest.
pub(super) struct Parts {
    /// The stream of the guest's init, which has been told everything.
    pub guest: Connection,
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
}

/// No network link but those that are asked for.
const CMDLINE: &str = "dummy.numdummies=0";

fn vmm(error: crate::Error) -> Error {
    Error::failed("start", "the microVM", crate::backend::chain(&error))
}

/// A machine as far as it can be made from its outline.
pub(super) struct Begun {
    host: Host,
    hull: Hull,
    vcpus: u8,
    memory_mib: u32,
    /// The link of a network namespace that was joined.
    found: Option<(Link, Net)>,
}

impl Begun {
    /// Has KVM make it, and begins to fill its memory if it begins with a template.
    ///
    /// # Errors
    /// KVM refuses a step, or the template cannot be read.
    pub(super) fn from(outline: Outline) -> Result<Self> {
        let Outline { kvm, vcpus, memory_mib, devices, template, found } = outline;
        let host = Host::from_fd(given::inherited(kvm)?, Path::new("/dev/kvm")).map_err(vmm)?;
        let found = found
            .map(|FoundLink { link, tap }| net(given::inherited(tap.fd)?, tap.mac).map(|net| (link, net)))
            .transpose()?;
        let template = match template {
            PlannedTemplate::None => Template::None,
            PlannedTemplate::Record => Template::Record,
            PlannedTemplate::Use { fd, key } => {
                let recorded = Recorded::open(File::from(given::inherited(fd)?), &key);
                let failed = |source| Error::failed("use", "the template of such machines", source);
                Template::Use(Box::new(recorded.map_err(failed)?))
            }
        };
        let hull = lay(&host, vcpus, memory_mib, devices, template)?;
        Ok(Self { host, hull, vcpus, memory_mib, found })
    }

    /// Closes the jail around the process and plans the rest of the machine.
    ///
    /// # Errors
    /// A hook or a step of the jail fails, or a device cannot be made.
    pub(super) fn enclose(self, mut plan: Plan, mut given: Given, channel: &Channel) -> Result<Enclosed> {
        let Self { host, mut hull, vcpus, memory_mib, found } = self;
        let terminal = matches!(plan.streams, PlannedStreams::Terminal(_));
        let Closed { proc_self_fd, mounts, link: made } = enclosure(&mut plan, &mut given)?.close(channel)?;
        let made = made.map(|(link, tap, mac)| net(tap, mac).map(|net| (link, net))).transpose()?;
        // At most one of them is there.
        let mut link = None;
        for (mut told, net) in found.into_iter().chain(made) {
            if plan.setup.own.is_none() {
                // The device's is the same.
                told.hardware_address = None;
            }
            plan.setup.links.push(told);
            link = Some(net);
        }
        if let Some(tap) = &plan.tap {
            link = Some(net(given.take(tap.fd)?, tap.mac)?);
        }
        let (mut config, guest) = configuration(&plan, &mut given, proc_self_fd, link)?;
        (config.vcpus, config.memory_mib) = (vcpus, memory_mib);
        let devices = config.devices.len();
        if !hull.fits(devices) {
            // There is a link that was not expected, or none: what it begins with is for machines of another shape.
            hull = lay(&host, vcpus, memory_mib, devices, Template::None)?;
        }
        let parts = Parts {
            guest: Connection::new(guest).map_err(session::guest)?,
            control: UnixListener::from(given.take(plan.control)?),
            oom_kills: File::from(given.take(plan.oom_kills)?),
            terminal,
            at_once: plan.at_once,
            boot_limit: Duration::from_millis(plan.boot_timeout_ms),
        };
        Ok(Enclosed { host, hull, config, parts, setup: plan.setup, mounts })
    }
}

/// A machine with all that belongs to it, in a process that is in its jail.
pub(super) struct Enclosed {
    host: Host,
    hull: Hull,
    config: VmConfig,
    parts: Parts,
    /// What the guest is told.
    setup: GuestSetup,
    /// The process's mount namespace.
    mounts: OwnedFd,
}

impl Enclosed {
    /// Whether the guest goes on from a template.
    pub(super) fn resumes(&self) -> bool {
        self.hull.resumes()
    }

    /// Builds the machine and lets it run. Beside it, the process's mount namespace.
    ///
    /// # Errors
    /// A step of the machine's fails.
    pub(super) fn start(self) -> Result<(Microvm, Parts, OwnedFd)> {
        let Self { host, hull, config, mut parts, mut setup, mounts } = self;
        let machine = builder::finish(&host, hull, config).map_err(vmm)?;
        let mut told = Ok(());
        // It is there when the guest looks for it: a guest of another version says so first, and then fails to understand it.
        let tell = || {
            if let (Some(own), Some(behind)) = (&mut setup.own, machine.behind()) {
                own.behind = behind;
            }
            parts.guest.send(&ToGuest::Setup(Box::new(setup)));
            if parts.at_once {
                parts.guest.send(&ToGuest::Start);
            }
            told = parts.guest.flush();
        };
        machine.start_after(|kind| seccomp::confine(Thread::Of(kind)), tell).map_err(vmm)?;
        told.map_err(session::guest)?;
        Ok((machine, parts, mounts))
    }
}

fn lay(host: &Host, vcpus: u8, memory_mib: u32, devices: usize, template: Template) -> Result<Hull> {
    let huge_pages = HugePages::default();
    Hull::lay(host, hull::Outline { vcpus, memory_mib, huge_pages, devices, template }).map_err(vmm)
}

fn net(tap: OwnedFd, mac: [u8; 6]) -> Result<Net> {
    Net::new(tap, mac).map_err(vmm)
}

/// The inner part of the jail.
fn enclosure(plan: &mut Plan, given: &mut Given) -> Result<Enclosure> {
    let shares = std::mem::take(&mut plan.shares).into_iter().map(|share| {
        let tree = given.take(share.tree)?;
        Ok(jail::Share { name: share.name, tree, place: share.place })
    });
    let shares = shares.collect::<Result<_>>()?;
    let streams = match plan.streams {
        PlannedStreams::Inherited => Streams::Inherited,
        PlannedStreams::Given([stdin, stdout, stderr]) => {
            Streams::Given([given.take(stdin)?, given.take(stdout)?, given.take(stderr)?])
        }
        PlannedStreams::Terminal(slave) => Streams::Terminal(given.take(slave)?),
    };
    let (hooks, state) = (plan.hooks.take(), plan.state.take());
    Ok(Enclosure { shares, hooks, state, connected_by_hooks: plan.connected_by_hooks, streams })
}

/// The machine's devices and what it boots; our end of the guest's stream.
fn configuration(
    plan: &Plan,
    given: &mut Given,
    proc_self_fd: OwnedFd,
    link: Option<Net>,
) -> Result<(VmConfig, UnixStream)> {
    let image = |file: &NamedFile, given: &mut Given| -> Result<Image> {
        Ok(Image { name: file.path.clone(), file: File::from(given.take(file.fd)?) })
    };
    let mut config = VmConfig::new(image(&plan.kernel, given)?);
    config.initrd = Some(image(&plan.initrd, given)?);
    config.cmdline = format!("{CMDLINE} {}", plan.cmdline);
    config.processors = Processors::ByInit;
    config.attach(Rng::over(File::from(given.take(plan.entropy)?)));
    if let Some(image) = &plan.image {
        let file = File::from(given.take(image.fd)?);
        config.attach(Block::new(file, &image.path, Access::ReadOnly, "rkvm-image").map_err(vmm)?);
    }
    for disk in &plan.disks {
        let access = if disk.writable { Access::ReadWrite } else { Access::ReadOnly };
        let file = File::from(given.take(disk.file.fd)?);
        config.attach(Block::new(file, &disk.file.path, access, &disk.serial).map_err(vmm)?);
    }
    let proc_self_fd = Some(Arc::new(File::from(proc_self_fd)));
    config.attach(Fs::open(&Share { root: "/".into(), proc_self_fd }).map_err(vmm)?);
    let failed = |source| Error::failed("connect", "the guest's sockets", source);
    let (guest, theirs) = UnixStream::pair().map_err(failed)?;
    let listener = UnixListener::from(given.take(plan.vsock)?);
    config.attach(Vsock::new(listener).map_err(vmm)?.offer(INIT_PORT, theirs));
    if let Some(link) = link {
        config.attach(link);
    }
    if let Some(end) = plan.console {
        let output = given.take(end)?;
        let input = output.try_clone().map_err(failed)?;
        let size = TerminalSize { columns: 80, rows: 25 };
        config.attach(Console::new(input, output, size).map_err(vmm)?);
        config.cmdline = format!("{CMDLINE} console=hvc0 {}", plan.cmdline);
    }
    config.attach(Balloon::new(Offers::NoStatistics).map_err(vmm)?);
    Ok((config, guest))
}

/// How many devices a machine has, as [`configuration`] gives them to it.
pub(crate) fn device_count(image: bool, disks: usize, link: bool, console: bool) -> usize {
    /// Random numbers, shared folders, sockets, balloon.
    const ALWAYS: usize = 4;
    ALWAYS + disks + [image, link, console].into_iter().filter(|there| *there).count()
}
