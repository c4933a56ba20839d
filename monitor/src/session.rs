//! What lasts from one run of a container to the next: the socket, the clients and the log, in one poll loop.

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rkvm_engine::log::{Stream, Writer};
use rkvm_engine::protocol::{Decoder, Hello, Kind};
use rkvm_oci::Signal;
use rkvm_oci::backend::KillScope;

use crate::clients::{Client, Clients};
use crate::launch::Running;
use crate::sys::{self, Turn};

/// What is read of the container's output at once, bytes.
const CHUNK: usize = 16 << 10;

/// What a run does not need that is shorter than this: the memory that watching it does not need is given back then.
const SETTLE_AFTER: Duration = Duration::from_millis(100);

/// What a client asked for that the run itself does not concern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// Send this signal.
    Signal(Signal),
    /// Restart no more.
    Stop,
}

/// See the module.
pub struct Session {
    listener: UnixListener,
    /// Everyone attached.
    pub clients: Clients,
    log: Writer,
    /// A client asked for no more restarts.
    pub stopped: bool,
    /// The signal that ends the container on purpose: after it, as after KILL, nothing is restarted.
    stop_signal: Signal,
    stdin_once: bool,
}

/// What a poll entry stands for.
#[derive(Clone, Copy)]
enum Source {
    Listener,
    Ended,
    Output(Stream),
    Input,
    Client(usize),
}

impl Session {
    /// A session without a run.
    pub fn new(listener: UnixListener, log: Writer, stop_signal: Signal, stdin_once: bool) -> Self {
        Self { listener, clients: Clients::default(), log, stopped: false, stop_signal, stdin_once }
    }

    /// Adds the client on the other side of `socket`. `decoder` has what it sent after `hello`.
    pub fn adopt(&mut self, socket: UnixStream, decoder: Decoder, hello: Option<Hello>) {
        if let Ok(client) = Client::new(socket, decoder, hello) {
            self.clients.list.push(client);
        }
    }

    /// Serves clients until the container's init has ended and all of its output has been taken.
    pub fn serve(&mut self, running: &mut Running) {
        // What the first client sent before there was a container.
        self.handle_clients(Some(running));
        let mut settles = Some(Instant::now() + SETTLE_AFTER);
        loop {
            if settles.is_some_and(|at| at <= Instant::now()) {
                settles = None;
                sys::take(Turn::Equal);
                sys::trim_memory();
            }
            let ready = self.poll(Some(running), timeout(settles));
            let ended = ready.iter().any(|source| matches!(source, Source::Ended));
            for source in ready {
                match source {
                    Source::Output(stream) => self.take_output(running, stream),
                    Source::Input => running.streams.flush(),
                    _ => {}
                }
            }
            self.handle_clients(Some(running));
            if ended {
                break;
            }
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.take_output_once(running, stream) {}
        }
        // Nobody can be told that the disk is full; the container's own end is what counts.
        let _ = self.log.finish();
    }

    /// Serves clients for `delay`, until the next start. Whether that is still wanted then.
    pub fn pause(&mut self, delay: Duration) -> bool {
        let until = Instant::now() + delay;
        while !self.stopped {
            if until <= Instant::now() {
                return true;
            }
            self.poll(None, timeout(Some(until)));
            self.handle_clients(None);
        }
        false
    }

    /// Waits until something is ready; new clients are taken in and clients' bytes are read and sent on the way.
    fn poll(&mut self, running: Option<&Running>, timeout: PollTimeout) -> Vec<Source> {
        let mut fds = Vec::new();
        let mut sources = Vec::new();
        let mut add = |fd, flags, source| {
            fds.push(PollFd::new(fd, flags));
            sources.push(source);
        };
        add(self.listener.as_fd(), PollFlags::POLLIN, Source::Listener);
        let mut room = true;
        if let Some(running) = running {
            add(running.ended.as_fd(), PollFlags::POLLIN, Source::Ended);
            if self.clients.keep_up() {
                for (stream, fd) in running.streams.outputs() {
                    add(fd, PollFlags::POLLIN, Source::Output(stream));
                }
            }
            if let Some(fd) = running.streams.input() {
                add(fd, PollFlags::POLLOUT, Source::Input);
            }
            room = running.streams.has_room();
        }
        for (index, client) in self.clients.list.iter().enumerate() {
            let feeds = client.hello().is_some_and(|hello| hello.stdin);
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, room || !feeds);
            flags.set(PollFlags::POLLOUT, client.is_behind());
            add(client.fd(), flags, Source::Client(index));
        }
        if poll(&mut fds, timeout).is_err() {
            return vec![];
        }
        let ready: Vec<(Source, PollFlags)> = fds
            .iter()
            .zip(sources)
            .filter_map(|(fd, source)| Some((source, fd.revents().filter(|events| !events.is_empty())?)))
            .collect();
        drop(fds);
        for (source, events) in &ready {
            match source {
                Source::Listener => {
                    if let Ok((socket, _)) = self.listener.accept() {
                        self.adopt(socket, Decoder::default(), None);
                    }
                }
                Source::Client(index) => {
                    let client = &mut self.clients.list[*index];
                    if events.contains(PollFlags::POLLOUT) {
                        client.flush();
                    }
                    if events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
                        client.fill();
                    }
                }
                _ => {}
            }
        }
        ready.into_iter().map(|(source, _)| source).collect()
    }

    fn take_output(&mut self, running: &mut Running, stream: Stream) {
        self.take_output_once(running, stream);
    }

    /// Reads once; whether there may be more.
    fn take_output_once(&mut self, running: &mut Running, stream: Stream) -> bool {
        let mut buffer = [0; CHUNK];
        match running.streams.read(stream, &mut buffer) {
            None | Some([]) => false,
            Some(bytes) => {
                // A full disk must not stop the container, and there is nobody to tell.
                let _ = self.log.write(stream, bytes);
                self.clients.output(stream, bytes);
                true
            }
        }
    }

    /// Does what clients asked for.
    fn handle_clients(&mut self, mut running: Option<&mut Running>) {
        let mut wishes = Vec::new();
        for client in &mut self.clients.list {
            while let Some((kind, payload)) = client.next_frame() {
                match (kind, &mut running) {
                    (Kind::Hello, Some(running)) => {
                        if let Some((rows, columns)) = client.hello().and_then(|hello| hello.size) {
                            running.streams.resize(rows, columns);
                        }
                    }
                    (Kind::Stdin, Some(running)) => running.streams.feed(&payload),
                    (Kind::StdinEnd, Some(running)) if self.stdin_once => running.streams.end_input(),
                    (Kind::Resize, Some(running)) => {
                        if let [r0, r1, c0, c1] = payload[..] {
                            running
                                .streams
                                .resize(u16::from_le_bytes([r0, r1]), u16::from_le_bytes([c0, c1]));
                        }
                    }
                    (Kind::Signal | Kind::Stop, _) => {
                        let number = payload.try_into().map(i32::from_le_bytes).unwrap_or(0);
                        if kind == Kind::Stop {
                            wishes.push(Wish::Stop);
                        }
                        wishes.extend(Signal::from_number(number).map(Wish::Signal));
                    }
                    _ => {}
                }
            }
            if client.broke_off_input()
                && self.stdin_once
                && let Some(running) = &mut running
            {
                running.streams.end_input();
            }
        }
        self.clients.list.retain(|client| !client.is_gone());
        for wish in wishes {
            match wish {
                Wish::Stop => self.stopped = true,
                Wish::Signal(signal) => {
                    self.stopped |= signal == Signal::KILL || signal == self.stop_signal;
                    if let Some(running) = &mut running {
                        // Ended already: the loop is about to see it.
                        let _ = running.workload.kill(signal, KillScope::Init);
                        if signal == Signal::KILL {
                            // A frozen process dies when it is thawed.
                            let _ = running.workload.resume();
                        }
                    }
                }
            }
        }
    }
}

/// For `poll`: until then.
fn timeout(until: Option<Instant>) -> PollTimeout {
    let Some(until) = until else { return PollTimeout::NONE };
    // Rounded up, so that the last millisecond is not spent spinning.
    let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}
