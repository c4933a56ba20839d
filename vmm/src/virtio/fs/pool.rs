//! The threads of the file server.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::confined::{Confined, Served};
use super::session::Session;

/// Threads that outlive sessions.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    server: Served,
    board: Mutex<Board>,
    changed: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("board", &self.board).finish_non_exhaustive()
    }
}

/// What the threads have to do.
#[derive(Debug, Default)]
struct Board {
    /// Sessions so far; a thread serves each once.
    number: u64,
    session: Option<Arc<Session>>,
    /// Threads in a session.
    busy: usize,
    closing: bool,
}

impl Pool {
    /// No thread yet.
    pub(super) fn new(fs: Confined) -> Self {
        let shared = Shared { server: Served::new(fs), board: Mutex::default(), changed: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Starts `workers` threads, each of which goes on if `setup` says so. Does not wait for them: a vCPU that runs already may have
    /// the processor that the scheduler has chosen for one.
    pub(super) fn start(
        &self,
        workers: usize,
        setup: impl Fn() -> bool + Clone + Send + 'static,
    ) -> io::Result<()> {
        for index in 0..workers {
            let (shared, setup) = (Arc::clone(&self.shared), setup.clone());
            thread::Builder::new().name(format!("fs-{index}")).spawn(move || {
                if setup() {
                    shared.work();
                }
            })?;
        }
        Ok(())
    }

    /// Counts the threads.
    #[cfg(test)]
    pub(super) fn threads(&self) -> std::sync::Weak<impl Sized + use<>> {
        Arc::downgrade(&self.shared)
    }

    /// Lets the threads serve `session`, once they have left the one before.
    pub(super) fn serve(&self, session: Arc<Session>) {
        let mut board = self.shared.lock();
        board.number += 1;
        board.session = Some(session);
        self.shared.changed.notify_all();
    }
}

impl Drop for Pool {
    /// Tells the threads to end, without waiting: one may be in a request that the host's file system does not finish.
    fn drop(&mut self) {
        let mut board = self.shared.lock();
        board.closing = true;
        if let Some(session) = board.session.take() {
            session.end();
        }
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut served = 0;
        loop {
            let mut board = self.lock();
            let session = loop {
                if board.closing {
                    return;
                }
                match &board.session {
                    Some(session) if board.number > served => break Arc::clone(session),
                    _ => board = self.changed.wait(board).unwrap_or_else(PoisonError::into_inner),
                }
            };
            served = board.number;
            board.busy += 1;
            drop(board);

            // An error is that of epoll: this thread is lost to the session, and the guest's requests wait for the others.
            let _ = session.serve(&self.server);

            let mut board = self.lock();
            board.busy -= 1;
            if board.busy == 0 && board.number == served {
                // The driver is gone without a word to the file server: close what it had open.
                self.server.forget_everything();
            }
        }
    }
}
