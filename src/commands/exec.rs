//! `rkvm exec`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use oci_spec::runtime::Process;
use rkvm_engine::layers::RootView;
use rkvm_engine::stdio::{self, Wanted};
use rkvm_engine::{Container, ContainerStatus, Error, options, spec};
use rkvm_oci::backend::ExecRequest;
use rkvm_oci::lifecycle::Verb;
use rkvm_oci::{Kernel, Needs, RootfsForm};

use crate::attach::keys::DetachKeys;
use crate::attach::relay;
use crate::attach::terminal;
use crate::context::Context;
use crate::start;

/// Flags of `rkvm exec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave it running
    #[arg(short, long)]
    detach: bool,
    /// Feed it standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set an environment variable, NAME=value, or NAME to pass on the client's
    #[arg(short, long = "env", value_name = "VARIABLE")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long = "env-file", value_name = "FILE")]
    env_files: Vec<PathBuf>,
    /// User (and group), names or numbers: USER[:GROUP]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Give it every capability
    #[arg(long)]
    privileged: bool,
    /// Keys that detach from a terminal
    #[arg(long, value_name = "KEYS", default_value = "")]
    detach_keys: DetachKeys,
    /// Container, and what to run in it
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"])]
    container_and_command: Vec<String>,
}

/// Runs a program; in the foreground, the exit code is the program's.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let engine = context.engine();
    let Some((name, command)) = args.container_and_command.split_first() else {
        bail!("give a container and a command")
    };
    let container = engine.find(name)?;
    if container.state.status != ContainerStatus::Running {
        return Err(Error::WrongState {
            verb: "execute in",
            name: container.name().to_owned(),
            status: container.state.status,
            hint: Some("it must be running"),
        }
        .into());
    }
    let feeds = args.interactive && !args.detach;
    if args.tty && feeds {
        start::require_terminal()?;
    }
    let needs = engine.backend(container.record.isolation)?.needs();
    let process = process(&args, &container, command, needs)?;
    let wanted = Wanted { tty: args.tty, stdin: feeds };
    let (stdio, mut streams) = stdio::make(wanted)?;
    if let Some(uid_base) = container.state.uid_base {
        stdio::give(&stdio, uid_base + process.user().uid())?;
    }
    let mut opened = engine.open(&container)?;
    opened.check(Verb::Exec)?;
    let request = ExecRequest { process: &process, stdio, preserve_fds: 0 };
    let mut running = opened.workload.exec(request).map_err(Error::from)?;
    // Other commands may use the container while this runs.
    drop(opened);
    streams.connect(if args.tty { terminal::size() } else { None })?;
    if args.detach {
        return Ok(0);
    }
    let ended = stdio::watch_end(running.pid())?;
    let keys = args.tty.then_some(args.detach_keys);
    match relay::relay(&mut streams, &ended, feeds, keys)? {
        relay::End::Ended(outputs) => Ok(outputs.exit_code(running.wait().map_err(Error::from)?.code())),
        relay::End::Detached => Ok(0),
        relay::End::Signaled(number) => Ok(128 + number as u8),
    }
}

fn process(args: &Args, container: &Container, command: &[String], needs: Needs) -> Result<Process> {
    let record = &container.record;
    let root = match needs.rootfs {
        RootfsForm::Mounted => {
            RootView::Mounted(PathBuf::from(format!("/proc/{}/root", container.state.pid)))
        }
        RootfsForm::Layers => RootView::layers(&container.paths, &record.image.layers),
    };
    let wanted = args.user.as_deref().unwrap_or(&record.process.user);
    let further = if args.user.is_none() { &record.process.group_add[..] } else { &[] };
    let user = spec::user::lookup(&root, wanted, further)?;
    let mut given = record.process.env.clone();
    for file in &args.env_files {
        spec::merge_env(&mut given, &options::env_file(file)?);
    }
    for text in &args.env {
        match options::env(text)? {
            Some(variable) => spec::merge_env(&mut given, &[variable]),
            None => spec::merge_env(&mut given, std::slice::from_ref(text)),
        }
    }
    let env = spec::environment(record, &given, args.tty, &user.home);
    let mut powers = record.clone();
    powers.security.privileged |= args.privileged;
    let rules_itself = container.state.uid_base.is_some() || needs.kernel == Kernel::Own;
    let capabilities = spec::capability_names(&powers, rules_itself);
    let mut process = spec::process(record, &capabilities, command.to_vec(), env, user.user)?;
    process.set_terminal(Some(args.tty));
    let workdir = args.workdir.as_deref().unwrap_or(&record.process.working_dir);
    if !Path::new(workdir).is_absolute() {
        bail!("the working directory {workdir:?} is not an absolute path");
    }
    process.set_cwd(spec::working_dir(workdir));
    Ok(process)
}
