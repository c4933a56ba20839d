//! `rkvm-oci exec`.

use std::path::PathBuf;

use oci_spec::runtime::{Capability, LinuxCapabilities, Process, User};
use rkvm_oci::lifecycle::Verb;
use rkvm_oci::runtime::Opened;
use rkvm_oci::{Bundle, Error, ExecRequest, Result};

use super::{Context, foreground, stdio};

/// Flags of `rkvm-oci exec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Unix socket to which the terminal's master is sent
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Unix socket to which the process's pidfd is sent
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Working directory in the container
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Environment variable, may be repeated
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Give the process a terminal
    #[arg(long, short)]
    tty: bool,
    /// User, and group after a colon, by number
    #[arg(long, short, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Further group, may be repeated
    #[arg(long, short = 'g', value_name = "GID")]
    additional_gids: Vec<u32>,
    /// File with the whole process as JSON, in place of the flags above
    #[arg(long, short, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Do not wait for the process
    #[arg(long, short)]
    detach: bool,
    /// File for the process id
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// Forbid the process to gain privileges
    #[arg(long)]
    no_new_privs: bool,
    /// Capability to add, may be repeated
    #[arg(long, short, value_name = "CAP")]
    cap: Vec<String>,
    /// Pass this many descriptors, from 3 on, to the process
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Run in a sub-cgroup (not supported: processes run in the container's own)
    #[arg(long, value_name = "PATH")]
    cgroup: Vec<String>,
    /// Allow the process in a paused container; it waits there until `resume`
    #[arg(long)]
    ignore_paused: bool,
    /// The container's id
    id: String,
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the process; in the foreground gives its exit code back.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    stdio::check_preserved(args.preserve_fds)?;
    if !args.cgroup.is_empty() {
        return Err(Error::unsupported("--cgroup", "processes run in the container's own cgroup"));
    }
    let opened = context.open(&args.id)?;
    if !(args.ignore_paused && opened.status == rkvm_oci::Status::Paused) {
        opened.check(Verb::Exec)?;
    }
    let process = process(&args, &opened.record.bundle)?;
    let terminal = process.terminal().unwrap_or(false);
    let socket = args.console_socket.as_deref();
    let (streams, console) = if terminal && socket.is_none() && !args.detach {
        let (streams, console) = foreground::Console::pair()?;
        (streams, Some(console))
    } else {
        (stdio::of(Some(&process), socket)?, None)
    };
    let signals = if args.detach { None } else { Some(foreground::Signals::block()?) };
    let request = ExecRequest { process: &process, stdio: streams, preserve_fds: args.preserve_fds };
    // Others may want the container meanwhile: in a paused one this waits for `resume`.
    let Opened { entry, mut workload, .. } = opened;
    drop(entry);
    let mut running = workload.exec(request)?;
    let pid = running.pid();
    let told = stdio::write_pid_file(args.pid_file.as_deref(), pid)
        .and_then(|()| stdio::send_pidfd(args.pidfd_socket.as_deref(), pid));
    if let Err(error) = told {
        running.kill(rkvm_oci::Signal::KILL)?;
        return Err(error);
    }
    let Some(signals) = signals else { return Ok(0) };
    foreground::wait(pid, running, console, signals).map(|status| status.code())
}

/// The process: from the file, or the container's own changed by the flags.
fn process(args: &Args, bundle: &std::path::Path) -> Result<Process> {
    if let Some(path) = &args.process {
        let text =
            std::fs::read(path).map_err(|source| Error::failed("read --process", path.display(), source))?;
        let mut process: Process = serde_json::from_slice(&text)
            .map_err(|source| Error::Malformed { path: path.clone(), source })?;
        if args.tty {
            process.set_terminal(Some(true));
        }
        return Ok(process);
    }
    if args.command.is_empty() {
        return Err(Error::invalid_spec("process.args", "name the program to run, or give --process FILE"));
    }
    let mut process = Bundle::load(bundle)?.spec.process().clone().unwrap_or_default();
    process.set_args(Some(args.command.clone())).set_terminal(Some(args.tty)).set_console_size(None);
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    if let Some(label) = &args.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if let Some(profile) = &args.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(args.env.iter().cloned());
    process.set_env(Some(env));
    user(args, &mut process)?;
    capabilities(args, &mut process)?;
    Ok(process)
}

fn user(args: &Args, process: &mut Process) -> Result<()> {
    let mut user = process.user().clone();
    if let Some(text) = &args.user {
        let (uid, gid) = text.split_once(':').map_or((text.as_str(), None), |(uid, gid)| (uid, Some(gid)));
        let number = |text: &str| {
            text.parse::<u32>().map_err(|_| {
                Error::invalid_spec("--user", format!("{text:?} is not a number; give UID or UID:GID"))
            })
        };
        let umask = user.umask();
        user = User::default();
        user.set_umask(umask);
        user.set_uid(number(uid)?);
        user.set_gid(gid.map_or(Ok(0), number)?);
    }
    if !args.additional_gids.is_empty() {
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(&args.additional_gids);
        user.set_additional_gids(Some(groups));
    }
    process.set_user(user);
    Ok(())
}

fn capabilities(args: &Args, process: &mut Process) -> Result<()> {
    if args.cap.is_empty() {
        return Ok(());
    }
    let mut sets = process.capabilities().clone().unwrap_or_else(|| {
        let mut none = LinuxCapabilities::default();
        let empty = || Some(std::collections::HashSet::new());
        none.set_bounding(empty()).set_effective(empty()).set_permitted(empty());
        none.set_inheritable(empty()).set_ambient(empty());
        none
    });
    for name in &args.cap {
        let short = name.to_ascii_uppercase();
        let short = short.strip_prefix("CAP_").unwrap_or(&short);
        let capability: Capability = short
            .parse()
            .map_err(|_| Error::invalid_spec("--cap", format!("{name:?} is not a capability")))?;
        // As runc: not ambient, unless inheritable, so that a user other than root does not gain it unasked.
        let add = |set: &Option<std::collections::HashSet<Capability>>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        let (bounding, effective, permitted) =
            (add(sets.bounding()), add(sets.effective()), add(sets.permitted()));
        sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    }
    process.set_capabilities(Some(sets));
    Ok(())
}
