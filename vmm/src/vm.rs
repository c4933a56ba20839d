//! A built microVM: runs, waits, tells what happened.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_ioctls::VmFd;
use vmm_sys_util::signal::{Killable, register_signal_handler};

use crate::devices::{Marker, PortBus};
use crate::error::{Error, Result};
use crate::event_loop::EventLoop;
use crate::memory::GuestMemory;
use crate::vcpu::{ExitCounts, Vcpu};

/// Why a microVM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The guest powered the machine off.
    PowerOff,
    /// The guest pulled the reset line.
    Reset,
    /// The guest's exception handling failed: its kernel crashed at once.
    TripleFault,
    /// KVM could not go on.
    Kvm(String),
    /// A device of the host side failed.
    Device(String),
    /// [`Microvm::stop`] was called.
    Stopped,
    /// The time given to [`Microvm::wait`] was over.
    TimedOut,
}

/// A microVM, built and not yet ended.
#[derive(Debug)]
pub struct Microvm {
    threads: Vec<JoinHandle<()>>,
    waiting: Vec<Vcpu>,
    ended: (mpsc::Sender<End>, mpsc::Receiver<End>),
    stopping: Arc<AtomicBool>,
    ports: Arc<Mutex<PortBus>>,
    counts: Arc<Mutex<ExitCounts>>,
    // Dropped after the vCPU threads have ended (`Drop` joins them): devices, VM, and last its memory.
    _event_loop: EventLoop,
    _vm: VmFd,
    _memory: GuestMemory,
}

/// What the builder has put together.
pub(crate) struct Parts {
    pub vm: VmFd,
    pub memory: GuestMemory,
    pub event_loop: EventLoop,
    pub vcpus: Vec<Vcpu>,
    pub ports: Arc<Mutex<PortBus>>,
    pub counts: Arc<Mutex<ExitCounts>>,
}

/// Interrupts `KVM_RUN` on a vCPU thread.
fn kick_signal() -> i32 {
    vmm_sys_util::signal::SIGRTMIN()
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Microvm {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { vm, memory, event_loop, vcpus, ports, counts } = parts;
        Self {
            threads: vec![],
            waiting: vcpus,
            ended: mpsc::channel(),
            stopping: Arc::new(AtomicBool::new(false)),
            ports,
            counts,
            _event_loop: event_loop,
            _vm: vm,
            _memory: memory,
        }
    }

    /// Starts a thread a vCPU.
    ///
    /// # Errors
    /// The host has no thread left.
    pub fn start(&mut self) -> Result<()> {
        register_signal_handler(kick_signal(), on_kick).map_err(|error| Error::Os {
            action: "install a signal handler",
            source: std::io::Error::from_raw_os_error(error.errno()),
        })?;
        for (index, vcpu) in self.waiting.drain(..).enumerate() {
            let (ended, stopping) = (self.ended.0.clone(), Arc::clone(&self.stopping));
            let thread = thread::Builder::new()
                .name(format!("vcpu{index}"))
                .spawn(move || vcpu.run(&ended, &stopping))
                .map_err(Error::os("start a vCPU thread"))?;
            self.threads.push(thread);
        }
        Ok(())
    }

    /// Waits until the guest ends, at most for `limit`; then stops every vCPU.
    pub fn wait(&mut self, limit: Option<Duration>) -> End {
        let end = match limit {
            Some(limit) => self.ended.1.recv_timeout(limit).unwrap_or(End::TimedOut),
            None => self.ended.1.recv().unwrap_or(End::Stopped),
        };
        self.stop();
        end
    }

    /// Stops every vCPU and waits for their threads.
    pub fn stop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // A kick may come between the check and KVM_RUN and be lost, so it is repeated.
            while !thread.is_finished() {
                let _ = thread.kill(kick_signal());
                thread::sleep(Duration::from_micros(200));
            }
            let _ = thread.join();
        }
    }

    /// Time stamps that the guest asked for.
    pub fn markers(&self) -> Vec<Marker> {
        self.ports.lock().unwrap_or_else(std::sync::PoisonError::into_inner).marker.markers().to_vec()
    }

    /// The last lines of the guest's console.
    pub fn console_tail(&self, lines: usize) -> String {
        self.ports.lock().unwrap_or_else(std::sync::PoisonError::into_inner).console.last_lines(lines)
    }

    /// Exits of all vCPUs that have ended, by reason.
    pub fn exit_counts(&self) -> ExitCounts {
        self.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl Drop for Microvm {
    fn drop(&mut self) {
        self.stop();
    }
}
