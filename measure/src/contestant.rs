//! What can be measured: something that starts a container, a VM or a program when it is asked to.

use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddr;

use crate::error::Result;
use crate::model::Subject;

/// One start of a contestant.
#[derive(Debug, Clone, Copy)]
pub struct Instance<'a> {
    /// Unique name of what is started.
    pub name: &'a str,
    /// Which of those that run at the same time, from 0.
    pub slot: usize,
}

/// How the command behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It stays until the program ends and passes its output on.
    Attached,
    /// It returns when the program has been executed.
    Detached,
}

/// A command line.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// Variables that are set beside this process' own.
    pub env: Vec<(OsString, OsString)>,
}

/// Phases that a contestant tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnPhases {
    /// When its own clock began, CLOCK_MONOTONIC.
    pub start_ns: u64,
    /// Each phase and its length, in order; the first begins at `start_ns`.
    pub phases: Vec<(String, u64)>,
}

/// Where a network probe connects to.
#[derive(Debug)]
pub struct Target {
    /// The address.
    pub address: SocketAddr,
    /// The network namespace from which it can be reached; `None`: the host's.
    pub namespace: Option<File>,
}

/// Something that is measured. Several instances may be started at once from several threads.
pub trait Contestant: Sync {
    /// What it is.
    fn subject(&self) -> &Subject;

    /// Whatever must be there before the command starts and is not part of the measurement.
    ///
    /// # Errors
    /// It cannot be made.
    fn prepare(&self, _instance: Instance<'_>, _mode: Mode) -> Result<()> {
        Ok(())
    }

    /// The command line of one start.
    fn launch(&self, instance: Instance<'_>, mode: Mode) -> Launch;

    /// Phases in what the command wrote to standard error; `None` when it tells none.
    fn phases(&self, _stderr: &str) -> Option<OwnPhases> {
        None
    }

    /// How its program failed although the command succeeded, by the command's standard output; `None`: it did not.
    fn failure(&self, _stdout: &str) -> Option<String> {
        None
    }

    /// Where `port` of a started instance is.
    ///
    /// # Errors
    /// It cannot be reached.
    fn target(&self, instance: Instance<'_>, port: u16) -> Result<Target>;

    /// How an instance has ended; `None` while it runs or when that is not known.
    fn ended(&self, _instance: Instance<'_>) -> Option<String> {
        None
    }

    /// The last phase that ended of an instance whose start hangs; `None` when that is not known.
    fn reached(&self, _instance: Instance<'_>) -> Option<String> {
        None
    }

    /// The last lines that an instance wrote, when the command did not pass them on.
    fn log(&self, _instance: Instance<'_>) -> Vec<String> {
        vec![]
    }

    /// Process ids whose descendants, themselves included, are all that an instance consists of.
    fn processes(&self, instance: Instance<'_>) -> Vec<i32>;

    /// Ends and removes an instance and every trace of it. One that is not there is no error.
    ///
    /// # Errors
    /// Something stays; the message names it.
    fn remove(&self, instance: Instance<'_>) -> Result<()>;

    /// Waits until what a removed instance still does in the background is done, so that it does not disturb the next start.
    fn settle(&self) {}
}
