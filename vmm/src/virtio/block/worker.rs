//! A disk's own threads: a medium that takes its time holds up neither other devices nor, where it can be told beforehand, other
//! requests of its own.
//!
//! The first thread takes requests off the queue and serves those itself that the host has the data of at hand: no hand-over, no second
//! wake-up. A request that would wait for the medium goes to one of a few helpers, which are made when there is such a request: most disks are
//! images that the host has in memory, and never have one. They are made by the first thread and are as confined as that is.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_queue::DescriptorChain;
use vmm_sys_util::eventfd::EventFd;

use super::Medium;
use super::request::{Patience, Served, serve};
use super::sys;
use crate::error::{Error, Result};
use crate::memory::GuestMemory;
use crate::virtio::Activation;
use crate::virtio::queue::VirtQueue;
use crate::vm::{ThreadKind, ThreadSetup};

/// Requests that wait for the medium at the same time.
const HELPERS: usize = 4;
/// After how many requests, or bytes, the guest is told of what is done, although more is waiting.
const REQUESTS_A_TURN: usize = 64;
const BYTES_A_TURN: usize = 512 << 10;

/// How long a reset waits for requests that have begun: a vCPU waits with it, and must not for ever.
const RESET_LIMIT: Duration = Duration::from_secs(5);

type Chain = DescriptorChain<Arc<GuestMemory>>;

/// The threads of one disk, from the machine's start to its end.
#[derive(Debug)]
pub(super) struct Workers {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Workers {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stage = Stage::Ended;
        if let Some(active) = &state.active {
            let _ = active.notifier.write(1);
        }
        drop(state);
        self.shared.changed.notify_all();
        self.shared.work.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Shared {
    medium: Medium,
    state: Mutex<State>,
    /// The stage has changed, or a thread has left the guest's memory.
    changed: Condvar,
    /// A request waits for a helper, or none ever will again.
    work: Condvar,
}

#[derive(Debug, Default)]
struct State {
    active: Option<Active>,
    /// Requests for the helpers.
    slow: VecDeque<Chain>,
    /// Helpers that wait for one.
    idle: usize,
    /// Threads that may touch the guest's memory.
    users: usize,
    stage: Stage,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No driver.
    #[default]
    Idle,
    /// A driver has started the device.
    Running,
    /// The driver resets the device: no request is begun any more.
    Stopping,
    /// The machine is gone.
    Ended,
}

#[derive(Debug)]
struct Active {
    memory: Arc<GuestMemory>,
    queue: VirtQueue,
    notifier: Arc<EventFd>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, on: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        on.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Workers {
    pub(super) fn new(medium: Medium) -> Self {
        let shared =
            Shared { medium, state: Mutex::default(), changed: Condvar::new(), work: Condvar::new() };
        Self { shared: Arc::new(shared), thread: None }
    }

    pub(super) fn medium(&self) -> &Medium {
        &self.shared.medium
    }

    /// Starts the threads; each calls `setup` first.
    pub(super) fn start(&mut self, setup: &ThreadSetup) -> Result<()> {
        let (shared, setup) = (Arc::clone(&self.shared), setup.clone());
        let thread = thread::Builder::new()
            .name("disk".to_owned())
            .spawn(move || {
                if setup.call(ThreadKind::Disk) {
                    let mut helpers = vec![];
                    lead(&shared, &mut helpers);
                    helpers.into_iter().for_each(|helper| drop(helper.join()));
                }
            })
            .map_err(Error::os("start a disk's thread"))?;
        self.thread = Some(thread);
        Ok(())
    }

    /// Gives the threads a queue to serve, until the returned value is dropped.
    pub(super) fn activate(&self, mut activation: Activation) -> Result<Running> {
        let queue = activation
            .queues
            .pop()
            .ok_or_else(|| Error::os("start a disk")(io::ErrorKind::InvalidInput.into()))?;
        let queue = VirtQueue::new(queue, &activation.interrupt);
        let notifier = Arc::new(queue.notifier().map_err(Error::os("share a queue's notification"))?);
        let mut state = self.shared.lock();
        if state.users > 0 {
            // What hangs since before the reset would answer into the wrong queue.
            return Err(Error::os("start a disk with requests that hang")(
                io::ErrorKind::ResourceBusy.into(),
            ));
        }
        let memory = Arc::new(activation.memory);
        state.active = Some(Active { memory, queue, notifier: Arc::clone(&notifier) });
        state.stage = Stage::Running;
        self.shared.changed.notify_all();
        Ok(Running { shared: Arc::clone(&self.shared), notifier })
    }
}

/// A disk that a driver uses.
#[derive(Debug)]
pub(super) struct Running {
    shared: Arc<Shared>,
    notifier: Arc<EventFd>,
}

impl MutEventSubscriber for Running {
    fn init(&mut self, _ops: &mut EventOps<'_>) {}

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {}
}

impl Drop for Running {
    /// Waits for requests that have begun: they write to the guest's memory. While one of them still hangs after that, the disk
    /// cannot be used again.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let next = if state.stage == Stage::Ended { Stage::Ended } else { Stage::Idle };
        state.stage = if next == Stage::Ended { Stage::Ended } else { Stage::Stopping };
        let _ = self.notifier.write(1);
        let changed = self.shared.changed.wait_timeout_while(state, RESET_LIMIT, |state| state.users > 0);
        state = changed.unwrap_or_else(PoisonError::into_inner).0;
        state.slow.clear();
        state.active = None;
        state.stage = next;
    }
}

/// The first thread: serves one activation of the device after the other.
fn lead(shared: &Arc<Shared>, helpers: &mut Helpers) {
    let mut state = shared.lock();
    loop {
        let Some((memory, notifier)) = (match (state.stage, &state.active) {
            (Stage::Ended, _) => return,
            (Stage::Running, Some(active)) => {
                Some((Arc::clone(&active.memory), Arc::clone(&active.notifier)))
            }
            _ => None,
        }) else {
            state = shared.wait(&shared.changed, state);
            continue;
        };
        state.users += 1;
        while state.stage == Stage::Running {
            state = take_turn(shared, state, &memory, helpers);
            if state.stage != Stage::Running {
                break;
            }
            drop(state);
            let _ = sys::wait_readable(&*notifier);
            let _ = notifier.read();
            state = shared.lock();
        }
        drop(memory);
        state.users -= 1;
        shared.changed.notify_all();
    }
}

/// Serves the queue until it is empty.
fn take_turn<'a>(
    shared: &'a Arc<Shared>,
    mut state: MutexGuard<'a, State>,
    memory: &Arc<GuestMemory>,
    helpers: &mut Helpers,
) -> MutexGuard<'a, State> {
    let (mut requests, mut bytes) = (0, 0);
    loop {
        let State { active: Some(active), slow, stage: Stage::Running, .. } = &mut *state else {
            return state;
        };
        if requests == 0 {
            active.queue.disable_notification(memory);
        }
        let Some(chain) = active.queue.pop_shared(memory) else {
            active.queue.interrupt(memory);
            return state;
        };
        // A guest can name the same chain again and again: what waits is bounded by the queue's size.
        let patience = match slow.len() < usize::from(active.queue.size()) {
            true => Patience::None,
            false => Patience::Unlimited,
        };
        drop(state);
        let mut served = serve(&shared.medium, memory, chain.clone(), patience);
        if matches!(served, Served::MustWait) && !have_helper(shared, helpers) {
            // With fewer of them, or none, the disk works too.
            served = serve(&shared.medium, memory, chain.clone(), Patience::Unlimited);
        }
        state = shared.lock();
        let State { active: Some(active), slow, .. } = &mut *state else { return state };
        match served {
            Served::Done { written, moved } => {
                active.queue.add_used(memory, chain.head_index(), written);
                requests += 1;
                bytes += moved;
            }
            Served::MustWait => {
                slow.push_back(chain);
                shared.work.notify_one();
            }
        }
        if requests >= REQUESTS_A_TURN || bytes >= BYTES_A_TURN {
            active.queue.interrupt(memory);
            (requests, bytes) = (0, 0);
        }
    }
}

/// Threads beside the first.
type Helpers = Vec<JoinHandle<()>>;

/// Sees to it that a helper is there for one more request, unless all are busy. Whether there is any.
fn have_helper(shared: &Arc<Shared>, helpers: &mut Helpers) -> bool {
    let state = shared.lock();
    let enough = state.idle > state.slow.len();
    drop(state);
    if !enough && helpers.len() < HELPERS {
        let shared = Arc::clone(shared);
        // Without a name: giving it one is a system call that this thread may not make any more.
        helpers.extend(thread::Builder::new().spawn(move || help(&shared)));
    }
    !helpers.is_empty()
}

/// A helper: serves what waits for the medium.
fn help(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        let next = match state.stage {
            Stage::Ended => return,
            Stage::Running => state.slow.pop_front(),
            Stage::Idle | Stage::Stopping => None,
        };
        let Some(chain) = next else {
            state.idle += 1;
            state = shared.wait(&shared.work, state);
            state.idle -= 1;
            continue;
        };
        state.users += 1;
        drop(state);
        let (memory, head) = (chain.memory(), chain.head_index());
        let served = serve(&shared.medium, memory, chain.clone(), Patience::Unlimited);
        state = shared.lock();
        if let (Served::Done { written, .. }, Some(active)) = (served, &mut state.active) {
            active.queue.add_used(memory, head, written);
            active.queue.interrupt(memory);
        }
        drop(chain);
        state.users -= 1;
        shared.changed.notify_all();
    }
}
