//! Stops and parks vCPU threads. Whoever wants them somewhere else says so here and kicks them out of the guest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the vCPUs are to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Wanted {
    #[default]
    Run,
    Pause,
    Stop,
}

#[derive(Debug, Default)]
struct State {
    wanted: Wanted,
    /// vCPU threads that have been started and have not ended.
    running: usize,
    /// Of these, those that wait in [`Control::park`].
    parked: usize,
}

/// What all vCPUs of a machine share.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// Whether anything but [`Wanted::Run`] is wanted: what a vCPU looks at between two exits.
    asked: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is wanted; a stop is final. Threads in the guest see it when they are kicked.
    pub fn want(&self, wanted: Wanted) {
        let mut state = self.lock();
        if state.wanted != Wanted::Stop {
            state.wanted = wanted;
            self.asked.store(wanted != Wanted::Run, Ordering::Release);
            self.changed.notify_all();
        }
    }

    /// A vCPU thread is about to be started.
    pub fn join(&self) {
        self.lock().running += 1;
    }

    /// A vCPU thread ends.
    pub fn leave(&self) {
        self.lock().running -= 1;
        self.changed.notify_all();
    }

    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// Waits on a vCPU's thread while a pause is wanted; what is wanted then.
    pub fn park(&self) -> Wanted {
        let mut state = self.lock();
        if state.wanted == Wanted::Pause {
            state.parked += 1;
            self.changed.notify_all();
            while state.wanted == Wanted::Pause {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.parked -= 1;
        }
        state.wanted
    }

    /// Waits until every vCPU is parked or has ended; whether that came within `limit`.
    pub fn wait_parked(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        while state.wanted == Wanted::Pause && state.parked < state.running {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}
