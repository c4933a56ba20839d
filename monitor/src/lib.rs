//! The per-container process: keeps standard streams and logs, waits, records the exit code, restarts, cleans up.
//!
//! One process a container, one thread, one poll loop. It lives from the container's start to its end (restarts included) and belongs
//! to nobody: the client that spawned it may go at any time. Should the monitor itself be killed, the next command finds
//! its lock free, ends what it left and records exit code 137 (`Engine`).

mod clients;
mod init;
mod launch;
mod restart;
mod session;
mod sys;

use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use nix::mount::{MntFlags, umount2};
use rkvm_engine::log::Writer;
use rkvm_engine::protocol::{self, Exited, Hello, Kind, StartFailed, Started};
use rkvm_engine::store::Locked;
use rkvm_engine::{
    BackendFn, Container, ContainerState, ContainerStatus, Engine, Error, Paths, Result, agent, liveness,
    rootfs, store,
};
use rkvm_oci::runtime::rfc3339;
use rkvm_oci::{ExitStatus, Signal, Timeline};

use launch::{Launcher, Running};
use session::Session;
use sys::Turn;

/// The program `rkvm-monitor RUN-DIR LIB-DIR ID`, with a connected socket of its client as standard input; under the name of
/// the small init or of the agent in a microVM, that.
pub fn main(backend: BackendFn) -> ExitCode {
    let mut args = std::env::args();
    let name = args.next();
    let args: Vec<String> = args.collect();
    if init::is_asked_for(name.as_deref()) {
        return ExitCode::from(init::run(&args));
    }
    if agent::is_asked_for(name.as_deref()) {
        return ExitCode::from(agent::run(&args));
    }
    let [run, lib, id] = &args[..] else {
        let _ = writeln!(io::stderr(), "rkvm-monitor is started by rkvm, one a container; use `rkvm run`");
        return ExitCode::from(125);
    };
    let client = match detach() {
        Ok(client) => client,
        Err(error) => {
            let _ = writeln!(io::stderr(), "rkvm-monitor: cannot leave the client's session: {error}");
            return ExitCode::from(125);
        }
    };
    let mut decoder = protocol::Decoder::default();
    let hello = match decoder.wait(&client) {
        Ok(Some((Kind::Hello, payload))) => serde_json::from_slice(&payload).unwrap_or_default(),
        // It has changed its mind, or was killed: there may be no container.
        _ => return ExitCode::SUCCESS,
    };
    let client = Client { socket: client, decoder, hello };
    let engine = Engine::new(Paths::new(run, lib), backend);
    match Monitor::begin(&engine, id) {
        Ok((monitor, container, listener)) => monitor.run(container, listener, client),
        Err(error) => {
            let failed = StartFailed { exit_code: error.exit_code(), message: message(&error) };
            // The client may be gone, and then nobody wants to know.
            let _ = protocol::send_json(&client.socket, Kind::Failed, &failed);
        }
    }
    // What is slow to remove, now that nobody waits. `rkvm system prune` repeats it where it fails.
    let _ = engine.network().release_own(id);
    ExitCode::SUCCESS
}

/// Leaves the client's session, folder and descriptors; the client's socket is given back.
fn detach() -> io::Result<UnixStream> {
    sys::close_inherited();
    let client = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    nix::unistd::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    nix::unistd::setsid()?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    std::env::set_current_dir("/")?;
    Ok(client)
}

/// An error with its causes, as one line.
fn message(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Whoever has started the monitor.
struct Client {
    socket: UnixStream,
    /// What it has sent behind its hello.
    decoder: protocol::Decoder,
    hello: Hello,
}

struct Monitor<'a> {
    engine: &'a Engine,
    id: &'a str,
    _lock: liveness::MonitorLock,
}

impl<'a> Monitor<'a> {
    /// Becomes the container's monitor.
    fn begin(engine: &'a Engine, id: &'a str) -> Result<(Self, Container, UnixListener)> {
        // Corrects what a monitor before this one may have left.
        engine.find(id)?;
        let folder = engine.paths.monitor(id);
        let locked = store::lock(&engine.paths, id)?;
        let Some(lock) = liveness::acquire(&folder)? else {
            return Err(Error::WrongState {
                verb: "start",
                name: locked.container.name().to_owned(),
                status: ContainerStatus::Running,
                hint: None,
            });
        };
        let listener = protocol::with_socket_path(&folder, |path| UnixListener::bind(path))
            .map_err(|source| Error::file("listen in", &folder, source))?;
        rootfs::private_mounts()?;
        let container = locked.container.clone();
        Ok((Self { engine, id, _lock: lock }, container, listener))
    }

    fn run(self, mut container: Container, listener: UnixListener, client: Client) {
        let Client { socket: client, decoder, hello } = client;
        let mut timeline = hello.timeline.clone().unwrap_or_else(Timeline::begin);
        let launcher = Launcher { engine: self.engine, size: hello.size };
        let log = match Writer::open(&container.paths.log(), container.record.log) {
            Ok(log) => log,
            Err(source) => {
                let error = Error::file("open", container.paths.log(), source);
                return self.give_up(&client, &error);
            }
        };
        let stop_signal = container.record.process.stop_signal.unwrap_or(Signal::TERM);
        let mut session = Session::new(listener, log, stop_signal, container.record.process.stdin_once);
        session.adopt(client, decoder, Some(hello));
        let mut backoff = restart::Backoff::default();
        let mut restarts = 0;
        loop {
            let begun = Instant::now();
            sys::take(Turn::Later);
            let mut running = match launcher.start(&container, &mut timeline) {
                Ok(running) => running,
                Err(error) => return self.fail(session, &error),
            };
            let recorded = self.record(|state| record_start(state, &running, &timeline, restarts));
            session.clients.tell(Kind::Started, &Started { timeline: timeline.clone() });
            if recorded.is_err() {
                // The container was removed under us, or the disk is full: nobody could ever find it again.
                session.stopped = true;
                let _ = running.workload.kill(Signal::KILL, rkvm_oci::backend::KillScope::All);
            }
            session.serve(&mut running);
            let exit_code = running.workload.wait().map_or(255, ExitStatus::code);
            let oom_killed = exit_code != 0
                && running.workload.stats().is_ok_and(|stats| stats.oom_kills.is_some_and(|kills| kills > 0));
            let tap = running.tap.take();
            let trouble = self.clean(running);
            let run = Run { exit_code, oom_killed, trouble };
            // The policy may have been changed by `update`.
            if let Ok(now) = store::peek(&self.engine.paths, self.id) {
                container = now;
            }
            let again = !session.stopped
                && run.trouble.is_empty()
                && restart::wanted(container.record.restart, exit_code, restarts);
            if !again {
                return self.finish(session, run);
            }
            drop(tap);
            unmount(&container);
            let _ = self.record(|state| record_end(state, &run, ContainerStatus::Restarting, false));
            session.clients.tell(Kind::Exited, &Exited { exit_code, error: String::new(), last: false });
            if !session.pause(backoff.delay(begun.elapsed())) {
                return self.finish(session, run);
            }
            restarts += 1;
            timeline = Timeline::begin();
        }
    }

    /// Changes the state on disk.
    fn record(&self, change: impl FnOnce(&mut ContainerState)) -> Result<()> {
        let mut locked = store::lock(&self.engine.paths, self.id)?;
        change(&mut locked.container.state);
        locked.write_state()
    }

    /// Removes every trace of a run; what could not be removed, in words.
    fn clean(&self, running: Running) -> String {
        // Its descriptors would keep namespaces and ports alive.
        drop(running);
        self.clean_traces()
    }

    fn clean_traces(&self) -> String {
        self.engine.clean_quickly(self.id).err().map(|error| message(&error)).unwrap_or_default()
    }

    /// The end of the last run.
    fn finish(self, mut session: Session, run: Run) {
        let stopped = session.stopped;
        let paths = self.engine.paths.clone();
        let status = if run.trouble.is_empty() { ContainerStatus::Exited } else { ContainerStatus::Dead };
        let mut error = run.trouble.clone();
        let remains = self.close(|state| record_end(state, &run, status, stopped)).unwrap_or_else(|failed| {
            error = message(&failed);
            None
        });
        session.clients.tell(Kind::Exited, &Exited { exit_code: run.exit_code, error, last: true });
        session.clients.finish();
        remove_remains(&paths, remains);
    }

    /// The end of a start that did not succeed.
    fn fail(self, mut session: Session, error: &Error) {
        let paths = self.engine.paths.clone();
        let (failed, remains) = self.failed(error);
        session.clients.tell(Kind::Failed, &failed);
        session.clients.finish();
        remove_remains(&paths, remains);
    }

    fn give_up(self, client: &UnixStream, error: &Error) {
        let paths = self.engine.paths.clone();
        let (failed, remains) = self.failed(error);
        let _ = protocol::send_json(client, Kind::Failed, &failed);
        remove_remains(&paths, remains);
    }

    fn failed(self, error: &Error) -> (StartFailed, Option<Locked>) {
        let exit_code = error.exit_code();
        let mut text = message(error);
        if let Ok(container) = store::peek(&self.engine.paths, self.id) {
            unmount(&container);
            let trouble = self.clean_traces();
            if !trouble.is_empty() {
                text = format!("{text}; and then: {trouble}");
            }
        }
        let recorded = self.close(|state| {
            if state.status.is_active() {
                state.status = ContainerStatus::Exited;
                state.finished_at = Some(rfc3339(SystemTime::now()));
            }
            state.exit_code = exit_code;
            state.error.clone_from(&text);
            state.pid = 0;
            state.monitor_pid = 0;
            state.network = None;
            state.uid_base = None;
        });
        let remains = recorded.unwrap_or_else(|error| {
            text = format!("{text}; and then: {}", message(&error));
            None
        });
        (StartFailed { exit_code, message: text }, remains)
    }

    /// Records the end and ceases to be the container's monitor, in one step for everybody else. Gives back what remains
    /// of a container that is removed at its end.
    fn close(self, change: impl FnOnce(&mut ContainerState)) -> Result<Option<Locked>> {
        let paths = &self.engine.paths;
        let folder = paths.monitor(self.id);
        let locked = store::lock(paths, self.id).and_then(|mut locked| {
            // Of a container that ceases to exist nobody reads it.
            if !locked.container.record.auto_remove {
                change(&mut locked.container.state);
                locked.write_state()?;
            }
            Ok(locked)
        });
        let gone = std::fs::remove_dir_all(&folder).map_err(|source| Error::file("remove", folder, source));
        let locked = match locked {
            // Removed by somebody who insisted.
            Err(Error::NoSuchContainer(_)) => return gone.map(|()| None),
            other => other?,
        };
        gone?;
        if !locked.container.record.auto_remove {
            unmount(&locked.container);
            return Ok(None);
        }
        self.engine.forget(&locked, rkvm_engine::engine::AnonymousVolumes::Remove)?;
        Ok(Some(locked))
    }
}

/// Takes the root filesystem apart; the overlay lies on the idmapped mounts that it was made from. Each of them costs an RCU grace
/// period, so this is done only where somebody will want the folder: otherwise they end with this process.
fn unmount(container: &Container) {
    let rootfs = container.paths.rootfs();
    while umount2(&rootfs, MntFlags::MNT_DETACH).is_ok() {}
}

/// Removes the files of a container that has ceased to exist, once nobody waits. The next listing repeats it where it fails.
fn remove_remains(paths: &Paths, remains: Option<Locked>) {
    if let Some(locked) = remains {
        unmount(&locked.container);
        let _ = locked.remove(paths);
    }
}

/// How a run ended.
struct Run {
    exit_code: u8,
    oom_killed: bool,
    /// What could not be cleaned up; empty when all is well.
    trouble: String,
}

fn record_start(state: &mut ContainerState, running: &Running, timeline: &Timeline, restarts: u32) {
    *state = ContainerState {
        status: ContainerStatus::Running,
        pid: running.workload.pid(),
        monitor_pid: std::process::id() as i32,
        started_at: Some(rfc3339(SystemTime::now())),
        finished_at: state.finished_at.take(),
        restart_count: restarts,
        network: running.network.clone(),
        uid_base: running.uid_base,
        timeline: Some(timeline.clone()),
        ..ContainerState::default()
    };
}

fn record_end(state: &mut ContainerState, run: &Run, status: ContainerStatus, stopped: bool) {
    state.status = status;
    state.exit_code = run.exit_code;
    state.oom_killed = run.oom_killed;
    state.error.clone_from(&run.trouble);
    state.finished_at = Some(rfc3339(SystemTime::now()));
    state.stopped_by_user = stopped;
    state.pid = 0;
    state.network = None;
    state.uid_base = None;
    if status != ContainerStatus::Restarting {
        state.monitor_pid = 0;
    }
}
