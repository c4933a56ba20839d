//! `linux.seccomp`: which system calls the container's processes may make.
//!
//! A profile is compiled to a BPF program before the container's process exists ([`Filter::compile`]), because compiling
//! costs milliseconds; the process itself only makes one system call ([`Filter::load`]). Programs are cached by the
//! profile's hash, so a host compiles a profile once.

#[cfg(feature = "seccomp-compiler")]
mod cache;
#[cfg(feature = "seccomp-compiler")]
mod compile;
mod given;
mod listener;
#[cfg(feature = "seccomp-compiler")]
mod prologue;
mod sys;
#[cfg(all(test, feature = "seccomp-compiler"))]
mod tests;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};
use rkvm_oci::{Error, Result};

#[cfg(feature = "seccomp-compiler")]
pub use compile::{actions, architectures, library_version, operators};
pub use given::give;

/// A compiled filter, ready to be loaded.
#[derive(Debug, Clone)]
pub struct Filter {
    program: Vec<libc::sock_filter>,
    flags: libc::c_ulong,
    listener: Option<Listener>,
}

/// Who answers the system calls with action SCMP_ACT_NOTIFY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Unix stream socket on which the agent listens (`listenerPath`).
    pub path: PathBuf,
    /// Passed on to it (`listenerMetadata`).
    pub metadata: Option<String>,
}

impl Filter {
    /// Compiles a profile, or takes the program from `cache_dir`, a folder that is made when it is missing. A cache that
    /// cannot be used, or that somebody else could have written to, is left alone: it never makes a container fail.
    ///
    /// System calls that libseccomp does not know are skipped, as runtime-spec asks.
    ///
    /// # Errors
    /// A part of the profile is contradictory or unknown to libseccomp; the message names the field.
    pub fn compile(profile: &LinuxSeccomp, cache_dir: Option<&Path>) -> Result<Self> {
        let listener = listener(profile)?;
        let flags = flags(profile, listener.is_some());
        let program = match given::program() {
            Some(program) => program,
            None => program(profile, cache_dir)?,
        };
        Ok(Self { program, flags, listener })
    }

    /// The program, for another machine.
    pub fn program(&self) -> &[libc::sock_filter] {
        &self.program
    }

    /// Loads the filter into the calling thread, for good. Allocates nothing, so it may be called between `clone` and
    /// `execve`. Needs `no_new_privs`, or CAP_SYS_ADMIN in the thread's user namespace.
    ///
    /// Returns the listener's descriptor (close-on-exec) when the profile has SCMP_ACT_NOTIFY.
    ///
    /// # Errors
    /// The kernel's errno: EACCES without the privilege, EINVAL for a flag that the kernel does not know.
    pub fn load(&self) -> nix::Result<Option<OwnedFd>> {
        sys::load(&self.program, self.flags)
    }

    /// The agent to which [`Filter::load`]'s descriptor must be sent.
    pub fn listener(&self) -> Option<&Listener> {
        self.listener.as_ref()
    }
}

#[cfg(feature = "seccomp-compiler")]
fn program(profile: &LinuxSeccomp, cache_dir: Option<&Path>) -> Result<Vec<libc::sock_filter>> {
    let key = cache_dir.map(|dir| (dir, cache::key(profile)));
    if let Some(program) = key.as_ref().and_then(|(dir, key)| cache::load(dir, key)) {
        return Ok(program);
    }
    let program = compile::compile(profile)?;
    if let Some((dir, key)) = &key {
        cache::store(dir, key, &program);
    }
    Ok(program)
}

#[cfg(not(feature = "seccomp-compiler"))]
fn program(_: &LinuxSeccomp, _: Option<&Path>) -> Result<Vec<libc::sock_filter>> {
    Err(Error::unsupported(
        "linux.seccomp",
        "this program cannot compile a profile, and no compiled one was given to it",
    ))
}

/// Checks the rules for SCMP_ACT_NOTIFY and its agent.
fn listener(profile: &LinuxSeccomp) -> Result<Option<Listener>> {
    let path = profile.listener_path().as_ref().filter(|path| !path.as_os_str().is_empty());
    if profile.listener_metadata().is_some() && path.is_none() {
        return Err(Error::invalid_spec(
            "linux.seccomp.listenerMetadata",
            "set, and linux.seccomp.listenerPath is not; there is nobody to pass it to",
        ));
    }
    let notify = LinuxSeccompAction::ScmpActNotify;
    if profile.default_action() == notify {
        return Err(Error::invalid_spec(
            "linux.seccomp.defaultAction",
            "SCMP_ACT_NOTIFY would hold back the calls with which the listener is handed over; use it in rules",
        ));
    }
    let mut notifying = profile.syscalls().iter().flatten().filter(|rule| rule.action() == notify).peekable();
    if notifying.peek().is_none() {
        return Ok(None);
    }
    // Between loading the filter and handing its descriptor over, the process must be able to say so.
    if notifying.any(|rule| rule.names().iter().any(|name| name == "write")) {
        return Err(Error::invalid_spec(
            "linux.seccomp.syscalls",
            "SCMP_ACT_NOTIFY for `write` would hold back the call with which the listener is handed over",
        ));
    }
    let path = path.ok_or_else(|| {
        Error::invalid_spec("linux.seccomp.listenerPath", "missing, and a rule has SCMP_ACT_NOTIFY")
    })?;
    Ok(Some(Listener { path: path.clone(), metadata: profile.listener_metadata().clone() }))
}

/// Flags of seccomp(2). Without any in the profile, SPEC_ALLOW as runc has it: the mitigation that it turns off costs
/// every container dearly, and the kernel itself stopped enabling it for seccomp in 5.16.
fn flags(profile: &LinuxSeccomp, notifies: bool) -> libc::c_ulong {
    use LinuxSeccompFilterFlag::{
        SeccompFilterFlagLog, SeccompFilterFlagSpecAllow, SeccompFilterFlagTsync,
        SeccompFilterFlagWaitKillableRecv,
    };
    let mut flags = if notifies { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 };
    let Some(listed) = profile.flags() else { return flags | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW };
    for flag in listed {
        flags |= match flag {
            SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            // Together with a listener the return value is taken, and a failure must be an errno.
            SeccompFilterFlagTsync if notifies => {
                libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH
            }
            SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
            // Means nothing without a listener, and the kernel then refuses it.
            SeccompFilterFlagWaitKillableRecv if notifies => libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
            SeccompFilterFlagWaitKillableRecv => 0,
        };
    }
    flags
}
