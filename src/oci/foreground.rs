//! Waiting in the foreground: signals go to the process, and a terminal is joined to the caller's.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal as Named, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::termios::{self, SetArg, Termios};
use rkvm_oci::{Error, ExitStatus, Result, Signal, Stdio};

/// The end of a console socket that is this process's own.
#[derive(Debug)]
pub struct Console(OwnedFd);

impl Console {
    /// A socket for the container to send its terminal over, and this end of it.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn pair() -> Result<(Stdio, Self)> {
        let (theirs, ours) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|source| Error::failed("make", "a console socket", source))?;
        Ok((Stdio::Terminal { console: theirs }, Self(ours)))
    }

    fn master(self) -> Result<OwnedFd> {
        rkvm_container::receive_fd(self.0.as_fd())
            .map_err(|source| Error::failed("receive", "the terminal", source))
    }
}

/// Signals of this process, blocked and read from a descriptor, so that each can be passed on.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks all signals that can be passed on. The container's process unblocks its own.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn block() -> Result<Self> {
        let error = |source| Error::failed("catch", "signals", source);
        let mut set = SigSet::all();
        for own in
            [Named::SIGSEGV, Named::SIGBUS, Named::SIGILL, Named::SIGFPE, Named::SIGABRT, Named::SIGTRAP]
        {
            set.remove(own);
        }
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None).map_err(error)?;
        SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map(Self).map_err(error)
    }
}

/// What is waited for.
pub trait Waitable {
    /// Sends it a signal; whether that arrived does not matter.
    fn signal(&mut self, signal: Signal);

    /// Waits for it: it has ended already.
    ///
    /// # Errors
    /// It is not a child of this process.
    fn wait(&mut self) -> Result<ExitStatus>;
}

impl Waitable for Box<dyn rkvm_oci::Workload> {
    fn signal(&mut self, signal: Signal) {
        let _ = self.kill(signal, rkvm_oci::KillScope::Init);
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        (**self).wait()
    }
}

impl Waitable for Box<dyn rkvm_oci::ExecProcess> {
    fn signal(&mut self, signal: Signal) {
        let _ = self.kill(signal);
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        (**self).wait()
    }
}

/// Makes the caller's terminal raw until it is dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn stdin() -> Self {
        let before = termios::tcgetattr(std::io::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            termios::cfmakeraw(&mut raw);
            let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &raw);
        }
        Self(before)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, before);
        }
    }
}

/// Waits until process `pid` ends, passing on signals and, with a console, what is typed and shown.
///
/// # Errors
/// The terminal did not arrive, or the process is not a child of this one.
pub fn wait(
    pid: i32,
    mut process: impl Waitable,
    console: Option<Console>,
    signals: Signals,
) -> Result<ExitStatus> {
    let pidfd =
        rkvm_container::pidfd(pid).map_err(|source| Error::failed("wait for process", pid, source))?;
    let mut master = console.map(Console::master).transpose()?.map(File::from);
    let _raw = master.as_ref().map(|_| Raw::stdin());
    if let Some(master) = &master {
        copy_size(master);
    }
    let mut typing = master.is_some();
    let mut buffer = vec![0u8; 16 << 10];
    loop {
        let mut waited = vec![
            PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.0.as_fd(), PollFlags::POLLIN),
        ];
        let stdin = std::io::stdin();
        if let Some(master) = &master {
            waited.push(PollFd::new(master.as_fd(), PollFlags::POLLIN));
            if typing {
                waited.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
        }
        match poll(&mut waited, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => continue,
            Err(errno) => return Err(Error::failed("wait for process", pid, errno)),
            Ok(_) => {}
        }
        let ready: Vec<bool> = waited.iter().map(|one| one.any().unwrap_or(false)).collect();
        if ready[1] {
            while let Ok(Some(info)) = signals.0.read_signal() {
                match i32::try_from(info.ssi_signo) {
                    Ok(libc::SIGCHLD | libc::SIGPIPE) => {}
                    Ok(libc::SIGWINCH) if master.is_some() => master.iter().for_each(copy_size),
                    Ok(number) => Signal::from_number(number).into_iter().for_each(|one| process.signal(one)),
                    Err(_) => {}
                }
            }
        }
        if ready.get(2) == Some(&true) && !show(&mut master, &mut buffer) {
            master = None;
        }
        if ready.get(3) == Some(&true) {
            typing = type_in(&master, &mut buffer);
        }
        // What the process wrote last is shown before its end is reported.
        if ready[0] && !ready.get(2).unwrap_or(&false) {
            return process.wait();
        }
    }
}

/// Shows what the terminal has; false at its end.
fn show(master: &mut Option<File>, buffer: &mut [u8]) -> bool {
    let Some(master) = master else { return false };
    // EIO: nobody has the slave open any more.
    match master.read(buffer) {
        Ok(0) | Err(_) => false,
        Ok(length) => {
            let mut out = std::io::stdout();
            out.write_all(&buffer[..length]).and_then(|()| out.flush()).is_ok()
        }
    }
}

/// Passes on what is typed; false at the end of the input.
fn type_in(master: &Option<File>, buffer: &mut [u8]) -> bool {
    let Some(mut master) = master.as_ref() else { return false };
    match nix::unistd::read(std::io::stdin(), buffer) {
        Ok(0) | Err(_) => {
            // End of input is a character for a terminal.
            let _ = master.write_all(&[4]);
            false
        }
        Ok(length) => master.write_all(&buffer[..length]).is_ok(),
    }
}

fn copy_size(master: &File) {
    // Without a terminal of its own the caller has no size to give.
    let _ = rkvm_container::copy_terminal_size(std::io::stdin().as_fd(), master.as_fd());
}
