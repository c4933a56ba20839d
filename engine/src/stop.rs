//! Ending a container on purpose.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rkvm_oci::Signal;
use rustix::io::Errno;
use rustix::process::pidfd_send_signal;

use crate::client::Connection;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::liveness;
use crate::protocol::{Exited, Hello, Kind};
use crate::stdio::watch_end;
use crate::store::Container;

/// Seconds that `stop` waits without `--time` and `--stop-timeout` (Docker's).
pub const DEFAULT_TIMEOUT_S: i64 = 10;

/// How long the monitor of a container that is to be removed by force may take to end it: far above what it does take, which is milliseconds.
pub const MONITOR_LIMIT: Duration = Duration::from_secs(10);

impl Engine {
    /// Sends `signal` (`None`: the container's own stop signal), and SIGKILL when the container has not ended after
    /// `timeout_s` seconds (`None`: the container's own; -1: never). Returns when it has ended for good; at once when it does not
    /// run.
    ///
    /// # Errors
    /// The monitor does not answer.
    pub fn stop(&self, container: &Container, signal: Option<Signal>, timeout_s: Option<i64>) -> Result<()> {
        let process = &container.record.process;
        let signal = signal.or(process.stop_signal).unwrap_or(Signal::TERM);
        let seconds = timeout_s.or(process.stop_timeout).unwrap_or(DEFAULT_TIMEOUT_S);
        // A negative number is without end.
        let limit = u64::try_from(seconds).ok().map(Duration::from_secs);
        let Some(mut connection) = self.connect(container, None)? else { return Ok(()) };
        // Gone since: it has ended, and that is what was wanted.
        let _ = connection.signal(Kind::Stop, Some(signal));
        if self.thaw(container).is_err() || limit == Some(Duration::ZERO) {
            let _ = connection.signal(Kind::Signal, Some(Signal::KILL));
        }
        if self.wait_for_last(&mut connection, container, limit)?.is_none() {
            let _ = connection.signal(Kind::Signal, Some(Signal::KILL));
            self.wait_for_last(&mut connection, container, None)?;
        }
        Ok(())
    }

    /// Kills the container and waits until it is cleaned up. A monitor that does not do it within [`MONITOR_LIMIT`] (it is stopped, or waits
    /// for something that does not come) is killed too, and what it leaves is cleaned up here.
    ///
    /// # Errors
    /// Something cannot be cleaned up.
    pub fn kill_and_wait(&self, container: &Container) -> Result<()> {
        let until = Instant::now() + MONITOR_LIMIT;
        if let Some(mut connection) = self.connect(container, Some(until))? {
            let _ = connection.signal(Kind::Stop, Some(Signal::KILL));
            let left = until.saturating_duration_since(Instant::now());
            if self.wait_for_last(&mut connection, container, Some(left))?.is_some() {
                return Ok(());
            }
        }
        let folder = self.paths.monitor(container.id());
        if let Some(pid) = liveness::holder(&folder)? {
            kill_monitor(pid, &folder)?;
            self.find(container.id())?;
        }
        Ok(())
    }

    /// Waits until a run of the container ends; `None` when it does not run.
    ///
    /// # Errors
    /// The monitor does not answer.
    pub fn wait(&self, container: &Container) -> Result<Option<Exited>> {
        let Some(mut connection) = self.connect(container, None)? else { return Ok(None) };
        match connection.exited(container.id(), None) {
            // The next look at the state puts it right.
            Err(Error::MonitorLost { .. }) => Ok(None),
            other => other,
        }
    }

    /// A connection to the container's monitor, which may still be starting it for a client that is gone; `None` when
    /// there is no monitor, or none that listens before `until`.
    fn connect(&self, container: &Container, until: Option<Instant>) -> Result<Option<Connection>> {
        loop {
            if let Some(connection) = Connection::open(self, container.id(), &Hello::default())? {
                return Ok(Some(connection));
            }
            if !self.has_monitor(container.id())? || until.is_some_and(|until| Instant::now() >= until) {
                return Ok(None);
            }
            // It has not made its socket yet, or has closed it and is about to end: a matter of microseconds.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the monitor on the other side is done with this run.
    ///
    /// # Errors
    /// The monitor does not answer.
    pub fn finish(&self, connection: &mut Connection, container: &Container) -> Result<()> {
        match connection.exited(container.id(), None) {
            Err(Error::MonitorLost { .. }) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits until the monitor is done; `None` when time is up.
    fn wait_for_last(
        &self,
        connection: &mut Connection,
        container: &Container,
        limit: Option<Duration>,
    ) -> Result<Option<()>> {
        loop {
            match connection.exited(container.id(), limit) {
                Ok(None) => return Ok(None),
                Ok(Some(Exited { last: false, .. })) => {}
                Ok(Some(Exited { last: true, .. })) => return Ok(Some(())),
                // Killed, or it ended before this client was heard: the truth is what counts.
                Err(Error::MonitorLost { .. }) => match self.find(container.id()) {
                    Err(Error::NoSuchContainer(_)) => return Ok(Some(())),
                    Err(error) => return Err(error),
                    Ok(_) => return Ok(Some(())),
                },
                Err(error) => return Err(error),
            }
        }
    }

    /// Thaws a paused container: a frozen process takes no signal.
    fn thaw(&self, container: &Container) -> Result<()> {
        if container.state.status != crate::ContainerStatus::Paused {
            return Ok(());
        }
        self.unpause(container.id())
    }

    /// Freezes every process of the container with this full id.
    ///
    /// # Errors
    /// It is not running, or the host cannot freeze.
    pub fn pause(&self, id: &str) -> Result<()> {
        self.change_freezer(id, Freezer::Freeze)
    }

    /// Thaws every process of the container with this full id.
    ///
    /// # Errors
    /// It is not paused.
    pub fn unpause(&self, id: &str) -> Result<()> {
        self.change_freezer(id, Freezer::Thaw)
    }

    fn change_freezer(&self, id: &str, change: Freezer) -> Result<()> {
        use crate::ContainerStatus::{Paused, Running};
        let mut locked = crate::store::lock(&self.paths, id)?;
        let (verb, from, to) = match change {
            Freezer::Freeze => ("pause", Running, Paused),
            Freezer::Thaw => ("unpause", Paused, Running),
        };
        if locked.container.state.status != from {
            return Err(Error::WrongState {
                verb,
                name: locked.container.name().to_owned(),
                status: locked.container.state.status,
                hint: None,
            });
        }
        let mut opened = self.open(&locked.container)?;
        match change {
            Freezer::Freeze => opened.pause()?,
            Freezer::Thaw => opened.resume()?,
        }
        locked.container.state.status = to;
        locked.write_state()
    }
}

/// Kills the monitor `pid` and waits for its end; `folder` is its own, as long as it lives.
fn kill_monitor(pid: i32, folder: &Path) -> Result<()> {
    let failed = |source| Error::file("end the monitor of", folder, source);
    let process = match watch_end(pid) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        other => other.map_err(failed)?,
    };
    // Its number may have become another process's between the question and the descriptor.
    if liveness::holder(folder)? != Some(pid) {
        return Ok(());
    }
    match pidfd_send_signal(&process, rustix::process::Signal::KILL) {
        Err(Errno::SRCH) => {}
        other => other.map_err(|errno| failed(errno.into()))?,
    }
    loop {
        match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Err(nix::Error::EINTR) => {}
            other => return other.map(drop).map_err(|errno| failed(errno.into())),
        }
    }
}

#[derive(Clone, Copy)]
enum Freezer {
    Freeze,
    Thaw,
}
