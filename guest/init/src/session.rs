//! One stream of the host and the process that it is about.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rkvm_guest_protocol::{
    Failure, FailureKind, FrameReader, GuestSetup, MAX_STREAM_DATA, Outcome, ProcessSpec, ToGuest, ToHost,
    marker,
};

use crate::child::{self, Place, Streams};
use crate::fail::{Fail, Result};
use crate::sys;

/// Output that waits for the host before the process is made to wait, bytes.
const MAX_WAITING: usize = 256 << 10;

/// Which of a session's descriptors `poll` spoke of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The host's stream.
    Stream,
    /// The process's standard output or terminal.
    Stdout,
    /// The process's standard error.
    Stderr,
    /// The process's standard input.
    Stdin,
    /// The child tells that everything is in place.
    Ready,
    /// The child tells what went wrong, or that it has executed.
    Report,
}

/// A process and our ends of its streams.
#[derive(Debug)]
struct Process {
    pid: i32,
    stdin: Option<File>,
    stdout: Option<File>,
    stderr: Option<File>,
    terminal: bool,
    ready: Option<File>,
    report: Option<File>,
    said: Vec<u8>,
    gate: Option<File>,
    outcome: Option<Outcome>,
    executed: bool,
}

/// A stream of the host.
#[derive(Debug)]
pub struct Session {
    stream: File,
    reader: FrameReader,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    stdin_ends: bool,
    process: Option<Process>,
    is_main: bool,
    finished: bool,
}

impl Session {
    /// The machine's own session, or one for a further process.
    pub fn new(stream: OwnedFd, is_main: bool) -> Self {
        let mut session = Self {
            stream: File::from(stream),
            reader: FrameReader::new(),
            outgoing: Vec::new(),
            incoming: Vec::new(),
            stdin_ends: false,
            process: None,
            is_main,
            finished: false,
        };
        session.send(&ToHost::Hello { version: rkvm_guest_protocol::VERSION });
        session
    }

    /// Whether this is the machine's own session.
    pub fn is_main(&self) -> bool {
        self.is_main
    }

    /// Whether nothing more is to be done.
    pub fn is_over(&self) -> bool {
        self.finished && self.outgoing.is_empty()
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.process.as_ref().filter(|process| process.outcome.is_none()).map(|process| process.pid)
    }

    fn send(&mut self, message: &ToHost) {
        self.outgoing.extend_from_slice(&message.encode());
    }

    fn fail(&mut self, failure: Failure) {
        let mut failure = failure;
        failure.message.truncate(4096);
        self.send(&ToHost::Failed(failure));
        self.finished = true;
    }

    /// What to wait for.
    pub fn interests(&self) -> Vec<(Source, RawFd, i16)> {
        let mut wanted = Vec::new();
        let mut stream = if self.incoming.len() < MAX_WAITING { libc::POLLIN } else { 0 };
        if !self.outgoing.is_empty() {
            stream |= libc::POLLOUT;
        }
        wanted.push((Source::Stream, self.stream.as_raw_fd(), stream));
        if let Some(process) = &self.process {
            let mut input = |source, file: &Option<File>| {
                if let Some(file) = file {
                    wanted.push((source, file.as_raw_fd(), libc::POLLIN));
                }
            };
            input(Source::Ready, &process.ready);
            input(Source::Report, &process.report);
            if self.outgoing.len() < MAX_WAITING {
                input(Source::Stdout, &process.stdout);
                input(Source::Stderr, &process.stderr);
            }
            if let Some(stdin) = process.stdin.as_ref().filter(|_| !self.incoming.is_empty()) {
                wanted.push((Source::Stdin, stdin.as_raw_fd(), libc::POLLOUT));
            }
        }
        wanted
    }

    /// Something can be read or written.
    pub fn handle(&mut self, source: Source, machine: &mut Machine) {
        match source {
            Source::Stream => {
                self.flush();
                self.receive(machine);
            }
            Source::Stdout | Source::Stderr => {
                self.read_output(source);
            }
            Source::Stdin => self.feed(),
            Source::Ready => self.on_ready(),
            Source::Report => self.on_report(),
        }
        self.flush();
    }

    fn flush(&mut self) {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(count) if count > 0 => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => return self.host_is_gone(),
            }
        }
    }

    /// The host has closed its stream: its process is of no use to anybody.
    fn host_is_gone(&mut self) {
        if let Some(pid) = self.pid() {
            sys::kill(pid, libc::SIGKILL as u8);
        }
        self.outgoing.clear();
        self.finished = true;
    }

    fn receive(&mut self, machine: &mut Machine) {
        let mut bytes = vec![0; MAX_STREAM_DATA];
        match self.stream.read(&mut bytes) {
            Ok(0) => return self.host_is_gone(),
            Ok(count) => self.reader.push(&bytes[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return;
            }
            Err(_) => return self.host_is_gone(),
        }
        while !self.finished {
            match self.reader.next_message::<ToGuest>() {
                Ok(Some(message)) => self.obey(message, machine),
                Ok(None) => return,
                Err(error) => {
                    return self.fail(Failure {
                        kind: FailureKind::Setup,
                        message: format!("the host sent {error}"),
                    });
                }
            }
        }
    }

    fn obey(&mut self, message: ToGuest, machine: &mut Machine) {
        let done = match message {
            ToGuest::Setup(setup) if self.is_main && self.process.is_none() => self.set_up(*setup, machine),
            ToGuest::Exec(spec) if !self.is_main && self.process.is_none() => self.execute(&spec, machine),
            ToGuest::Start => {
                if let Some(mut gate) = self.process.as_mut().and_then(|process| process.gate.take()) {
                    let _ = gate.write_all(&[1]);
                }
                Ok(())
            }
            ToGuest::Stdin(bytes) => {
                self.incoming.extend_from_slice(&bytes);
                self.feed();
                Ok(())
            }
            ToGuest::StdinEnd => {
                self.stdin_ends = true;
                self.feed();
                Ok(())
            }
            ToGuest::Resize(size) => {
                if let Some(process) = self.process.as_ref().filter(|process| process.terminal)
                    && let Some(master) = &process.stdout
                {
                    let _ = sys::resize(master, size);
                }
                Ok(())
            }
            ToGuest::Signal(number) => {
                if let Some(pid) = self.pid() {
                    sys::kill(pid, number);
                }
                Ok(())
            }
            ToGuest::Setup(_) | ToGuest::Exec(_) => Ok(()),
        };
        if let Err(fail) = done {
            self.fail(Failure { kind: FailureKind::Setup, message: fail.to_string() });
        }
    }

    fn set_up(&mut self, setup: GuestSetup, machine: &mut Machine) -> Result<()> {
        crate::machine::configure(&setup)?;
        crate::root::assemble(&setup)?;
        sys::unshare_pids().map_err(Fail::on("make", "a process id namespace"))?;
        let (gate, opener) = sys::pipe().map_err(Fail::on("make", "a pipe"))?;
        let (ready, reporter) = sys::pipe().map_err(Fail::on("make", "a pipe"))?;
        let place = Place::Machine { setup: &setup, gate, ready: reporter };
        let mut process = spawn(&setup.process, place)?;
        process.gate = Some(File::from(opener));
        process.ready = Some(File::from(ready));
        machine.process =
            Some(sys::process_descriptor(process.pid).map_err(Fail::on("watch", "the process"))?);
        self.process = Some(process);
        Ok(())
    }

    fn execute(&mut self, spec: &ProcessSpec, machine: &mut Machine) -> Result<()> {
        let gone = || io::Error::from_raw_os_error(libc::ESRCH);
        let main = machine.process.as_ref().ok_or_else(gone).and_then(OwnedFd::try_clone);
        let process = main.map_err(Fail::on("join", "the machine's process"))?;
        self.process = Some(spawn(spec, Place::Beside { process })?);
        Ok(())
    }

    fn on_ready(&mut self) {
        let Some(process) = &mut self.process else { return };
        let mut byte = [0];
        // Without the byte the child has failed, which its report says.
        let told = process.ready.take().is_some_and(|mut ready| matches!(ready.read(&mut byte), Ok(1)));
        if told {
            self.send(&ToHost::Ready);
        }
    }

    fn on_report(&mut self) {
        let Some(process) = &mut self.process else { return };
        let Some(report) = &mut process.report else { return };
        let mut bytes = [0; 4096];
        match report.read(&mut bytes) {
            Ok(0) | Err(_) => {}
            Ok(count) => return process.said.extend_from_slice(&bytes[..count]),
        }
        process.report = None;
        if process.said.is_empty() {
            process.executed = true;
            let pid = process.pid as u32;
            if self.is_main {
                sys::mark(marker::EXEC);
            }
            self.send(&ToHost::Started { pid });
            self.finish();
        } else {
            let failure = child::parse_report(&process.said);
            self.fail(failure);
        }
    }

    /// Reads once; whether there may be more.
    fn read_output(&mut self, source: Source) -> bool {
        let Some(process) = &mut self.process else { return false };
        let slot = if source == Source::Stdout { &mut process.stdout } else { &mut process.stderr };
        let Some(file) = slot else { return false };
        let mut bytes = vec![0; 32 << 10];
        match file.read(&mut bytes) {
            Ok(count) if count > 0 => {
                bytes.truncate(count);
                let message =
                    if source == Source::Stdout { ToHost::Stdout(bytes) } else { ToHost::Stderr(bytes) };
                self.send(&message);
                true
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                false
            }
            // The end of a pipe, or EIO of a terminal without a process.
            _ => {
                *slot = None;
                false
            }
        }
    }

    fn feed(&mut self) {
        let Some(process) = &mut self.process else { return };
        while let Some(stdin) = process.stdin.as_mut().filter(|_| !self.incoming.is_empty()) {
            match stdin.write(&self.incoming) {
                Ok(count) if count > 0 => drop(self.incoming.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => process.stdin = None,
            }
        }
        if process.stdin.is_none() {
            self.incoming.clear();
        }
        if self.stdin_ends && !process.terminal {
            process.stdin = None;
        }
    }

    /// The session's process has ended.
    pub fn ended(&mut self, status: libc::c_int) {
        let outcome = if libc::WIFSIGNALED(status) {
            Outcome::Signaled(libc::WTERMSIG(status) as u8)
        } else {
            Outcome::Exited(libc::WEXITSTATUS(status) as u8)
        };
        if let Some(process) = &mut self.process {
            process.outcome = Some(outcome);
        }
        self.finish();
        self.flush();
    }

    /// Sends the outcome, after all output that is there, once the start has been reported.
    fn finish(&mut self) {
        let Some(outcome) =
            self.process.as_ref().filter(|process| process.executed).and_then(|process| process.outcome)
        else {
            return;
        };
        while self.read_output(Source::Stdout) {}
        while self.read_output(Source::Stderr) {}
        self.send(&ToHost::Ended(outcome));
        self.finished = true;
    }
}

/// What sessions share.
#[derive(Debug, Default)]
pub struct Machine {
    /// The machine's process, which further processes join.
    pub process: Option<OwnedFd>,
}

fn spawn(spec: &ProcessSpec, place: Place<'_>) -> Result<Process> {
    let pipe = || sys::pipe().map_err(Fail::on("make", "a pipe"));
    let (report, reporter) = pipe()?;
    let (streams, stdin, stdout, stderr) = match spec.terminal {
        None => {
            let ((stdin, to_process), (from_stdout, stdout), (from_stderr, stderr)) =
                (pipe()?, pipe()?, pipe()?);
            (Streams::Pipes([stdin, stdout, stderr]), to_process, from_stdout, Some(from_stderr))
        }
        Some(terminal) => {
            let (master, slave) = sys::open_terminal().map_err(Fail::on("open", "a terminal"))?;
            if let Some(size) = terminal.size {
                sys::resize(&master, size).map_err(Fail::on("resize", "the terminal"))?;
            }
            let reading = master.try_clone().map_err(Fail::on("share", "the terminal"))?;
            (Streams::Terminal(slave), master, reading, None)
        }
    };
    for end in [Some(&stdin), Some(&stdout), stderr.as_ref()].into_iter().flatten() {
        sys::set_non_blocking(end).map_err(Fail::on("set", "standard streams"))?;
    }
    match sys::fork().map_err(Fail::on("start", "a process"))? {
        None => {
            let failure = child::become_process(spec, place, streams);
            child::report_and_exit(&reporter, &failure)
        }
        Some(pid) => Ok(Process {
            pid,
            stdin: Some(File::from(stdin)),
            stdout: Some(File::from(stdout)),
            stderr: stderr.map(File::from),
            terminal: spec.terminal.is_some(),
            ready: None,
            report: Some(File::from(report)),
            said: Vec::new(),
            gate: None,
            outcome: None,
            executed: false,
        }),
    }
}
