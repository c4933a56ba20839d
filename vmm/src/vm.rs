//! A built microVM: runs, pauses, waits, tells what happened.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_ioctls::VmFd;

use crate::devices::PortBus;
use crate::error::{Error, Result};
use crate::event_loop::EventLoop;
use crate::events::{End, Events, Marker};
use crate::host::KvmKind;
use crate::memory::Ram;
use crate::template::{Recording, Resumption};
use crate::vcpu::{self, Control, Counters, ExitCounts, Vcpu, Wanted};
use crate::virtio::mmio::Progress;
use crate::virtio::window::Windows;

/// How long vCPUs may take to come out of the guest. They are interrupted, so it is milliseconds, except on a host that is
/// out of processors.
const PARK_LIMIT: Duration = Duration::from_secs(10);

/// What a thread of the machine is for: each kind may be given its own system call filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadKind {
    /// Runs a vCPU.
    Vcpu,
    /// Runs the first vCPU of a machine that is recorded as a template: reads its state before it goes on.
    RecordedVcpu,
    /// Serves the devices' queues.
    Devices,
    /// Reads and writes a disk.
    Disk,
    /// Serves a shared folder; what it needs is in [`crate::virtio::fs`].
    FileServer,
}

/// What each thread of the machine does first.
#[derive(Clone)]
pub struct ThreadSetup {
    call: Arc<dyn Fn(ThreadKind) -> io::Result<()> + Send + Sync>,
    events: Arc<Events>,
}

impl ThreadSetup {
    /// For threads that are not confined: tests and benchmarks of single devices.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn unconfined() -> Result<Self> {
        Ok(Self { call: Arc::new(|_| Ok(())), events: Arc::new(Events::new()?) })
    }

    /// For threads that begin with `setup`.
    #[cfg(any(test, feature = "testing"))]
    #[allow(clippy::unwrap_used, reason = "for tests")]
    pub(crate) fn of(setup: impl Fn(ThreadKind) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self { call: Arc::new(setup), events: Arc::new(Events::new().unwrap()) }
    }

    /// Whether the thread may go on; otherwise the machine ends.
    pub(crate) fn call(&self, kind: ThreadKind) -> bool {
        match (self.call)(kind) {
            Ok(()) => true,
            Err(error) => self.fail(&format!("confine a thread ({kind:?})"), &error),
        }
    }

    /// Ends the machine, because a thread cannot do `what`. Never true, as [`Self::call`] would not be.
    pub(crate) fn fail(&self, what: &str, error: &io::Error) -> bool {
        self.events.end(End::Device(format!("cannot {what}: {error}")));
        false
    }
}

/// A microVM, built and not yet ended. Every method may be called from any thread.
#[derive(Debug)]
pub struct Microvm {
    waiting: Mutex<Vec<Vcpu>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    control: Arc<Control>,
    events: Arc<Events>,
    ports: Arc<Mutex<PortBus>>,
    counters: Arc<Counters>,
    kind: KvmKind,
    begun: Option<Begun>,
    recording: Mutex<Option<Recording>>,
    // Dropped after the vCPU threads have ended (`Drop` joins them): devices, VM, and last its memory.
    event_loop: EventLoop,
    vm: Arc<VmFd>,
    _ram: Ram,
    _registers: Windows,
}

/// What the builder has put together.
pub(crate) struct Parts {
    pub vm: Arc<VmFd>,
    pub ram: Ram,
    pub registers: Windows,
    pub event_loop: EventLoop,
    pub vcpus: Vec<Vcpu>,
    pub control: Arc<Control>,
    pub events: Arc<Events>,
    pub ports: Arc<Mutex<PortBus>>,
    pub counters: Arc<Counters>,
    pub kind: KvmKind,
    pub begun: Option<Begun>,
    pub recording: Option<Recording>,
}

/// How a machine begins that goes on from a template.
#[derive(Debug)]
pub(crate) struct Begun {
    /// Until it is started.
    resumption: Mutex<Option<Resumption>>,
    /// How far the guest's time of day is behind the host's, ns, from then on.
    behind: OnceLock<i64>,
}

impl Begun {
    pub fn with(resumption: Resumption) -> Self {
        Self { resumption: Mutex::new(Some(resumption)), behind: OnceLock::new() }
    }

    /// Ends what was begun; how far the drivers of the devices are.
    fn finish(&self, vm: &VmFd, first: &Vcpu) -> Result<Vec<Progress>> {
        let Some(resumption) = lock(&self.resumption).take() else { return Ok(vec![]) };
        // The other processors have not been started yet.
        let (behind, devices) = resumption.finish(vm, &first.fd)?;
        let _ = self.behind.set(behind);
        Ok(devices)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Microvm {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            waiting: Mutex::new(parts.vcpus),
            threads: Mutex::default(),
            control: parts.control,
            events: parts.events,
            ports: parts.ports,
            counters: parts.counters,
            kind: parts.kind,
            begun: parts.begun,
            recording: Mutex::new(parts.recording),
            event_loop: parts.event_loop,
            vm: parts.vm,
            _ram: parts.ram,
            _registers: parts.registers,
        }
    }

    /// Starts a thread for the devices and one a vCPU.
    ///
    /// # Errors
    /// The host has no thread left.
    pub fn start(&self) -> Result<()> {
        self.start_with(|_| Ok(()))
    }

    /// As [`Microvm::start`]; each thread first calls `setup`, which may confine it. If that fails the machine ends with
    /// [`End::Device`].
    ///
    /// # Errors
    /// The host has no thread left.
    pub fn start_with(
        &self,
        setup: impl Fn(ThreadKind) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<()> {
        self.start_after(setup, || ())
    }

    /// As [`Microvm::start_with`]; `last` is done right before the guest runs, when [`Microvm::behind`] is known.
    ///
    /// # Errors
    /// As for that.
    pub fn start_after(
        &self,
        setup: impl Fn(ThreadKind) -> io::Result<()> + Send + Sync + 'static,
        last: impl FnOnce(),
    ) -> Result<()> {
        let setup = ThreadSetup { call: Arc::new(setup), events: Arc::clone(&self.events) };
        vcpu::install_kick()?;
        self.event_loop.start(setup.clone())?;
        let vcpus = std::mem::take(&mut *lock(&self.waiting));
        let Some(first) = vcpus.first() else { return Ok(()) };
        let windows = first.windows.clone();
        match &self.begun {
            // The guest looks for its devices only after milliseconds.
            None => windows.start(&setup, || {
                last();
                self.start_vcpus(vcpus, &setup)
            }),
            Some(begun) => {
                let devices = begun.finish(&self.vm, first)?;
                // Its devices run already: what they are asked for waits until they have their threads.
                windows.go_on(devices)?;
                last();
                self.start_vcpus(vcpus, &setup)?;
                windows.start(&setup, || Ok(()))
            }
        }
    }

    fn start_vcpus(&self, vcpus: Vec<Vcpu>, setup: &ThreadSetup) -> Result<()> {
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let setup = setup.clone();
            let kind = if vcpu.recorder.is_some() { ThreadKind::RecordedVcpu } else { ThreadKind::Vcpu };
            self.control.join();
            let thread = thread::Builder::new()
                .name(format!("vcpu{index}"))
                .spawn(move || {
                    if setup.call(kind) {
                        vcpu.run();
                    } else {
                        vcpu.control.leave();
                    }
                })
                .inspect_err(|_| self.control.leave())
                .map_err(Error::os("start a vCPU thread"))?;
            lock(&self.threads).push(thread);
        }
        Ok(())
    }

    /// Waits until the guest ends, at most for `limit`; then stops every vCPU.
    pub fn wait(&self, limit: Option<Duration>) -> End {
        let end = self.events.wait_end(limit).unwrap_or(End::TimedOut);
        self.stop();
        end
    }

    /// Takes every vCPU out of the guest and keeps it there; they have left it when this returns. Devices stay responsive.
    ///
    /// # Errors
    /// [`Error::Pause`]: a vCPU's thread does not come; the machine runs on.
    pub fn pause(&self) -> Result<()> {
        self.control.want(Wanted::Pause);
        self.kick();
        if self.control.wait_parked(PARK_LIMIT) {
            return Ok(());
        }
        self.resume();
        Err(Error::Pause { seconds: PARK_LIMIT.as_secs() })
    }

    /// Lets paused vCPUs go on.
    pub fn resume(&self) {
        self.control.want(Wanted::Run);
    }

    /// Stops every vCPU for good and waits for their threads; the end is [`End::Stopped`] unless there was one before.
    pub fn stop(&self) {
        drop(self.recording());
        self.control.want(Wanted::Stop);
        self.kick();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            let _ = thread.join();
        }
    }

    fn kick(&self) {
        lock(&self.threads).iter().for_each(vcpu::kick);
    }

    /// Time stamps and the end; to be waited for or polled.
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// Time stamps that the guest asked for.
    pub fn markers(&self) -> Vec<Marker> {
        self.events.markers()
    }

    /// Of a machine that can be recorded: to be taken before it is stopped, which waits for its processor.
    pub fn recording(&self) -> Option<Recording> {
        lock(&self.recording).take()
    }

    /// How far the guest's time of day is behind the host's, ns, if the machine goes on from a template.
    pub fn behind(&self) -> Option<i64> {
        self.begun.as_ref().and_then(|begun| begun.behind.get().copied())
    }

    /// How KVM runs this guest.
    pub fn kind(&self) -> KvmKind {
        self.kind
    }

    /// The last lines of the guest's console.
    pub fn console_tail(&self, lines: usize) -> String {
        lock(&self.ports).console.last_lines(lines)
    }

    /// The number of KVM's descriptor of the machine.
    pub fn descriptor(&self) -> i32 {
        self.vm.as_raw_fd()
    }

    /// Exits of all vCPUs so far, by reason.
    pub fn exit_counts(&self) -> ExitCounts {
        self.counters.read()
    }
}

impl Drop for Microvm {
    fn drop(&mut self) {
        self.stop();
    }
}
