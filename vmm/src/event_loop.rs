//! The one thread that serves every device's queues.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use event_manager::{EventManager, RemoteEndpoint};

use crate::error::{Error, Result};
use crate::virtio::Handler;
use crate::vm::{ThreadKind, ThreadSetup};

/// Milliseconds after which the loop looks whether it is to end; a kick ends it at once.
const IDLE_MS: i32 = 1000;

/// The event loop, with or yet without its thread.
pub struct EventLoop {
    endpoint: RemoteEndpoint<Handler>,
    stopping: Arc<AtomicBool>,
    waiting: Mutex<Option<EventManager<Handler>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLoop").finish_non_exhaustive()
    }
}

impl EventLoop {
    /// A loop that [`EventLoop::start`] runs. No thread yet: the process may still have to enter namespaces, which a process
    /// with threads cannot.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub fn new() -> Result<Self> {
        let manager =
            EventManager::<Handler>::new().map_err(|error| Error::EventLoop { reason: error.to_string() })?;
        Ok(Self {
            endpoint: manager.remote_endpoint(),
            stopping: Arc::default(),
            waiting: Mutex::new(Some(manager)),
            thread: Mutex::default(),
        })
    }

    /// Starts the thread, which calls `setup` first.
    ///
    /// # Errors
    /// The host has no thread left.
    pub fn start(&self, setup: ThreadSetup) -> Result<()> {
        let Some(mut manager) = lock(&self.waiting).take() else { return Ok(()) };
        let stopping = Arc::clone(&self.stopping);
        let thread = thread::Builder::new()
            .name("devices".to_owned())
            .spawn(move || {
                if !setup.call(ThreadKind::Devices) {
                    return;
                }
                while !stopping.load(Ordering::Acquire) {
                    // An error here is an interrupted wait; a broken epoll descriptor would show in every device.
                    let _ = manager.run_with_timeout(IDLE_MS);
                }
            })
            .map_err(Error::os("start the device thread"))?;
        *lock(&self.thread) = Some(thread);
        Ok(())
    }

    /// A handle through which other threads add and remove handlers.
    pub fn endpoint(&self) -> RemoteEndpoint<Handler> {
        self.endpoint.clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(thread) = lock(&self.thread).take() {
            let _ = self.endpoint.kick();
            let _ = thread.join();
        }
    }
}
