//! A further process in a running machine, and questions to its guest.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rkvm_guest_protocol::host::{self, Connection};
use rkvm_guest_protocol::{Answer, Question, SERVICE_PORT, ToGuest};
use rkvm_linux::sys::spawn;
use rkvm_linux::wait::wait_for;
use rkvm_oci::{Error, ExecProcess, ExecRequest, ExitStatus, Result, Signal, Stdio};

use super::channel::{Channel, Report};
use super::relay::{self, Given};
use super::{socket, terminal};

/// How long a guest may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A process that [`exec`] has started: the relay that stands for it on the host.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    process: OwnedFd,
}

impl ExecProcess for Process {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn kill(&mut self, signal: Signal) -> Result<()> {
        spawn::pidfd_signal(self.process.as_fd(), signal.number())
            .map_err(|source| Error::failed("signal process", self.pid, source))
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        wait_for(self.pid)
    }
}

fn guest(error: host::Error) -> Error {
    match error {
        host::Error::Failed(failure) => failure.into(),
        other => Error::failed("speak to", "the guest", super::chain(&other)),
    }
}

/// The folder's socket by a path that is short enough for an address; the folder stays open with it.
fn vsock(state_dir: &Path) -> Result<(File, PathBuf)> {
    let folder =
        File::open(state_dir).map_err(|source| Error::failed("open", state_dir.display(), source))?;
    let path = format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), socket::VSOCK).into();
    Ok((folder, path))
}

/// Asks the guest something.
///
/// # Errors
/// It does not answer within `limit`, or cannot do it.
pub fn ask(state_dir: &Path, question: Question, limit: Duration) -> Result<Answer> {
    let (_folder, path) = vsock(state_dir)?;
    host::ask(&path, question, limit).map_err(guest)
}

/// For an answer to another question than the one that was asked.
pub fn unexpected() -> Error {
    guest(host::Error::Unexpected)
}

/// Starts a process in the machine; returns once execve has succeeded.
///
/// # Errors
/// The guest does not answer, or its program cannot be executed.
pub fn exec(state_dir: &Path, request: ExecRequest<'_>) -> Result<Process> {
    let ExecRequest { process, stdio, preserve_fds } = request;
    if preserve_fds > 0 {
        return Err(Error::unsupported(
            "--preserve-fds",
            "a descriptor of the host cannot be handed into a microVM; use --isolation=container",
        ));
    }
    let (given, console) = match stdio {
        Stdio::Terminal { console } => {
            let pair = terminal::open(Some(process))?;
            (Given::Terminal(pair.slave), Some((console, pair.master)))
        }
        Stdio::Inherit => (Given::Inherited, None),
        Stdio::Fds { stdin, stdout, stderr } => (Given::Files([stdin, stdout, stderr]), None),
    };
    let (_folder, path) = vsock(state_dir)?;
    let mut connection = Connection::open(&path, SERVICE_PORT, CONNECT_LIMIT).map_err(guest)?;
    connection.send(&ToGuest::Exec(Box::new(process.clone())));
    connection.flush().map_err(guest)?;
    let (channel, theirs) = Channel::pair()?;
    let failed = |source| Error::failed("make", "the process that stands for the guest's", source);
    let Some(pid) = spawn::fork().map_err(failed)? else {
        drop(channel);
        relay::main(connection, given, theirs)
    };
    drop((connection, theirs));
    let process = Process { pid, process: spawn::pidfd_open(pid).map_err(failed)? };
    let started = match channel.receive::<Report>() {
        Ok(Some(Report::Started)) => match console {
            Some((socket, master)) => terminal::send(socket.as_fd(), master.as_fd()),
            None => Ok(()),
        },
        Ok(Some(Report::Failed(failure))) => Err(failure.into()),
        Ok(_) => Err(failed(std::io::Error::from_raw_os_error(libc::ECHILD))),
        Err(error) => Err(error),
    };
    if let Err(error) = started {
        let _ = spawn::pidfd_signal(process.process.as_fd(), libc::SIGKILL);
        let _ = wait_for(pid);
        return Err(error);
    }
    Ok(process)
}
