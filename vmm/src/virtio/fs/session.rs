//! One use of the device by a driver: from DRIVER_OK to the reset.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use virtio_queue_fs::{Queue, QueueOwnedT as _, QueueState, QueueT};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::confined::Served;
use super::request;
use super::sys::{FsMemory, MemoryView};
use crate::error::{Error, Result};
use crate::virtio::{Activation, Interrupt};

/// What epoll reports for the end of the session; smaller numbers are those of queues.
const ENDED: u64 = u64::MAX;

/// Queues, memory and interrupt of the device while a driver uses it.
#[derive(Debug)]
pub(super) struct Session {
    memory: MemoryView,
    lanes: Vec<Lane>,
    interrupt: Interrupt,
    ended: AtomicBool,
    /// Becomes readable at the end, for good.
    ended_event: EventFd,
    /// Threads that wait for requests.
    idle: AtomicUsize,
    /// Requests that have been begun: they read and write the guest's memory.
    begun: Mutex<usize>,
    quiet: Condvar,
}

/// A queue, shared by all threads.
#[derive(Debug)]
struct Lane {
    queue: Mutex<Queue>,
    kick: EventFd,
}

/// What a thread finds when it looks for a request.
enum Next<'a> {
    Request { chain: request::Chain<'a>, more: bool },
    Empty,
}

impl Session {
    /// The session of a driver that has just said DRIVER_OK.
    pub(super) fn new(activation: Activation) -> Result<Self> {
        let failed = || Error::os("start the file server's queues");
        let lanes = activation.queues.into_iter().map(|(queue, kick)| {
            let state = queue.state();
            let state = QueueState {
                max_size: state.max_size,
                next_avail: state.next_avail,
                next_used: state.next_used,
                event_idx_enabled: state.event_idx_enabled,
                size: state.size,
                ready: state.ready,
                desc_table: state.desc_table,
                avail_ring: state.avail_ring,
                used_ring: state.used_ring,
            };
            let queue = Queue::try_from(state)
                .map_err(|error| failed()(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
            Ok(Lane { queue: Mutex::new(queue), kick })
        });
        Ok(Self {
            lanes: lanes.collect::<Result<_>>()?,
            memory: MemoryView::new(activation.memory).map_err(failed())?,
            interrupt: activation.interrupt,
            ended: AtomicBool::new(false),
            ended_event: EventFd::new(EFD_NONBLOCK).map_err(failed())?,
            idle: AtomicUsize::new(0),
            begun: Mutex::new(0),
            quiet: Condvar::new(),
        })
    }

    /// Ends the session: threads answer no request of it any more.
    pub(super) fn end(&self) {
        for lane in &self.lanes {
            // Under the queues' locks, so that no thread is between its look at the flag and its write to a ring.
            let _queue = lane.lock();
            self.ended.store(true, Ordering::Release);
        }
        let _ = self.ended_event.write(1);
    }

    /// Waits until no request of an ended session touches the guest's memory, at most for `limit`: the host's file system may
    /// not answer at all.
    pub(super) fn wait_quiet(&self, limit: Duration) {
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.quiet.wait_timeout_while(begun, limit, |begun| *begun > 0));
    }

    fn count(&self, change: impl Fn(usize) -> usize) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        *begun = change(*begun);
        // Whoever waits has ended the session before, and looks at the number under this lock: nobody has to be told of any other.
        if *begun == 0 && self.ended.load(Ordering::Acquire) {
            self.quiet.notify_all();
        }
    }

    /// Serves requests until the session ends.
    pub(super) fn serve(&self, server: &Served) -> io::Result<()> {
        let epoll = Epoll::new()?;
        for (index, lane) in self.lanes.iter().enumerate() {
            // A notification wakes one of the threads that wait, and none that is busy. Edges: the counter is never read.
            let how = EventSet::IN | EventSet::EXCLUSIVE | EventSet::EDGE_TRIGGERED;
            let event = EpollEvent::new(how, index as u64);
            epoll.ctl(ControlOperation::Add, std::os::fd::AsRawFd::as_raw_fd(&lane.kick), event)?;
        }
        let event = EpollEvent::new(EventSet::IN, ENDED);
        epoll.ctl(ControlOperation::Add, std::os::fd::AsRawFd::as_raw_fd(&self.ended_event), event)?;

        let mut events = [EpollEvent::default(); 4];
        while !self.ended.load(Ordering::Acquire) {
            self.idle.fetch_add(1, Ordering::SeqCst);
            let ready = epoll.wait(-1, &mut events);
            self.idle.fetch_sub(1, Ordering::SeqCst);
            let ready = match ready {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                other => other?,
            };
            for event in &events[..ready] {
                if let Some(lane) = self.lanes.get(event.data() as usize) {
                    self.drain(lane, server);
                }
            }
        }
        Ok(())
    }

    /// Serves requests of `lane` until it is empty.
    fn drain(&self, lane: &Lane, server: &Served) {
        let memory = self.memory.get();
        while let Next::Request { chain, more } = self.next(lane, memory) {
            if more && self.idle.load(Ordering::SeqCst) > 0 {
                // One more thread for the next request; it wakes another if there are more still.
                let _ = lane.kick.write(1);
            }
            let head = chain.head_index();
            let written = request::handle(server, memory, chain);
            self.finish(lane, memory, head, written);
            self.count(|begun| begun - 1);
        }
    }

    /// Takes a request. The driver is asked for a notification of the next one, because this thread will be busy.
    fn next<'a>(&self, lane: &Lane, memory: &'a FsMemory) -> Next<'a> {
        let mut queue = lane.lock();
        // Twice, because a request may come before the driver can see that it has to notify. A ring that then claims to have
        // requests and gives none is broken: its driver has to notify again, or to reset the device.
        for _ in 0..2 {
            if self.ended.load(Ordering::Acquire) {
                return Next::Empty;
            }
            let chain = queue.iter(memory).ok().and_then(|mut chains| chains.next());
            let more = queue.enable_notification(memory).unwrap_or(false);
            match chain {
                Some(chain) => {
                    self.count(|begun| begun + 1);
                    return Next::Request { chain, more };
                }
                None if more => {}
                None => break,
            }
        }
        Next::Empty
    }

    /// Gives a request back to the driver.
    fn finish(&self, lane: &Lane, memory: &FsMemory, head: u16, written: u32) {
        let mut queue = lane.lock();
        if self.ended.load(Ordering::Acquire) || queue.add_used(memory, head, written).is_err() {
            return;
        }
        if queue.needs_notification(memory).unwrap_or(true) {
            self.interrupt.used_buffers();
        }
    }
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
