//! One stream of the host and the process that it is about.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rkvm_guest_protocol::{
    FrameReader, GuestProcess, GuestSetup, OutputKind, Question, STDIN_WINDOW, ToGuest, ToHost, VERSION,
    WindowSize, marker,
};
use rkvm_oci::failure::Failure;
use rkvm_oci::{Error, ExecProcess, ExitStatus, KillScope, Result, Signal};

use crate::root;
use crate::sys::{self, Marker};
use crate::workload::{Ends, Machine};

/// Output that waits for the host before the process is made to wait, bytes.
const MAX_WAITING: usize = 256 << 10;
/// Output that is still read of a process that has ended, bytes: what its pipe can hold. Others may go on writing to it without end.
const MAX_LAST_OUTPUT: usize = 1 << 20;
/// How long the host may take to read the last messages, seconds.
const CLOSE_SECONDS: libc::c_int = 10;

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
}

/// A process and our ends of its streams.
struct Process {
    pid: i32,
    /// `None` for the container's own.
    further: Option<Box<dyn ExecProcess>>,
    /// The write end of a pipe, or a terminal's master; `stdout` is then the same terminal.
    stdin: Option<File>,
    stdout: Option<File>,
    stderr: Option<File>,
    terminal: bool,
    /// The host has been told that it runs.
    started: bool,
    outcome: Option<ExitStatus>,
}

impl Process {
    fn new(pid: i32, further: Option<Box<dyn ExecProcess>>, ends: Ends) -> Result<Self> {
        let (stdin, stdout, stderr, terminal) = match ends {
            Ends::Pipes { stdin, stdout, stderr } => (stdin, stdout, Some(stderr), false),
            Ends::Terminal(master) => {
                let both = master
                    .try_clone()
                    .map_err(|source| Error::failed("share", "the terminal of a process", source))?;
                (master, both, None, true)
            }
        };
        let started = further.is_some();
        let (stdin, stdout) = (Some(stdin), Some(stdout));
        Ok(Self { pid, further, stdin, stdout, stderr, terminal, started, outcome: None })
    }
}

/// A stream of the host.
pub struct Session {
    stream: File,
    reader: FrameReader,
    outgoing: Vec<u8>,
    /// Standard input that the process has not taken yet.
    incoming: Vec<u8>,
    stdin_ends: bool,
    process: Option<Process>,
    is_main: bool,
    finished: bool,
}

impl Session {
    /// The machine's own session, or one for a further process or a question.
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
        session.send(&ToHost::Hello { version: VERSION });
        session.flush();
        session
    }

    /// Whether nothing more is to be done.
    pub fn is_over(&self) -> bool {
        self.finished && self.outgoing.is_empty()
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.process.as_ref().filter(|process| process.outcome.is_none()).map(|process| process.pid)
    }

    /// Ends the stream when the host has taken everything.
    pub fn close(self) {
        sys::close_and_wait(self.stream.into(), CLOSE_SECONDS);
    }

    fn send(&mut self, message: &ToHost) {
        self.outgoing.extend_from_slice(&message.encode());
    }

    fn fail(&mut self, error: Error) {
        self.send(&ToHost::Failed(Box::new(Failure::from(error))));
        self.finished = true;
    }

    /// What to wait for.
    pub fn interests(&self) -> Vec<(Source, RawFd, i16)> {
        let mut wanted = Vec::with_capacity(4);
        let mut stream = if self.finished { 0 } else { libc::POLLIN };
        if !self.outgoing.is_empty() {
            stream |= libc::POLLOUT;
        }
        wanted.push((Source::Stream, self.stream.as_raw_fd(), stream));
        if let Some(process) = &self.process {
            if self.outgoing.len() < MAX_WAITING {
                for (source, file) in [(Source::Stdout, &process.stdout), (Source::Stderr, &process.stderr)] {
                    if let Some(file) = file {
                        wanted.push((source, file.as_raw_fd(), libc::POLLIN));
                    }
                }
            }
            if let Some(stdin) = process.stdin.as_ref().filter(|_| !self.incoming.is_empty()) {
                wanted.push((Source::Stdin, stdin.as_raw_fd(), libc::POLLOUT));
            }
        }
        wanted
    }

    /// Something can be read or written.
    pub fn handle(&mut self, source: Source, machine: &mut Machine, marker: &mut Marker) {
        match source {
            Source::Stream => {
                self.flush();
                self.receive(machine, marker);
            }
            Source::Stdout | Source::Stderr => {
                self.read_output(source, machine.chunk());
            }
            Source::Stdin => self.feed(),
        }
        self.flush();
    }

    fn flush(&mut self) {
        let mut sent = 0;
        while sent < self.outgoing.len() {
            match self.stream.write(&self.outgoing[sent..]) {
                Ok(count) if count > 0 => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                _ => return self.host_is_gone(),
            }
        }
        self.outgoing.drain(..sent);
    }

    /// The host has closed its stream: its process is of no use to anybody.
    fn host_is_gone(&mut self) {
        if let Some(pid) = self.pid() {
            sys::kill(pid, libc::SIGKILL);
        }
        self.outgoing.clear();
        self.finished = true;
    }

    fn receive(&mut self, machine: &mut Machine, marker: &mut Marker) {
        match self.stream.read(machine.chunk()) {
            Ok(0) => return self.host_is_gone(),
            Ok(count) => self.reader.push(&machine.chunk()[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return;
            }
            Err(_) => return self.host_is_gone(),
        }
        while !self.finished {
            match self.reader.next_message::<ToGuest>() {
                Ok(Some(message)) => {
                    if let Err(error) = self.obey(message, machine, marker) {
                        self.fail(error);
                    }
                }
                Ok(None) => return,
                Err(error) => self.fail(Error::failed("understand", "the host", error)),
            }
        }
    }

    fn obey(&mut self, message: ToGuest, machine: &mut Machine, marker: &mut Marker) -> Result<()> {
        match message {
            ToGuest::Setup(setup) if self.is_main && self.process.is_none() => {
                self.set_up(*setup, machine, marker)
            }
            ToGuest::Exec(process) if !self.is_main && self.process.is_none() => {
                self.execute(&process, machine)
            }
            ToGuest::Ask(question) if !self.is_main && self.process.is_none() => {
                self.answer(&question, machine)
            }
            ToGuest::Start => self.start(machine, marker),
            ToGuest::Stdin(bytes) => self.take_input(&bytes),
            ToGuest::StdinEnd => {
                self.stdin_ends = true;
                self.feed();
                Ok(())
            }
            ToGuest::Resize(size) => {
                self.resize(size);
                Ok(())
            }
            ToGuest::Signal(signal, scope) => {
                self.signal(signal, scope, machine);
                Ok(())
            }
            ToGuest::Setup(_) | ToGuest::Exec(_) | ToGuest::Ask(_) => {
                Err(Error::unsupported("this message on this stream", "see the protocol's table of streams"))
            }
        }
    }

    fn set_up(&mut self, setup: GuestSetup, machine: &mut Machine, marker: &mut Marker) -> Result<()> {
        let (pid, ends) = machine.create(setup)?;
        self.process = Some(Process::new(pid, None, ends)?);
        marker.mark(marker::READY);
        self.send(&ToHost::Ready);
        Ok(())
    }

    fn start(&mut self, machine: &mut Machine, marker: &mut Marker) -> Result<()> {
        let Some(process) = self.process.as_mut().filter(|process| !process.started) else { return Ok(()) };
        machine.start()?;
        marker.mark(marker::EXEC);
        process.started = true;
        let pid = process.pid as u32;
        self.send(&ToHost::Started { pid });
        self.finish(machine);
        Ok(())
    }

    fn execute(&mut self, process: &GuestProcess, machine: &mut Machine) -> Result<()> {
        let (started, ends) = machine.exec(process)?;
        let pid = started.pid();
        self.process = Some(Process::new(pid, Some(started), ends)?);
        self.send(&ToHost::Started { pid: pid as u32 });
        Ok(())
    }

    fn answer(&mut self, question: &Question, machine: &mut Machine) -> Result<()> {
        let answer = machine.answer(question)?;
        self.send(&ToHost::Answer(Box::new(answer)));
        self.finished = true;
        Ok(())
    }

    /// A signal to a process that has just ended is lost, as one to a process that ends before it has looked at it.
    fn signal(&mut self, signal: Signal, scope: KillScope, machine: &mut Machine) {
        let Some(process) = self.process.as_mut().filter(|process| process.outcome.is_none()) else { return };
        let _ = match &mut process.further {
            Some(further) => further.kill(signal),
            None => machine.kill(signal, scope),
        };
    }

    fn resize(&self, size: WindowSize) {
        if let Some(process) = self.process.as_ref().filter(|process| process.terminal)
            && let Some(master) = &process.stdout
        {
            let _ = sys::resize(master, size);
        }
    }

    fn take_input(&mut self, bytes: &[u8]) -> Result<()> {
        if self.incoming.len() + bytes.len() > STDIN_WINDOW {
            return Err(Error::unsupported(
                "more standard input than the window",
                format!("{STDIN_WINDOW} bytes may be on their way"),
            ));
        }
        if self.process.as_ref().is_some_and(|process| process.stdin.is_some()) {
            self.incoming.extend_from_slice(bytes);
            self.feed();
        }
        Ok(())
    }

    fn feed(&mut self) {
        let Some(process) = &mut self.process else { return };
        let mut taken = 0;
        let mut closed = false;
        while let Some(stdin) = process.stdin.as_mut().filter(|_| taken < self.incoming.len()) {
            match stdin.write(&self.incoming[taken..]) {
                Ok(count) if count > 0 => taken += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                _ => {
                    process.stdin = None;
                    closed = true;
                }
            }
        }
        self.incoming.drain(..taken);
        if self.stdin_ends && self.incoming.is_empty() {
            process.stdin = None;
            if process.terminal {
                // The user's terminal is gone: closing the master hangs up the process's.
                process.stdout = None;
            }
        }
        if closed {
            self.incoming.clear();
            self.send(&ToHost::StdinClosed);
        } else if taken > 0 {
            self.send(&ToHost::StdinTaken(taken as u32));
        }
    }

    /// Reads once, by way of `chunk`; how many bytes came.
    fn read_output(&mut self, source: Source, chunk: &mut [u8]) -> usize {
        let Some(process) = &mut self.process else { return 0 };
        let slot = if source == Source::Stdout { &mut process.stdout } else { &mut process.stderr };
        let Some(file) = slot else { return 0 };
        let kind = if source == Source::Stdout { OutputKind::Stdout } else { OutputKind::Stderr };
        match file.read(chunk) {
            Ok(count) if count > 0 => {
                ToHost::append_output(&mut self.outgoing, kind, &chunk[..count]);
                count
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            // The end of a pipe, or EIO of a terminal without a process.
            _ => {
                *slot = None;
                0
            }
        }
    }

    /// The session's process has ended.
    pub fn ended(&mut self, status: libc::c_int, machine: &mut Machine) {
        let outcome = match Signal::from_number(libc::WTERMSIG(status)) {
            Some(signal) if libc::WIFSIGNALED(status) => ExitStatus::Signaled(signal),
            _ => ExitStatus::Exited(libc::WEXITSTATUS(status) as u8),
        };
        if let Some(process) = &mut self.process {
            process.outcome = Some(outcome);
        }
        self.finish(machine);
        self.flush();
    }

    /// Sends the outcome, after all output that is there, once the start has been reported.
    fn finish(&mut self, machine: &mut Machine) {
        let Some(outcome) =
            self.process.as_ref().filter(|process| process.started).and_then(|process| process.outcome)
        else {
            return;
        };
        for source in [Source::Stdout, Source::Stderr] {
            let mut read = 0;
            while read < MAX_LAST_OUTPUT {
                match self.read_output(source, machine.chunk()) {
                    0 => break,
                    count => read += count,
                }
            }
        }
        if self.is_main {
            // Whoever has done its work did not run out of memory: its end is not made to wait for the counter.
            if outcome != ExitStatus::Exited(0)
                && let kills @ 1.. = machine.oom_kills()
            {
                self.send(&ToHost::OomKills(kills));
            }
            // What the process wrote must be on the host when the host hears that it has ended.
            if machine.may_hold_writes() {
                root::take_apart();
            }
        }
        self.send(&ToHost::Ended(outcome));
        self.finished = true;
    }
}
