//! The one loop of the process: the guest, its streams, commands, signals, and whoever started it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use rkvm_guest_protocol::host::{Connection, Ended, Relay, Slot, Streams};
use rkvm_guest_protocol::{ToGuest, ToHost, VERSION, WindowSize, marker};
use rkvm_linux::sys::pty;
use rkvm_oci::timeline::MonotonicNs;
use rkvm_oci::{Error, ExitStatus, KillScope, Result, Signal};

use super::commands::{Asked, Commands, Source};
use super::machine::Parts;
use super::{Creator, signals, streams};
use crate::backend::channel::{Go, Report, Stamps};
use crate::backend::control::Command;
use crate::backend::oom;
use crate::events::BootPhase;
use crate::template::Recording;
use crate::{End, Microvm};

/// How long the guest may take to end its process after a SIGKILL, write everything out and say so.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// How long the last bytes of a machine that has ended may take through the host's side of its sockets.
const LAST_WORDS_LIMIT: Duration = Duration::from_millis(200);
/// How long the creator may take to ask for the start of a process that has ended already.
const ASK_LIMIT: Duration = Duration::from_secs(60);
/// What init says when it begins, in a machine that boots and in one of a template.
const BEGINS: [u8; 2] = [marker::INIT, marker::RESUMED];
/// Lines of the guest's console that an error shows.
const CONSOLE_LINES: usize = 12;

/// How far the container's process has come.
enum Stage {
    /// It waits for the start.
    Created(Connection),
    /// It has been told to start, or runs.
    Started(Relay),
    /// In between.
    Nothing,
}

/// A machine and everything that concerns it.
pub(super) struct Session {
    machine: Microvm,
    /// Until the machine has been recorded as a template.
    recording: Option<Recording>,
    commands: Commands,
    signals: SignalFd,
    stage: Stage,
    streams: Option<Streams>,
    /// The terminal, for its size.
    terminal: Option<OwnedFd>,
    oom_kills: File,
    boot_limit: Duration,
    /// The program is executed as soon as it can be, without being asked to.
    at_once: bool,
    /// The creator has asked for the start, or has been told that it need not.
    asked: bool,
    /// Who waits for the start.
    starter: Option<u64>,
    /// The machine has ended, and how its process ended is known.
    over: bool,
    /// When the machine is ended if the guest has not ended by then.
    deadline: Option<Instant>,
}

/// What `poll` spoke of.
enum Ready {
    Machine,
    Recording,
    Creator,
    Signals,
    Guest,
    Relay(Slot),
    Commands(Source),
}

pub(super) fn guest(error: rkvm_guest_protocol::host::Error) -> Error {
    Error::failed("speak to", "the guest", crate::backend::chain(&error))
}

impl Session {
    /// A machine that has just been started.
    pub(super) fn new(machine: Microvm, parts: Parts, signals: SignalFd) -> Result<Self> {
        let (streams, terminal) = streams::take(parts.terminal)?;
        let commands =
            Commands::new(parts.control).map_err(|source| Error::failed("serve", "vmm.sock", source))?;
        Ok(Self {
            recording: machine.recording(),
            machine,
            commands,
            signals,
            stage: Stage::Created(parts.guest),
            streams: Some(streams),
            terminal,
            oom_kills: parts.oom_kills,
            boot_limit: parts.boot_limit,
            at_once: parts.at_once,
            asked: false,
            starter: None,
            over: false,
            deadline: None,
        })
    }

    /// Boots, sets the guest up, and goes on until its process has ended.
    pub(super) fn run(&mut self, creator: &mut Creator) -> Result<ExitStatus> {
        let done = self.boot(creator).and_then(|()| self.serve(creator));
        done.map_err(|error| self.explain(error))
    }

    /// Puts what the machine itself has to say in the place of "the guest is gone".
    fn explain(&self, error: Error) -> Error {
        // The guest's stream may end a moment before its processors do.
        let end = self.machine.events().wait_end(Some(Duration::from_millis(50)));
        let Some(end) = end.filter(|end| *end != End::PowerOff && *end != End::Stopped) else { return error };
        self.ended(&end)
    }

    fn ended(&self, end: &End) -> Error {
        let tail = self.machine.console_tail(CONSOLE_LINES);
        let tail = if tail.trim().is_empty() {
            String::new()
        } else {
            format!("; the console's last lines:\n{}", tail.trim_end())
        };
        Error::failed("run", "the microVM", format!("{end}{tail}"))
    }

    /// The boot has taken too long.
    fn hung(&self) -> End {
        let phase = match self.machine.events().marked(&BEGINS) {
            Some(_) => BootPhase::Init,
            None => BootPhase::Kernel,
        };
        End::HungBoot(phase, self.boot_limit)
    }

    fn boot(&mut self, creator: &mut Creator) -> Result<()> {
        let deadline = Instant::now() + self.boot_limit;
        match self.hear(creator, deadline)? {
            ToHost::Hello { version: VERSION } => {}
            ToHost::Hello { version } => {
                return Err(Error::failed(
                    "use",
                    "the guest's initramfs",
                    format!("its init speaks version {version} of the protocol, and this rkvm {VERSION}"),
                )
                .hint("build it again with `./x guest`"));
            }
            _ => return Err(guest(rkvm_guest_protocol::host::Error::Unexpected)),
        }
        creator.resuming = false;
        match self.hear(creator, deadline)? {
            ToHost::Ready => {}
            ToHost::Failed(failure) => return Err((*failure).into()),
            _ => return Err(guest(rkvm_guest_protocol::host::Error::Unexpected)),
        }
        if self.at_once
            && let Stage::Created(connection) = std::mem::replace(&mut self.stage, Stage::Nothing)
        {
            self.relay(connection)?;
        }
        self.report(creator)
    }

    fn report(&mut self, creator: &mut Creator) -> Result<()> {
        let events = self.machine.events();
        let now = MonotonicNs::now();
        let entered = events.entered().unwrap_or(now);
        let init = events.marked(&BEGINS).unwrap_or(entered);
        // The guest says both at once where it does not wait in between.
        let ready = events.marked(&[marker::READY]).filter(|_| self.at_once).unwrap_or(now);
        let executed = events.marked(&[marker::EXEC]).filter(|_| self.at_once);
        creator.report(&Report::Ready(Stamps { entered, init, ready, executed }))?;
        // A creator that hears so asks for nothing.
        self.asked = executed.is_some();
        creator.told = true;
        Ok(())
    }

    /// Waits for the next message of the guest.
    fn hear(&mut self, creator: &mut Creator, deadline: Instant) -> Result<ToHost> {
        loop {
            if let Stage::Created(connection) = &mut self.stage
                && let Some(message) = connection.arrived().map_err(guest)?
            {
                return Ok(message);
            }
            for ready in self.wait(creator, Some(deadline))? {
                match ready {
                    Ready::Machine => {
                        if let Some(end) = self.machine.events().ended() {
                            // It may have said why just before.
                            let Stage::Created(connection) = &mut self.stage else { continue };
                            return connection.wait(LAST_WORDS_LIMIT).map_err(|_| self.ended(&end));
                        }
                    }
                    Ready::Recording => self.record(creator)?,
                    Ready::Creator => Self::creator(creator)?,
                    // Read at the beginning of the next turn.
                    Ready::Guest => {}
                    // Nobody knows of the machine yet.
                    Ready::Signals | Ready::Relay(_) | Ready::Commands(_) => {}
                }
            }
            if Instant::now() >= deadline {
                return Err(self.ended(&self.hung()));
            }
        }
    }

    /// Has the creator record the machine, which stands still meanwhile.
    fn record(&mut self, creator: &Creator) -> Result<()> {
        let snapshot = self.recording.take().and_then(|recording| Some((recording.snapshot()?, recording)));
        if let (Some((snapshot, _stands_still)), Some(channel)) = (snapshot, &creator.channel) {
            channel
                .send(&Report::Recordable(Box::new(snapshot)))
                .map_err(|errno| Error::failed("report to", "the creator", errno))?;
            channel.wait_for(Go::TemplateDone)?;
        }
        Ok(())
    }

    /// Waits until something is to be done.
    fn wait(&self, creator: &Creator, deadline: Option<Instant>) -> Result<Vec<Ready>> {
        let mut wanted = Vec::with_capacity(8);
        if !self.over {
            wanted.push((Ready::Machine, self.machine.events().as_fd(), PollFlags::POLLIN));
        }
        if let Some(recording) = &self.recording {
            wanted.push((Ready::Recording, recording.as_fd(), PollFlags::POLLIN));
        }
        if let Some(channel) = &creator.channel {
            wanted.push((Ready::Creator, channel.as_fd(), PollFlags::POLLIN));
        }
        if creator.told {
            // Before the input: what is typed after the terminal's size has changed is read by a program that knows the size.
            wanted.push((Ready::Signals, self.signals.as_fd(), PollFlags::POLLIN));
        }
        match &self.stage {
            Stage::Created(connection) => wanted.push((Ready::Guest, connection.as_fd(), PollFlags::POLLIN)),
            Stage::Started(relay) => {
                let slots = relay.interests().into_iter();
                wanted.extend(slots.map(|(slot, fd, events)| (Ready::Relay(slot), fd, events)));
            }
            Stage::Nothing => {}
        }
        // Until the machine is ready there is nobody to take commands from.
        if creator.told {
            let sources = self.commands.interests().into_iter();
            wanted.extend(sources.map(|(source, fd, events)| (Ready::Commands(source), fd, events)));
        }
        let mut set: Vec<PollFd<'_>> =
            wanted.iter().map(|(_, fd, events)| PollFd::new(*fd, *events)).collect();
        match poll(&mut set, timeout(deadline)) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(Error::failed("wait for", "the guest", errno)),
        }
        let ready: Vec<bool> =
            set.iter().map(|entry| entry.revents().is_some_and(|events| !events.is_empty())).collect();
        Ok(wanted.into_iter().zip(ready).filter(|(_, ready)| *ready).map(|((what, ..), _)| what).collect())
    }

    /// The creator has recorded the machine, or has ended: nobody would ever know of the machine then.
    fn creator(creator: &mut Creator) -> Result<()> {
        let Some(channel) = &creator.channel else { return Ok(()) };
        match channel.receive::<Go>() {
            Ok(Some(Go::Recorded)) => {
                creator.channel = None;
                Ok(())
            }
            _ => Err(Error::failed("go on", "without the creator", nix::Error::EPIPE)),
        }
    }

    fn serve(&mut self, creator: &mut Creator) -> Result<ExitStatus> {
        loop {
            for ready in self.wait(creator, self.deadline)? {
                match ready {
                    Ready::Machine => {
                        if let Some(end) = self.machine.events().ended() {
                            if !self.last_words()? {
                                return Err(self.ended(&end));
                            }
                            // What is left is to write its output.
                            self.over = true;
                        }
                    }
                    // A guest that says so now has nobody to record it.
                    Ready::Recording => self.recording = None,
                    Ready::Creator => Self::creator(creator)?,
                    Ready::Signals => {
                        for signal in signals::read(&self.signals) {
                            if let Some(status) = self.signalled(signal)? {
                                return Ok(status);
                            }
                        }
                    }
                    Ready::Commands(source) => {
                        let Some(asked) = self.commands.handle(source) else { continue };
                        if let Some(status) = self.obey(asked)? {
                            return Ok(status);
                        }
                    }
                    // The machine's process must not have ended before it was started.
                    Ready::Guest => return Err(guest(rkvm_guest_protocol::host::Error::Closed)),
                    Ready::Relay(slot) => {
                        if let Stage::Started(relay) = &mut self.stage {
                            relay.handle(slot).map_err(guest)?;
                        }
                    }
                }
            }
            self.tell_starter();
            if let Some(status) = self.outcome()? {
                return Ok(status);
            }
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(ExitStatus::Signaled(Signal::KILL));
            }
        }
    }

    /// Takes what the guest said before it ended; whether it said how its process ended.
    fn last_words(&mut self) -> Result<bool> {
        let Stage::Started(relay) = &mut self.stage else { return Ok(false) };
        let deadline = Instant::now() + LAST_WORDS_LIMIT;
        loop {
            let Some((_, stream, _)) = relay.interests().into_iter().find(|(slot, ..)| *slot == Slot::Guest)
            else {
                return Ok(true);
            };
            // The device's thread passes the last bytes on a moment after the guest has sent them.
            let left = timeout(Some(deadline));
            match poll(&mut [PollFd::new(stream, PollFlags::POLLIN)], left) {
                Ok(0) | Err(_) => return Ok(false),
                Ok(_) if Instant::now() >= deadline => return Ok(false),
                Ok(_) => relay.handle(Slot::Guest).map_err(guest)?,
            }
        }
    }

    fn tell_starter(&mut self) {
        if let Stage::Started(relay) = &self.stage
            && relay.started().is_some()
            && let Some(starter) = self.starter.take()
        {
            self.commands.answer(starter, Ok(()));
        }
    }

    /// How the process has ended, if it has.
    fn outcome(&mut self) -> Result<Option<ExitStatus>> {
        let Stage::Started(relay) = &self.stage else { return Ok(None) };
        let ended = relay.ended().cloned();
        if ended.is_some() && !self.asked {
            // It ended before the creator could ask for its start, which must find somebody who answers.
            self.deadline.get_or_insert_with(|| Instant::now() + ASK_LIMIT);
            return Ok(None);
        }
        match ended {
            None => Ok(None),
            Some(Ended::Process(status)) => {
                if relay.oom_kills() > 0 {
                    oom::write(&self.oom_kills, relay.oom_kills())
                        .map_err(|source| Error::failed("record", "that memory ran out", source))?;
                }
                Ok(Some(status))
            }
            Some(Ended::Failed(failure)) => match self.starter.take() {
                Some(starter) => {
                    let error = Error::from(failure);
                    let code = error.exit_code();
                    self.commands.answer(starter, Err(error));
                    Ok(Some(ExitStatus::Exited(code)))
                }
                None => Err(failure.into()),
            },
        }
    }

    fn obey(&mut self, asked: Asked) -> Result<Option<ExitStatus>> {
        let result = match asked.command {
            Command::Start if self.asked => {
                Err(Error::failed("start", "the container", "it has been started already"))
            }
            Command::Start => {
                self.asked = true;
                self.starter = Some(asked.client);
                match std::mem::replace(&mut self.stage, Stage::Nothing) {
                    Stage::Created(connection) => self.begin(connection)?,
                    other => self.stage = other,
                }
                return Ok(None);
            }
            Command::Signal { signal, all } => {
                let scope = if all { KillScope::All } else { KillScope::Init };
                let status = self.signal(signal, scope)?;
                self.commands.answer(asked.client, Ok(()));
                return Ok(status);
            }
            Command::Pause => self
                .machine
                .pause()
                .map_err(|error| Error::failed("pause", "the microVM", crate::backend::chain(&error))),
            Command::Resume => {
                self.machine.resume();
                Ok(())
            }
        };
        self.commands.answer(asked.client, result);
        Ok(None)
    }

    fn begin(&mut self, mut connection: Connection) -> Result<()> {
        connection.send(&ToGuest::Start);
        if let Some(size) = self.size() {
            connection.send(&ToGuest::Resize(size));
        }
        connection.flush().map_err(guest)?;
        self.relay(connection)
    }

    /// Passes on from now on what the process and whoever is at its streams have for each other.
    fn relay(&mut self, connection: Connection) -> Result<()> {
        let Some(streams) = self.streams.take() else { return Ok(()) };
        self.stage = Stage::Started(Relay::new(connection, streams).map_err(guest)?);
        Ok(())
    }

    /// The terminal's size, when it has one.
    fn size(&self) -> Option<WindowSize> {
        let (rows, columns) = pty::size(self.terminal.as_ref()?.as_fd()).ok()?;
        (rows > 0 && columns > 0).then_some(WindowSize { rows, columns })
    }

    /// A signal to this process: the terminal's own, and otherwise the container's.
    fn signalled(&mut self, signal: Signal) -> Result<Option<ExitStatus>> {
        match signal.number() {
            libc::SIGWINCH if self.terminal.is_some() => {
                if let (Some(size), Stage::Started(relay)) = (self.size(), &mut self.stage) {
                    relay.send(&ToGuest::Resize(size)).map_err(guest)?;
                }
                Ok(None)
            }
            libc::SIGCHLD | libc::SIGPIPE => Ok(None),
            _ => self.signal(signal, KillScope::Init),
        }
    }

    /// Passes a signal on. A process that has not been started has no handlers: what ends a process ends it.
    fn signal(&mut self, signal: Signal, scope: KillScope) -> Result<Option<ExitStatus>> {
        let Stage::Started(relay) = &mut self.stage else {
            let ends = matches!(
                signal.number(),
                libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT
            );
            return Ok(ends.then_some(ExitStatus::Signaled(signal)));
        };
        if signal == Signal::KILL {
            self.deadline.get_or_insert_with(|| Instant::now() + KILL_LIMIT);
        }
        relay.send(&ToGuest::Signal(signal, scope)).map_err(guest)?;
        Ok(None)
    }
}

/// For `poll`.
fn timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now());
    // Rounded up, so that the time is over when `poll` says so.
    let ms = left.as_millis().saturating_add(1).min(i32::MAX as u128);
    PollTimeout::try_from(ms as i32).unwrap_or(PollTimeout::MAX)
}
