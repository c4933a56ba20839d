//! The lifecycle that both command lines and the monitor share: locks, checks the transition, asks the backend,
//! writes the record.

use std::collections::HashMap;
use std::time::SystemTime;

use crate::backend::{
    Backend, BeginRequest, Begun, CreateRequest, Keyring, KillScope, Link, Rootfs, Stdio, Workload,
};
use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::hooks;
use crate::lifecycle::{Status, Verb, transition};
use crate::signal::Signal;
use crate::state::{Entry, Record, Store};
use crate::timeline::Timeline;

/// What [`create`] needs beside the backend and the store.
#[derive(Debug)]
pub struct CreateOptions<'a> {
    /// Unique id.
    pub id: &'a str,
    /// The bundle.
    pub bundle: &'a Bundle,
    /// Where the root filesystem is.
    pub rootfs: Rootfs,
    /// The link to the host's network, when the caller made one.
    pub link: Option<Link>,
    /// Streams of the init process.
    pub stdio: Stdio,
    /// Further descriptors, from 3 on, that the process inherits.
    pub preserve_fds: u32,
    /// Do without `pivot_root`.
    pub no_pivot: bool,
    /// Which session keyring the init process gets.
    pub keyring: Keyring,
    /// As in [`CreateRequest::at_once`].
    pub at_once: bool,
}

/// A container that has been found and locked for one operation.
pub struct Opened {
    /// The locked folder.
    pub entry: Entry,
    /// The record as last written.
    pub record: Record,
    /// The backend's handle.
    pub workload: Box<dyn Workload>,
    /// The state now.
    pub status: Status,
}

/// Makes a container, which then waits for [`Opened::start`], unless its program has been executed at once ([`Workload::executed`]).
///
/// # Errors
/// The id is taken, the bundle is not valid, or the backend failed; nothing is left behind then.
pub fn create(
    backend: &dyn Backend,
    store: &Store,
    options: CreateOptions<'_>,
    timeline: &mut Timeline,
) -> Result<Box<dyn Workload>> {
    Beginning::reserve(backend, store, options.id, options.bundle)?.create(options, timeline)
}

/// A container that is being made. It is gone with this unless it is created.
pub struct Beginning<'a> {
    backend: &'a dyn Backend,
    entry: Option<Entry>,
    begun: Option<Box<dyn Begun>>,
}

/// Begins to make a container whose root filesystem and network are not there yet; see [`Backend::begin`].
///
/// # Errors
/// As for [`create`].
pub fn begin<'a>(
    backend: &'a dyn Backend,
    store: &Store,
    request: BeginRequest<'_>,
) -> Result<Beginning<'a>> {
    let mut beginning = Beginning::reserve(backend, store, request.id, request.bundle)?;
    beginning.begun = backend.begin(request)?;
    Ok(beginning)
}

impl<'a> Beginning<'a> {
    fn reserve(backend: &'a dyn Backend, store: &Store, id: &str, bundle: &Bundle) -> Result<Self> {
        bundle.rootfs()?;
        let entry = store.create(id)?;
        let reserved = entry.name_bundle(&bundle.path);
        let beginning = Self { backend, entry: Some(entry), begun: None };
        reserved.map(|()| beginning)
    }

    /// Goes on as [`create`] does, with the same id and bundle.
    ///
    /// # Errors
    /// As for that.
    pub fn create(
        mut self,
        options: CreateOptions<'_>,
        timeline: &mut Timeline,
    ) -> Result<Box<dyn Workload>> {
        let CreateOptions { id, bundle, rootfs, link, stdio, preserve_fds, no_pivot, keyring, at_once } =
            options;
        let mut record = Record {
            oci_version: bundle.spec.version().clone(),
            id: id.to_owned(),
            status: Status::Creating,
            pid: 0,
            pid_start: 0,
            bundle: bundle.path.clone(),
            rootfs: bundle.rootfs()?,
            created: rfc3339(SystemTime::now()),
            isolation: self.backend.isolation(),
            annotations: bundle.spec.annotations().clone().unwrap_or_else(HashMap::new),
            hooks: bundle.spec.hooks().clone(),
            owner: nix::unistd::geteuid().as_raw(),
            backend: serde_json::Value::Null,
        };
        let begun = self.begun.take();
        let entry = self.entry.as_ref().ok_or_else(|| Error::NotFound { id: id.to_owned() })?;
        let request = CreateRequest {
            id,
            bundle,
            rootfs,
            link,
            state_dir: entry.dir(),
            stdio,
            preserve_fds,
            no_pivot,
            keyring,
            at_once,
            timeline,
        };
        let mut workload = match begun {
            Some(begun) => begun.create(request)?,
            None => self.backend.create(request)?,
        };
        record.status = if workload.executed().is_some() { Status::Running } else { Status::Created };
        record.pid = workload.pid();
        record.pid_start = process_start(record.pid).unwrap_or(0);
        record.backend = workload.record();
        if let Err(error) = entry.write(&record).and_then(|()| workload.recorded()) {
            workload.delete()?;
            return Err(error);
        }
        self.entry = None;
        Ok(workload)
    }
}

impl Drop for Beginning<'_> {
    /// Removes what there is of a container that has not been created.
    fn drop(&mut self) {
        // Its processes first.
        self.begun = None;
        if let Some(entry) = self.entry.take() {
            // The error that brought us here is the one to report; the next command removes what stays.
            let _ = entry.remove();
        }
    }
}

/// Removes what a [`create`] left that was killed before it wrote a record, and does nothing when there is no such container.
///
/// # Errors
/// Something could not be removed; the folder stays then, so that this can be repeated.
pub fn remove_remains(backend: &dyn Backend, store: &Store, id: &str) -> Result<()> {
    let entry = match store.open(id) {
        Err(Error::NotFound { .. }) => return Ok(()),
        other => other?,
    };
    // Without the bundle, the create had not come to the backend.
    if let Some(bundle) = entry.bundle() {
        backend.clean(id, &Bundle::load(&bundle)?)?;
    }
    entry.remove()
}

/// Finds and locks container `id`.
///
/// # Errors
/// There is none, or its record does not fit the backend.
pub fn open(backend: &dyn Backend, store: &Store, id: &str) -> Result<Opened> {
    let entry = store.open(id)?;
    let record = entry.read()?;
    let workload = backend.open(&record, entry.dir())?;
    let status = workload.status(record.status)?;
    Ok(Opened { entry, record, workload, status })
}

impl Opened {
    /// Checks that `verb` is legal now.
    ///
    /// # Errors
    /// [`Error::IllegalState`].
    pub fn check(&self, verb: Verb) -> Result<Status> {
        transition(&self.record.id, self.status, verb)
    }

    /// Executes the user's program.
    ///
    /// # Errors
    /// The container is not `created`, or the program cannot be executed. Failed `poststart` hooks are
    /// returned as warnings.
    pub fn start(&mut self, timeline: &mut Timeline) -> Result<Vec<Error>> {
        let next = self.check(Verb::Start)?;
        self.workload.start(timeline)?;
        self.record.status = next;
        self.entry.write(&self.record)?;
        let poststart = self.record.hooks.as_ref().and_then(|hooks| hooks.poststart().as_ref());
        Ok(match poststart {
            Some(_) => hooks::run_all("poststart", poststart, &hooks::state_json(&self.record, next)),
            None => vec![],
        })
    }

    /// Sends a signal. To a stopped container `KILL` and `TERM` with [`KillScope::All`] are no error: there may be
    /// processes left in a shared pid namespace.
    ///
    /// # Errors
    /// The container is not running.
    pub fn kill(&mut self, signal: Signal, scope: KillScope) -> Result<()> {
        if !(self.status == Status::Stopped && scope == KillScope::All) {
            self.check(Verb::Kill)?;
        }
        self.workload.kill(signal, scope)
    }

    /// Freezes every process.
    ///
    /// # Errors
    /// The container is not running.
    pub fn pause(&mut self) -> Result<()> {
        self.check(Verb::Pause)?;
        self.workload.pause()
    }

    /// Thaws every process.
    ///
    /// # Errors
    /// The container is not paused.
    pub fn resume(&mut self) -> Result<()> {
        self.check(Verb::Resume)?;
        self.workload.resume()
    }

    /// Removes every trace. Failed `poststop` hooks are returned as warnings.
    ///
    /// # Errors
    /// The container is not stopped and `verb` is [`Verb::Delete`], or something could not be removed; the
    /// record stays then, so that the delete can be repeated.
    pub fn delete(mut self, verb: Verb) -> Result<Vec<Error>> {
        self.check(verb)?;
        self.workload.delete()?;
        let poststop = self.record.hooks.as_ref().and_then(|hooks| hooks.poststop().as_ref());
        let warnings = match poststop {
            Some(_) => {
                hooks::run_all("poststop", poststop, &hooks::state_json(&self.record, Status::Stopped))
            }
            None => vec![],
        };
        self.entry.remove()?;
        Ok(warnings)
    }
}

/// Start time of process `pid` in clock ticks since boot; `None` when there is none.
pub fn process_start(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name, in parentheses, may itself hold spaces and parentheses: count from the last one.
    let after_name = &stat[stat.rfind(')')? + 2..];
    after_name.split(' ').nth(19)?.parse().ok()
}

/// `time` as RFC 3339 in UTC with nanoseconds, the form of runtime-spec and Docker.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = ((since.as_secs() / 86_400) as i64, since.as_secs() % 86_400);
    // Civil date from days since 1970-01-01, by Howard Hinnant's algorithm ("chrono-Compatible Low-Level Date
    // Algorithms"), for years from 1970 on.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60,
        since.subsec_nanos()
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_across_leap_years() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn start_time_of_this_process_is_known() {
        assert!(process_start(std::process::id() as i32).is_some());
        assert!(process_start(i32::MAX).is_none());
    }
}
