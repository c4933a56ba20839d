//! What a machine tells those who watch it: time stamps, and its end.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rkvm_oci::timeline::MonotonicNs;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::error::{Error, Result};

/// Most time stamps that are kept: a guest that writes without end must not make the host's memory grow.
const MAX_MARKERS: usize = 64;

/// Why a microVM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The guest powered the machine off.
    PowerOff,
    /// The guest reset the machine.
    Reset,
    /// The guest's kernel panicked; its message.
    Panic(String),
    /// The guest's kernel had no memory left and nothing to kill; its message.
    OutOfMemory(String),
    /// The guest's exception handling failed: its kernel crashed at once, or was told to reboot by a triple fault.
    TripleFault,
    /// KVM could not go on.
    Kvm(String),
    /// A part of the host side failed.
    Device(String),
    /// [`crate::Microvm::stop`] was called.
    Stopped,
    /// The time given to a wait was over.
    TimedOut,
    /// The guest did not become ready in the time that a boot may take.
    HungBoot(BootPhase, Duration),
}

/// How far a boot has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootPhase {
    /// The kernel has not started its init.
    Kernel,
    /// Init has begun.
    Init,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest reset its machine"),
            Self::Panic(message) => write!(f, "the guest's kernel panicked: {message}"),
            Self::OutOfMemory(message) => {
                write!(f, "the guest's kernel ran out of memory ({message}); give more with --memory")
            }
            Self::TripleFault => {
                f.write_str("the guest's processor shut down (triple fault): its kernel crashed or rebooted")
            }
            Self::Kvm(reason) => write!(f, "KVM cannot run the guest: {reason}"),
            Self::Device(reason) => write!(f, "the machine's host side failed: {reason}"),
            Self::Stopped => f.write_str("the machine was stopped"),
            Self::TimedOut => f.write_str("the guest did not answer in time"),
            Self::HungBoot(phase, limit) => {
                let what = match phase {
                    BootPhase::Kernel => "the guest's kernel did not come as far as rkvm's init",
                    BootPhase::Init => "the guest's init did not get ready",
                };
                let seconds = limit.as_secs();
                write!(
                    f,
                    "{what} within {seconds} s; annotation io.rkvm.vm.boot-timeout=SECONDS gives it longer, and "
                )?;
                f.write_str("kernel word ignore_loglevel (--cmdline) has the console say more")
            }
        }
    }
}

/// A time stamp that the guest asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// What the guest wrote.
    pub value: u8,
    /// When the host saw it.
    pub at: MonotonicNs,
}

#[derive(Debug, Default)]
struct State {
    markers: Vec<Marker>,
    end: Option<End>,
}

impl State {
    fn marked(&self, values: &[u8]) -> Option<MonotonicNs> {
        self.markers.iter().find(|marker| values.contains(&marker.value)).map(|marker| marker.at)
    }
}

/// Markers and the end of one machine; every thread of it may write and wait.
#[derive(Debug)]
pub struct Events {
    state: Mutex<State>,
    changed: Condvar,
    ended: EventFd,
    entered: OnceLock<MonotonicNs>,
}

impl Events {
    /// Of a machine that has not started.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub(crate) fn new() -> Result<Self> {
        let ended = EventFd::new(EFD_NONBLOCK).map_err(Error::os("make an event descriptor"))?;
        Ok(Self { state: Mutex::default(), changed: Condvar::new(), ended, entered: OnceLock::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stamps `value`.
    pub(crate) fn mark(&self, value: u8) {
        let at = MonotonicNs::now();
        let mut state = self.lock();
        if state.markers.len() < MAX_MARKERS {
            state.markers.push(Marker { value, at });
            self.changed.notify_all();
        }
    }

    /// Stamps the first entry into the guest.
    pub(crate) fn enter(&self) {
        self.entered.get_or_init(MonotonicNs::now);
    }

    /// Ends the machine; of several reasons the first one counts.
    pub(crate) fn end(&self, end: End) {
        let mut state = self.lock();
        if state.end.is_none() {
            state.end = Some(end);
            // A full counter means that the descriptor is readable already.
            let _ = self.ended.write(1);
            self.changed.notify_all();
        }
    }

    /// When the first vCPU entered the guest (`KVM_RUN`), if it has.
    pub fn entered(&self) -> Option<MonotonicNs> {
        self.entered.get().copied()
    }

    /// Stamps so far, in the order in which they came.
    pub fn markers(&self) -> Vec<Marker> {
        self.lock().markers.clone()
    }

    /// When the guest first wrote one of `values`, if it has.
    pub fn marked(&self, values: &[u8]) -> Option<MonotonicNs> {
        self.lock().marked(values)
    }

    /// Why the machine has ended, if it has.
    pub fn ended(&self) -> Option<End> {
        self.lock().end.clone()
    }

    /// Waits until the machine has ended, at most for `limit`.
    pub fn wait_end(&self, limit: Option<Duration>) -> Option<End> {
        self.wait(limit, |state| state.end.clone())
    }

    /// Waits until the guest has written marker `value`, at most for `limit`; when that was.
    ///
    /// # Errors
    /// Why the machine has ended without it, or [`End::TimedOut`].
    pub fn wait_marker(&self, value: u8, limit: Duration) -> Result<MonotonicNs, End> {
        self.wait(Some(limit), |state| match state.marked(&[value]) {
            Some(at) => Some(Ok(at)),
            None => state.end.clone().map(Err),
        })
        .unwrap_or(Err(End::TimedOut))
    }

    fn wait<T>(&self, limit: Option<Duration>, mut found: impl FnMut(&State) -> Option<T>) -> Option<T> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut state = self.lock();
        loop {
            if let Some(value) = found(&state) {
                return Some(value);
            }
            state = match deadline {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.checked_duration_since(Instant::now())?;
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl AsFd for Events {
    /// Readable as soon as the machine has ended; for a poll loop, not to be read from.
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.ended, self.ended.as_raw_fd())
    }
}

mod sys;

pub(crate) use sys::borrow;
