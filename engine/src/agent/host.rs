//! The half on the host.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use oci_spec::runtime::User;
use rkvm_oci::backend::ExecRequest;
use rkvm_oci::lifecycle::Verb;
use rkvm_oci::{ExitStatus, Stdio};

use super::{AGENT_DIR, NAMES_OF_LINKS, NAMES_OF_OWNERSHIP, name_of};
use crate::copy::{self, CopyError, Links, Ownership, Report, Root};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::ids;
use crate::spec;
use crate::state::ContainerStatus;
use crate::store::Container;

/// Most bytes that are taken of an answer or a complaint: the guest writes them.
const MAX_ANSWER: u64 = 1 << 20;

/// A microVM that runs, to be looked into.
pub struct Inside<'a> {
    engine: &'a Engine,
    container: &'a Container,
}

impl<'a> Inside<'a> {
    /// `container`, which must run.
    ///
    /// # Errors
    /// It does not, or it is paused: no program in it can answer.
    pub fn new(engine: &'a Engine, container: &'a Container, verb: &'static str) -> Result<Self> {
        if container.state.status == ContainerStatus::Running {
            return Ok(Self { engine, container });
        }
        let paused = container.state.status == ContainerStatus::Paused;
        Err(Error::WrongState {
            verb,
            name: container.name().to_owned(),
            status: container.state.status,
            hint: paused.then_some("a microVM answers only while it runs: unpause it first"),
        })
    }

    /// `cp CONTAINER:PATH -`.
    ///
    /// # Errors
    /// What cannot be read inside, or written here.
    pub fn pack(&self, path: &Path, output: &mut (dyn Write + Send), links: Links) -> copy::Result<Report> {
        let complaint = self.run(&["pack", name_of(&NAMES_OF_LINKS, &links), utf8(path)?], None, output)?;
        Ok(serde_json::from_slice(&complaint).unwrap_or_default())
    }

    /// `cp - CONTAINER:PATH`.
    ///
    /// # Errors
    /// What cannot be read here, or made inside.
    pub fn unpack(
        &self,
        input: &mut (dyn Read + Send),
        path: &Path,
        ownership: Ownership,
    ) -> copy::Result<Report> {
        let args = ["unpack", name_of(&NAMES_OF_OWNERSHIP, &ownership), utf8(path)?];
        self.report(&args, Some(input))
    }

    /// `cp CONTAINER:PATH HOST-PATH`.
    ///
    /// # Errors
    /// What cannot be read inside, or made here.
    pub fn copy_out(
        &self,
        source: &Path,
        host: &Root,
        target: &Path,
        ownership: Ownership,
        links: Links,
    ) -> copy::Result<Report> {
        let stage = Stage::new(self.container)?;
        let root = Root::container(&stage.path, 0)?;
        let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| stage.error("fill", errno))?;
        let (packed, unpacked) = thread::scope(|scope| {
            let unpacked =
                scope.spawn(|| copy::unpack(File::from(read), &root, Path::new("/"), Ownership::Preserve));
            let packed = self.pack(source, &mut File::from(write), links);
            (packed, joined(unpacked))
        });
        let packed = packed?;
        unpacked?;
        // The archive's names begin with the source's last part, or with `.` where only what is in a folder is meant.
        let staged = match stage.only_name() {
            Some(name) if !ends_with_dot(source) => Path::new("/").join(name),
            _ => PathBuf::from("/."),
        };
        let copied = copy::copy(&root, &staged, host, target, ownership, Links::Keep)?;
        Ok(Report { skipped: packed.skipped, ..copied })
    }

    /// `cp HOST-PATH CONTAINER:PATH`.
    ///
    /// # Errors
    /// What cannot be read here, or made inside.
    pub fn copy_in(
        &self,
        host: &Root,
        source: &Path,
        target: &Path,
        ownership: Ownership,
        links: Links,
    ) -> copy::Result<Report> {
        let stage = Stage::new(self.container)?;
        let root = Root::container(&stage.path, 0)?;
        let copied = copy::copy(host, source, &root, Path::new("/"), Ownership::Preserve, links)?;
        let inside = match stage.only_name() {
            Some(name) if !ends_with_dot(source) => format!("{}/{}", stage.name, utf8(Path::new(&name))?),
            _ => format!("{}/.", stage.name),
        };
        let args = ["place", name_of(&NAMES_OF_OWNERSHIP, &ownership), &inside, utf8(target)?];
        let placed = self.report(&args, None)?;
        Ok(Report { bytes: placed.bytes, skipped: copied.skipped })
    }

    /// The lines of `top` below its header.
    ///
    /// # Errors
    /// The agent cannot be run.
    pub fn processes(&self) -> copy::Result<String> {
        let mut lines = Vec::new();
        self.run(&["processes"], None, &mut Limited { to: &mut lines, left: MAX_ANSWER })?;
        Ok(String::from_utf8_lossy(&lines).into_owned())
    }

    fn report(&self, args: &[&str], input: Option<&mut (dyn Read + Send)>) -> copy::Result<Report> {
        let mut answer = Vec::new();
        self.run(args, input, &mut Limited { to: &mut answer, left: MAX_ANSWER })?;
        serde_json::from_slice(&answer).map_err(|source| CopyError::Archive {
            action: "understand the answer of the microVM to",
            source: source.into(),
        })
    }

    /// Runs the agent; what it wrote to standard error.
    fn run(
        &self,
        args: &[&str],
        input: Option<&mut (dyn Read + Send)>,
        output: &mut (dyn Write + Send),
    ) -> copy::Result<Vec<u8>> {
        let program = format!("{AGENT_DIR}/agent");
        let failed = |source: io::Error| Error::file("talk to", &program, source);
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed(errno.into()));
        let (stdin, to) = pipe()?;
        let (from, stdout) = pipe()?;
        let (complaints, stderr) = pipe()?;
        let mut powers = self.container.record.clone();
        powers.security.privileged = true;
        powers.limits.ulimits.clear();
        let command = std::iter::once(program.as_str()).chain(args.iter().copied()).map(str::to_owned);
        let capabilities = spec::capability_names(&powers, true);
        let mut process = spec::process(&powers, &capabilities, command.collect(), vec![], User::default())?;
        process.set_cwd("/".into());
        let request =
            ExecRequest { process: &process, stdio: Stdio::Fds { stdin, stdout, stderr }, preserve_fds: 0 };
        let mut opened = self.engine.open(self.container)?;
        opened.check(Verb::Exec).map_err(Error::from)?;
        let mut running = opened.workload.exec(request).map_err(Error::from)?;
        // Other commands may use the microVM while this runs.
        drop(opened);
        let (fed, written, complaint) = thread::scope(|scope| {
            let fed = scope.spawn(move || feed(input, to));
            let complaint = scope.spawn(move || {
                let mut text = Vec::new();
                let _ = File::from(complaints).take(MAX_ANSWER).read_to_end(&mut text);
                text
            });
            let written = io::copy(&mut File::from(from), output).and_then(|_| output.flush());
            (joined(fed), written, joined(complaint))
        });
        let status = running.wait().map_err(Error::from)?;
        if status != ExitStatus::Exited(0) {
            let message = String::from_utf8_lossy(&complaint).into_owned();
            let message =
                if message.is_empty() { format!("{program} ended with {status:?}") } else { message };
            return Err(CopyError::Inside { message });
        }
        written.map_err(|source| CopyError::Archive { action: "pass on", source })?;
        fed.map_err(|source| CopyError::Archive { action: "read", source })?;
        Ok(complaint)
    }
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Passes `input` on to the end. A reader that has had enough is no error: its exit code says why.
fn feed(input: Option<&mut (dyn Read + Send)>, to: OwnedFd) -> io::Result<()> {
    let Some(input) = input else { return Ok(()) };
    match io::copy(input, &mut File::from(to)) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// A writer that refuses more than `left` bytes.
struct Limited<'a> {
    to: &'a mut Vec<u8>,
    left: u64,
}

impl Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::other("the answer is too long"))?;
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A folder of one copy, seen inside below [`AGENT_DIR`]`/transfer`.
struct Stage {
    path: PathBuf,
    name: String,
}

impl Stage {
    fn new(container: &Container) -> Result<Self> {
        let name = ids::short(&ids::random()?).to_owned();
        let path = container.paths.transfer().join(&name);
        fs::create_dir(&path).map_err(|source| Error::file("create", &path, source))?;
        Ok(Self { path, name })
    }

    /// The one thing in it.
    fn only_name(&self) -> Option<std::ffi::OsString> {
        let mut entries = fs::read_dir(&self.path).ok()?;
        let first = entries.next()?.ok()?.file_name();
        entries.next().is_none().then_some(first)
    }

    fn error(&self, action: &'static str, source: impl Into<io::Error>) -> CopyError {
        Error::file(action, &self.path, source).into()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What stays goes with the container's next start.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Whether only what is in a folder is meant; `Path` itself does not see a `.` at the end.
fn ends_with_dot(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    text.ends_with(b"/.") || text == b"." || text.iter().all(|byte| *byte == b'/')
}

fn utf8(path: &Path) -> copy::Result<&str> {
    path.to_str().ok_or_else(|| CopyError::Entry {
        entry: path.display().to_string(),
        reason: "a name that is not UTF-8 cannot be copied to or from a microVM that runs; stop it first",
    })
}
