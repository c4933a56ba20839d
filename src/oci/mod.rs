//! The verbs of `rkvm-oci`, one a file, with runc's flags.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use rkvm_oci::runtime::{self, Opened};
use rkvm_oci::{Backend, Isolation, Record, Result, Status, Store, Workload};

use crate::output;

mod create;
mod delete;
mod events;
mod exec;
mod features;
mod foreground;
mod kill;
mod list;
mod log;
mod pause;
mod ps;
mod resume;
mod run;
mod spec;
mod start;
mod state;
mod stdio;
mod update;
mod version;

/// Runs OCI bundles, in a container or in a microVM
#[derive(Debug, Parser)]
#[command(name = "rkvm-oci", disable_version_flag = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Flags that come before the verb.
#[derive(Debug, clap::Args)]
pub struct Global {
    /// Folder of the containers' state
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// File for errors and warnings, in place of standard error
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Form of the log
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: log::Format,
    /// Log more
    #[arg(long)]
    debug: bool,
    /// Let systemd make the cgroups (not supported: cgroups are made directly)
    #[arg(long)]
    systemd_cgroup: bool,
    /// Whether the caller is not root; found out without this flag, which is read for compatibility
    #[arg(long, value_name = "auto|true|false", default_value = "auto")]
    rootless: Rootless,
    /// `container` or `vm`; without it the program's own name (`rkvm-oci-vm` means vm), then the annotation io.rkvm.isolation
    #[arg(long, value_name = "ISOLATION", env = "RKVM_ISOLATION")]
    isolation: Option<Isolation>,
    /// Show the version
    #[arg(long, short = 'v')]
    version: bool,
}

/// Values of `--rootless`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Rootless {
    Auto,
    True,
    False,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a container
    Create(create::Args),
    /// Execute the program of a container that has been made
    Start(start::Args),
    /// Make a container and execute its program
    Run(run::Args),
    /// Show a container's state
    State(state::Args),
    /// Send a signal to a container
    Kill(kill::Args),
    /// Remove a container
    Delete(delete::Args),
    /// Run another program in a container
    Exec(exec::Args),
    /// List containers
    List(list::Args),
    /// Show a container's processes
    Ps(ps::Args),
    /// Freeze a container's processes
    Pause(pause::Args),
    /// Thaw a container's processes
    Resume(resume::Args),
    /// Change a container's resource limits
    Update(update::Args),
    /// Show a container's resource use and out-of-memory events
    Events(events::Args),
    /// Write a config.json to start from
    Spec(spec::Args),
    /// Show what this runtime supports
    Features(features::Args),
}

/// Exit code of a runtime error, as runc's.
const FAILED: u8 = 1;

/// What every verb is given.
#[derive(Debug)]
pub struct Context {
    store: Store,
    isolation: Option<Isolation>,
}

impl Context {
    fn new(global: &Global) -> Result<Self> {
        if global.systemd_cgroup {
            return Err(rkvm_oci::Error::unsupported(
                "--systemd-cgroup",
                "cgroups are made directly; use the cgroupfs driver (`native.cgroupdriver=cgroupfs`, \
                 `--cgroup-manager=cgroupfs`)",
            ));
        }
        let root = global.root.clone().unwrap_or_else(default_root);
        // State is found by later commands from any folder.
        let root = std::path::absolute(&root)
            .map_err(|source| rkvm_oci::Error::failed("use --root", root.display(), source))?;
        Ok(Self { store: Store::new(root), isolation: global.isolation.or_else(isolation_of_name) })
    }

    /// The backend for a new container: flag, annotation, default.
    fn backend_for(&self, bundle: &rkvm_oci::Bundle) -> Result<Box<dyn Backend>> {
        crate::backend::backend(crate::backend::choose(self.isolation, bundle)?)
    }

    /// The record and present state of container `id`, without its lock: a caller may ask while a long command holds it.
    fn look(&self, id: &str) -> Result<(Record, Status)> {
        let record = self.store.peek(id)?;
        let status = self.workload(&record)?.status(record.status)?;
        Ok((record, status))
    }

    /// The backend's handle for a record.
    fn workload(&self, record: &Record) -> Result<Box<dyn Workload>> {
        crate::backend::backend(record.isolation)?.open(record, &self.store.dir(&record.id))
    }

    /// Removes what a killed `create` left of container `id`; nothing is no error.
    fn remove_remains(&self, id: &str) -> Result<u8> {
        // Without a record nothing says which backend it was; the container's leaves things on the host, the VM's is a process.
        let backend = crate::backend::backend(Isolation::Container)?;
        runtime::remove_remains(&*backend, &self.store, id).map(|()| 0)
    }

    /// Finds container `id` and locks it.
    fn open(&self, id: &str) -> Result<Opened> {
        let isolation = self.store.peek(id)?.isolation;
        runtime::open(&*crate::backend::backend(isolation)?, &self.store, id)
    }
}

/// The isolation that the name of the called program asks for: a link `rkvm-oci-vm` to it makes microVMs. For callers that can name
/// a program but give it no flags (containerd's `BinaryName`, dockerd's `--add-runtime`).
fn isolation_of_name() -> Option<Isolation> {
    let program = std::env::args_os().next()?;
    let name = std::path::Path::new(&program).file_name()?.to_str()?;
    name.ends_with("-vm").then_some(Isolation::Vm)
}

fn default_root() -> PathBuf {
    let user = nix::unistd::geteuid();
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if !user.is_root() => PathBuf::from(folder).join("rkvm"),
        _ if !user.is_root() => format!("/tmp/rkvm-{user}").into(),
        _ => "/run/rkvm".into(),
    }
}

/// Parses the command line, runs the verb and gives the exit code back.
pub fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { FAILED } else { 0 };
        }
    };
    let log = log::Log::new(&cli.global);
    if cli.global.version {
        return match print(&version::text()) {
            Ok(()) => 0,
            Err(error) => {
                log.error(&error);
                FAILED
            }
        };
    }
    let Some(command) = cli.command else {
        let _ = <Cli as clap::CommandFactory>::command().print_help();
        return FAILED;
    };
    match Context::new(&cli.global).and_then(|context| run(command, &context, &log)) {
        Ok(code) => code,
        Err(error) => {
            log.error(&error);
            match error {
                rkvm_oci::Error::Exec { .. } => error.exit_code(),
                _ => FAILED,
            }
        }
    }
}

fn run(command: Command, context: &Context, log: &log::Log) -> Result<u8> {
    match command {
        Command::Create(args) => create::run(args, context),
        Command::Start(args) => start::run(args, context, log),
        Command::Run(args) => run::run(args, context, log),
        Command::State(args) => state::run(args, context),
        Command::Kill(args) => kill::run(args, context),
        Command::Delete(args) => delete::run(args, context, log),
        Command::Exec(args) => exec::run(args, context),
        Command::List(args) => list::run(args, context),
        Command::Ps(args) => ps::run(args, context),
        Command::Pause(args) => pause::run(args, context),
        Command::Resume(args) => resume::run(args, context),
        Command::Update(args) => update::run(args, context),
        Command::Events(args) => events::run(args, context),
        Command::Spec(args) => spec::run(args),
        Command::Features(args) => features::run(args, context),
    }
}

/// Writes `text` to standard output. A reader that has gone (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    output::write(text).map_err(|source| rkvm_oci::Error::failed("write to", "standard output", source))
}

/// Columns as wide as their widest cell, two spaces apart.
fn table<const N: usize>(head: &[String; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter().chain([head]).map(|row| row[column].chars().count()).max().unwrap_or_default() + 2
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    [head].into_iter().chain(rows).map(line).collect()
}
