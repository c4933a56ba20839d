//! The container inside the machine, made by the container backend.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};
use rkvm_container::{Binary, ContainerBackend};
use rkvm_guest_protocol::{Answer, GuestProcess, GuestSetup, MAX_STREAM_DATA, Question};
use rkvm_oci::{
    Backend, Bundle, CreateRequest, Error, ExecProcess, ExecRequest, Keyring, Result, Rootfs, Stdio,
    Timeline, Workload,
};

use crate::{disks, machine, network, root, sys};

const BUNDLE: &str = "/run/bundle";
const STATE: &str = "/run/container";
/// What making a container takes of the heap, bytes, until its program is executed.
const HEAP_OF_A_START: usize = 64 << 10;
/// Bytes that are read at once: what a pipe holds, and a message of output.
const CHUNK: usize = MAX_STREAM_DATA;

/// The container, once it is there.
#[derive(Default)]
pub struct Machine {
    workload: Option<Box<dyn Workload>>,
    may_hold_writes: bool,
    /// [`Machine::prepare`] has been called.
    is_ready: bool,
    /// The bundle, until its config.json has been written.
    unwritten: Option<Bundle>,
    chunk: Vec<u8>,
}

/// Our ends of a process's streams.
#[derive(Debug)]
pub enum Ends {
    /// Three pipes.
    Pipes {
        /// To standard input.
        stdin: File,
        /// From standard output.
        stdout: File,
        /// From standard error.
        stderr: File,
    },
    /// The master of its terminal.
    Terminal(File),
}

impl Machine {
    /// Where bytes pass through on their way from one stream to another. Made once, and nothing is written there but what
    /// is read: the first write to each page after the container's process was forked is a page fault.
    pub fn chunk(&mut self) -> &mut [u8] {
        self.chunk.resize(CHUNK, 0);
        &mut self.chunk
    }

    /// Does what does not depend on the container. Whether the machine can be recorded as a template now.
    ///
    /// # Errors
    /// The kernel lacks a file system.
    pub fn get_ready(&mut self) -> Result<bool> {
        self.prepare()?;
        network::configure(&[])?;
        self.chunk();
        Ok(machine::take_settable_clock())
    }

    fn prepare(&mut self) -> Result<()> {
        machine::further_mounts()?;
        for folder in [BUNDLE, STATE] {
            fs::create_dir(folder).map_err(|source| Error::failed("make folder", folder, source))?;
        }
        self.is_ready = true;
        Ok(())
    }

    /// Sets everything up; the process waits for [`Machine::start`]. Its id, and our ends of its streams.
    ///
    /// # Errors
    /// Whatever is missing or contradictory.
    pub fn create(&mut self, mut setup: GuestSetup) -> Result<(i32, Ends)> {
        let _reading = root::read_ahead(&setup.root);
        if !self.is_ready {
            self.prepare()?;
        }
        if let Some(own) = &setup.own {
            machine::become_own(own)?;
        }
        let processors = machine::Processors::start()?;
        network::configure(&setup.links)?;
        network::take_settings(&mut setup.spec)?;
        disks::renumber(&setup.disks, &mut setup.spec)?;
        let path = root::assemble(&setup)?;
        let mut spec_root = setup.spec.root().clone().unwrap_or_default();
        spec_root.set_path(path);
        setup.spec.set_root(Some(spec_root));
        take_ready_cgroup(&mut setup.spec);
        self.note_capabilities(setup.spec.process().as_ref());
        // What is written to a disk is in the guest's memory first.
        self.may_hold_writes |= !setup.disks.is_empty();
        if let Some(program) = setup.seccomp.take() {
            let filter = |&(code, jt, jf, k): &(u16, u8, u8, u32)| libc::sock_filter { code, jt, jf, k };
            rkvm_linux::seccomp::give(program.instructions.iter().map(filter).collect());
        }
        let bundle = Bundle { path: BUNDLE.into(), spec: setup.spec };
        let process = bundle.spec.process().as_ref();
        let terminal = process.and_then(|process| process.terminal()).unwrap_or(false);
        let (stdio, ends) = Half::new(terminal)?;
        rkvm_linux::sys::memory::spare(crate::HEAP.unused_behind(HEAP_OF_A_START));
        let mut workload = ContainerBackend::with_binary(Binary::InUse).create(CreateRequest {
            id: &setup.id,
            bundle: &bundle,
            rootfs: Rootfs::Bundle,
            link: None,
            state_dir: Path::new(STATE),
            stdio,
            preserve_fds: 0,
            no_pivot: false,
            keyring: Keyring::New,
            at_once: false,
            timeline: &mut Timeline::begin(),
        })?;
        workload.recorded()?;
        // A program may count them as soon as it runs.
        processors.wait()?;
        let pid = workload.pid();
        self.workload = Some(workload);
        self.unwritten = Some(bundle);
        Ok((pid, ends.finish()?))
    }

    /// Writes config.json, which the backend reads for a further process: most machines never run one.
    fn write_config(&mut self) -> Result<()> {
        let Some(bundle) = &self.unwritten else { return Ok(()) };
        let config = bundle.path.join("config.json");
        let text = serde_json::to_vec(&bundle.spec).unwrap_or_default();
        fs::write(&config, text).map_err(|source| Error::failed("write", config.display(), source))?;
        self.unwritten = None;
        Ok(())
    }

    fn note_capabilities(&mut self, process: Option<&GuestProcess>) {
        self.may_hold_writes |=
            process.is_some_and(|process| root::lets_mount(process.capabilities().as_ref()));
    }

    /// Whether a process of the machine could write to more than what the host shares: to a disk, or to a file system that it mounted.
    pub fn may_hold_writes(&self) -> bool {
        self.may_hold_writes
    }

    fn workload(&mut self) -> Result<&mut Box<dyn Workload>> {
        self.workload.as_mut().ok_or_else(|| {
            Error::failed("use", "the machine", std::io::Error::from_raw_os_error(libc::ESRCH))
                .hint("it has not been set up yet")
        })
    }

    /// Executes the process.
    ///
    /// # Errors
    /// [`Error::Exec`] when the program cannot be executed.
    pub fn start(&mut self) -> Result<()> {
        self.workload()?.start(&mut Timeline::begin())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process is gone.
    pub fn kill(&mut self, signal: rkvm_oci::Signal, scope: rkvm_oci::KillScope) -> Result<()> {
        self.workload()?.kill(signal, scope)
    }

    /// Runs a further process.
    ///
    /// # Errors
    /// [`Error::Exec`] when the program cannot be executed.
    pub fn exec(&mut self, process: &GuestProcess) -> Result<(Box<dyn ExecProcess>, Ends)> {
        self.note_capabilities(Some(process));
        self.write_config()?;
        let (stdio, ends) = Half::new(process.terminal().unwrap_or(false))?;
        let started = self.workload()?.exec(ExecRequest { process, stdio, preserve_fds: 0 })?;
        Ok((started, ends.finish()?))
    }

    /// How many processes of the container the kernel has killed for want of memory, as far as it can be told.
    pub fn oom_kills(&mut self) -> u64 {
        let stats = self.workload().and_then(|workload| workload.stats());
        stats.ok().and_then(|stats| stats.oom_kills).unwrap_or(0)
    }

    /// Answers a question.
    ///
    /// # Errors
    /// The counters cannot be read, or a limit not be set.
    pub fn answer(&mut self, question: &Question) -> Result<Answer> {
        let workload = self.workload()?;
        match question {
            Question::Stats => Ok(Answer::Stats(Box::new(workload.stats()?))),
            Question::Processes => {
                let ids = workload.processes()?;
                Ok(Answer::Processes(ids.into_iter().filter_map(crate::processes::describe).collect()))
            }
            Question::Update(resources) => workload.update(resources).map(|()| Answer::Done),
        }
    }
}

/// Has a container with a cgroup namespace of its own, which hides what its cgroup is called, take the one that is there.
fn take_ready_cgroup(spec: &mut Spec) {
    let Some(linux) = spec.linux_mut() else { return };
    let hides = |namespace: &LinuxNamespace| {
        namespace.typ() == LinuxNamespaceType::Cgroup && namespace.path().is_none()
    };
    if linux.namespaces().iter().flatten().any(hides) {
        linux.set_cgroups_path(Some(machine::CONTAINERS_CGROUP.into()));
    }
}

/// Our ends before the process has its own: a terminal's master comes over a socket.
enum Half {
    Pipes(Ends),
    Console(UnixStream),
}

impl Half {
    fn new(terminal: bool) -> Result<(Stdio, Self)> {
        let failed = |source| Error::failed("make", "the streams of a process", source);
        if terminal {
            let (ours, theirs) = UnixStream::pair().map_err(failed)?;
            return Ok((Stdio::Terminal { console: theirs.into() }, Self::Console(ours)));
        }
        let (stdin, to_stdin) = sys::pipe().map_err(failed)?;
        let (from_stdout, stdout) = sys::pipe().map_err(failed)?;
        let (from_stderr, stderr) = sys::pipe().map_err(failed)?;
        let ours = |end: OwnedFd| sys::set_non_blocking(&end).map(|()| File::from(end)).map_err(failed);
        let ends =
            Ends::Pipes { stdin: ours(to_stdin)?, stdout: ours(from_stdout)?, stderr: ours(from_stderr)? };
        Ok((Stdio::Fds { stdin, stdout, stderr }, Self::Pipes(ends)))
    }

    fn finish(self) -> Result<Ends> {
        match self {
            Self::Pipes(ends) => Ok(ends),
            Self::Console(socket) => {
                let failed = |source| Error::failed("receive", "the terminal of a process", source);
                let master = rkvm_container::receive_fd(socket.as_fd()).map_err(failed)?;
                sys::set_non_blocking(&master).map_err(failed)?;
                Ok(Ends::Terminal(master.into()))
            }
        }
    }
}
