//! Ending a container on purpose.

use std::time::Duration;

use rkvm_oci::Signal;

use crate::client::Connection;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::protocol::{Exited, Hello, Kind};
use crate::store::Container;

/// Seconds that `stop` waits without `--time` and `--stop-timeout` (Docker's).
pub const DEFAULT_TIMEOUT_S: i64 = 10;

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
        let Some(mut connection) = self.connect(container)? else { return Ok(()) };
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

    /// Kills the container and waits until it is cleaned up.
    ///
    /// # Errors
    /// The monitor does not answer.
    pub fn kill_and_wait(&self, container: &Container) -> Result<()> {
        let Some(mut connection) = self.connect(container)? else { return Ok(()) };
        let _ = connection.signal(Kind::Stop, Some(Signal::KILL));
        self.wait_for_last(&mut connection, container, None)?;
        Ok(())
    }

    /// Waits until a run of the container ends; `None` when it does not run.
    ///
    /// # Errors
    /// The monitor does not answer.
    pub fn wait(&self, container: &Container) -> Result<Option<Exited>> {
        let Some(mut connection) = self.connect(container)? else { return Ok(None) };
        match connection.exited(container.id(), None) {
            // The next look at the state puts it right.
            Err(Error::MonitorLost { .. }) => Ok(None),
            other => other,
        }
    }

    /// A connection to the container's monitor, which may still be starting it for a client that is gone; `None` when
    /// there is no monitor.
    fn connect(&self, container: &Container) -> Result<Option<Connection>> {
        loop {
            if let Some(connection) = Connection::open(self, container.id(), &Hello::default())? {
                return Ok(Some(connection));
            }
            if !self.has_monitor(container.id())? {
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

#[derive(Clone, Copy)]
enum Freezer {
    Freeze,
    Thaw,
}
