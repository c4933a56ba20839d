//! The one thread that serves every device's queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use event_manager::{EventManager, RemoteEndpoint};

use crate::error::{Error, Result};
use crate::virtio::Handler;

/// Milliseconds after which the loop looks whether it is to end; a kick ends it at once.
const IDLE_MS: i32 = 1000;

/// The event loop's thread.
pub struct EventLoop {
    endpoint: RemoteEndpoint<Handler>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLoop").finish_non_exhaustive()
    }
}

impl EventLoop {
    /// Starts the thread.
    ///
    /// # Errors
    /// The host has no thread or descriptor left.
    pub fn start() -> Result<Self> {
        let mut manager =
            EventManager::<Handler>::new().map_err(|error| Error::EventLoop { reason: error.to_string() })?;
        let endpoint = manager.remote_endpoint();
        let stopping = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stopping);
        let thread = thread::Builder::new()
            .name("devices".to_owned())
            .spawn(move || {
                while !seen.load(Ordering::Acquire) {
                    // An error here is an interrupted wait; a broken epoll descriptor would show in every device.
                    let _ = manager.run_with_timeout(IDLE_MS);
                }
            })
            .map_err(Error::os("start the device thread"))?;
        Ok(Self { endpoint, stopping, thread: Some(thread) })
    }

    /// A handle through which other threads add and remove handlers.
    pub fn endpoint(&self) -> RemoteEndpoint<Handler> {
        self.endpoint.clone()
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        let _ = self.endpoint.kick();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
