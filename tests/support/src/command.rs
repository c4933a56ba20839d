//! Running a binary with a time limit. Output goes to files, not pipes: a container inherits the streams of `create`,
//! and reading a pipe to its end would wait for the container.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait;

/// The built binary `name` (`rkvm`, `rkvm-oci`, `rkvm-monitor`): beside the running test's own folder.
///
/// # Panics
/// It has not been built.
pub fn binary(name: &str) -> PathBuf {
    let mut folder = std::env::current_exe().expect("path of the running test");
    folder.pop();
    if folder.ends_with("deps") || folder.ends_with("examples") {
        folder.pop();
    }
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace` first", path.display());
    path
}

/// Whether program `name` is on PATH.
pub fn have(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).exists()))
}

/// A command being put together.
#[derive(Debug)]
pub struct Cmd {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cwd: Option<PathBuf>,
    stdin: Option<Vec<u8>>,
    limit: Duration,
    files: PathBuf,
}

impl Cmd {
    /// `program`, whose output files are kept in folder `files`.
    pub fn new(program: impl Into<PathBuf>, files: &Path) -> Self {
        Self {
            program: program.into(),
            args: vec![],
            env: vec![],
            cwd: None,
            stdin: None,
            limit: 2 * wait::PATIENCE,
            files: files.to_owned(),
        }
    }

    /// Has `program ARGS` execute it, in the same process.
    #[must_use]
    pub fn by(mut self, program: impl Into<PathBuf>, args: &[&str]) -> Self {
        let inner = std::mem::replace(&mut self.program, program.into());
        let outer = args.iter().map(OsString::from).chain([inner.into()]);
        self.args.splice(..0, outer);
        self
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn cwd(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cwd = Some(folder.into());
        self
    }

    /// Gives `bytes`, then end of file, on standard input (otherwise `/dev/null`).
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Sets the time limit.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts it and returns at once.
    ///
    /// # Panics
    /// It cannot be started.
    #[track_caller]
    pub fn spawn(self) -> Running {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(&self.files).expect("folder for output files");
        let stem = self.files.join(format!("{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let (stdout, stderr) = (stem.with_extension("out"), stem.with_extension("err"));
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdout(File::create(&stdout).expect("file for standard output"))
            .stderr(File::create(&stderr).expect("file for standard error"))
            .stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            // A group of its own, to be killed whole when time is up.
            .process_group(0);
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        let line = std::iter::once(self.program.as_os_str())
            .chain(self.args.iter().map(OsString::as_os_str))
            .map(OsStr::to_string_lossy)
            .collect::<Vec<_>>()
            .join(" ");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
        if let (Some(bytes), Some(mut pipe)) = (self.stdin, child.stdin.take()) {
            // A thread, because a child that never reads must run into the time limit, not block the test.
            std::thread::spawn(move || {
                let _ = pipe.write_all(&bytes);
            });
        }
        Running { child, line, stdout, stderr, limit: self.limit }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// It cannot be started, or does not end within the time limit.
    #[track_caller]
    pub fn run(self) -> Output {
        self.spawn().wait()
    }

    /// Runs it and expects exit code 0.
    ///
    /// # Panics
    /// It fails; the message has its output.
    #[track_caller]
    pub fn ok(self) -> Output {
        self.run().expect_code(0)
    }

    /// Runs it and expects a failure with a message on standard error that contains `text` (any case; empty: any
    /// message at all).
    ///
    /// # Panics
    /// It succeeds, is ended by a signal, or says nothing of the kind.
    #[track_caller]
    pub fn fails(self, text: &str) -> Output {
        let output = self.run();
        assert!(output.code != 0, "should have failed: {output}");
        assert!(output.signal.is_none(), "should have failed by itself: {output}");
        let stderr = output.stderr();
        assert!(!stderr.trim().is_empty(), "failed without a message: {output}");
        assert!(stderr.to_lowercase().contains(&text.to_lowercase()), "no {text:?} in the message: {output}");
        assert!(!stderr.contains("panicked at"), "panicked: {output}");
        output
    }
}

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    line: String,
    stdout: PathBuf,
    stderr: PathBuf,
    limit: Duration,
}

impl Running {
    /// Process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// The process has been waited for.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("send a signal");
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Whether it has ended, and how.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait for a child")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It does not end within the time limit.
    #[track_caller]
    pub fn wait(mut self) -> Output {
        let status = wait::within(self.limit, || self.child.try_wait().expect("wait for a child"));
        let Some(status) = status else {
            let _ = kill(Pid::from_raw(-self.pid()), Signal::SIGKILL);
            let _ = self.child.wait();
            let output = Output::new(&self, None);
            panic!("did not end within {} s: {output}", self.limit.as_secs());
        };
        Output::new(&self, Some(status))
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Output {
    /// Exit code; 128 plus the signal's number when a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    line: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Output {
    fn new(running: &Running, status: Option<ExitStatus>) -> Self {
        let signal = status.and_then(|status| status.signal());
        let code = status.and_then(|status| status.code()).unwrap_or(128 + signal.unwrap_or(0));
        let Running { line, stdout, stderr, .. } = running;
        Self { code, signal, line: line.clone(), stdout: stdout.clone(), stderr: stderr.clone() }
    }

    /// Standard output. A container that inherited the stream may still add to it.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// Standard error.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Standard output without white space at its ends.
    pub fn text(&self) -> String {
        self.stdout().trim().to_owned()
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// It is not JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout()).unwrap_or_else(|error| panic!("not JSON ({error}): {self}"))
    }

    /// Expects this exit code.
    ///
    /// # Panics
    /// It is another one; the message has the output.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code of {self}");
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}`\n  exit code {}\n  stdout: {}\n  stderr: {}",
            self.line,
            self.code,
            self.stdout().trim_end(),
            self.stderr().trim_end()
        )
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
