//! Running a command and stamping what it does: its lines and its end.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rkvm_oci::timeline::MonotonicNs;

use crate::contestant::Launch;
use crate::error::{Error, Result};
use crate::interrupt;

/// Which of the two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a command did, and when.
#[derive(Debug)]
pub enum Event {
    /// It, or its container, wrote.
    Output(Stream, Vec<u8>),
    /// A stream has ended.
    Closed,
    /// It has ended.
    Exited(ExitStatus),
    /// Time is up.
    Timeout,
    /// The user wants to end.
    Interrupted,
}

/// A running command.
#[derive(Debug)]
pub struct Running {
    /// When it was started, CLOCK_MONOTONIC.
    pub begin: MonotonicNs,
    pid: Pid,
    events: Receiver<(MonotonicNs, Event)>,
    has_ended: bool,
    files: Option<(PathBuf, PathBuf)>,
}

/// Where the outputs of a command go.
#[derive(Debug, Clone, Copy)]
pub enum Outputs<'a> {
    /// Pipes, whose contents come as events.
    Events,
    /// Files in this folder with this stem: what is started keeps them open after the command has returned.
    Files(&'a Path, &'a str),
}

/// How often a wait looks whether the user wants to end.
const GLANCE: Duration = Duration::from_millis(50);

impl Running {
    /// Starts a command in a process group of its own, so that a terminal's interrupt does not reach it.
    ///
    /// # Errors
    /// It cannot be executed.
    pub fn spawn(launch: &Launch, outputs: Outputs<'_>) -> Result<Self> {
        let (program, args) =
            launch.argv.split_first().ok_or_else(|| Error::invalid("command", "", "it is empty"))?;
        let mut command = Command::new(program);
        command.args(args).envs(launch.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).process_group(0);
        let files = match outputs {
            Outputs::Events => {
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
                None
            }
            Outputs::Files(folder, stem) => {
                let make = |suffix: &str| {
                    let path = folder.join(format!("{stem}.{suffix}"));
                    File::create(&path)
                        .map(|file| (file, path.clone()))
                        .map_err(|error| Error::file("create", path, error))
                };
                let ((out, out_path), (err, err_path)) = (make("out")?, make("err")?);
                command.stdout(out).stderr(err);
                Some((out_path, err_path))
            }
        };
        let begin = MonotonicNs::now();
        let mut child = command
            .spawn()
            .map_err(|source| Error::Spawn { program: program.to_string_lossy().into_owned(), source })?;
        let pid = Pid::from_raw(child.id() as i32);
        let (sender, events) = mpsc::channel();
        if let Some(pipe) = child.stdout.take() {
            relay(pipe, Stream::Stdout, sender.clone());
        }
        if let Some(pipe) = child.stderr.take() {
            relay(pipe, Stream::Stderr, sender.clone());
        }
        wait(child, sender);
        Ok(Self { begin, pid, events, has_ended: false, files })
    }

    /// The next event, at most until `deadline`, with its moment.
    pub fn next(&mut self, deadline: Instant) -> (MonotonicNs, Event) {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return (MonotonicNs::now(), Event::Timeout);
            }
            match self.events.recv_timeout(left.min(GLANCE)) {
                Ok((at, event)) => {
                    self.has_ended |= matches!(event, Event::Exited(_));
                    return (at, event);
                }
                Err(RecvTimeoutError::Timeout) if interrupt::requested() => {
                    return (MonotonicNs::now(), Event::Interrupted);
                }
                Err(RecvTimeoutError::Timeout) => {}
                // All streams are closed and the end was told.
                Err(RecvTimeoutError::Disconnected) => return (MonotonicNs::now(), Event::Timeout),
            }
        }
    }

    /// Kills it when it has not ended, and waits until it has.
    pub fn end(&mut self) {
        if !self.has_ended {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
        while !self.has_ended {
            match self.events.recv() {
                Ok((_, Event::Exited(_))) | Err(_) => self.has_ended = true,
                Ok(_) => {}
            }
        }
    }

    /// What is in the files that [`Outputs::Files`] named: standard output and standard error. Empty for pipes.
    pub fn files(&self) -> (String, String) {
        let read =
            |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        self.files.as_ref().map_or_else(Default::default, |(out, err)| (read(out), read(err)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
        if let Some((out, err)) = &self.files {
            let _ = std::fs::remove_file(out);
            let _ = std::fs::remove_file(err);
        }
    }
}

fn relay(mut pipe: impl Read + Send + 'static, stream: Stream, sender: Sender<(MonotonicNs, Event)>) {
    thread::spawn(move || {
        let mut chunk = vec![0; 16 << 10];
        while let Ok(count) = pipe.read(&mut chunk) {
            let now = MonotonicNs::now();
            let event =
                if count == 0 { Event::Closed } else { Event::Output(stream, chunk[..count].to_vec()) };
            if sender.send((now, event)).is_err() || count == 0 {
                return;
            }
        }
    });
}

fn wait(mut child: Child, sender: Sender<(MonotonicNs, Event)>) {
    thread::spawn(move || {
        if let Ok(status) = child.wait() {
            let _ = sender.send((MonotonicNs::now(), Event::Exited(status)));
        }
    });
}

/// Runs a helper program to its end; its standard output.
///
/// # Errors
/// It cannot be executed or fails.
pub fn helper(command: &mut Command) -> Result<String> {
    let line = || {
        let mut words = vec![command.get_program().to_string_lossy().into_owned()];
        words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
        words.join(" ")
    };
    let text = line();
    command.stdin(Stdio::null()).process_group(0);
    let output = command.output().map_err(|source| Error::Spawn { program: text.clone(), source })?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Helper { command: text, output: errors });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
