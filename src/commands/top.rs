//! `rkvm top`.

use std::process::Command;

use anyhow::{Context as _, Error, Result, bail};
use rkvm_engine::agent::Inside;
use rkvm_engine::format::table;
use rkvm_engine::view::top::{HEADER, Process, only};

use rkvm_oci::Kernel;

use crate::context::Context;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  rkvm top web
  rkvm top web -o pid,rss,args      options for the host's ps, which must show the column PID

Process ids are those of the host, or of the guest in a microVM, where there are no options.";

/// Flags of `rkvm top`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name, id or beginning of the id
    container: String,
    /// Options for the host's `ps`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PS OPTIONS")]
    options: Vec<String>,
}

/// Lists the processes of a container.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let engine = context.engine();
    let container = engine.find(&args.container)?;
    if !container.state.status.has_processes() {
        bail!("container {} is not running: it is {}", args.container, container.state.status);
    }
    let own_kernel = engine.backend(container.record.isolation)?.needs().kernel == Kernel::Own;
    if own_kernel {
        if !args.options.is_empty() {
            bail!(
                "the host's ps cannot look into a microVM: `rkvm exec {} ps {}` runs that of its image",
                args.container,
                args.options.join(" ")
            );
        }
        let lines = Inside::new(&engine, &container, "list the processes of")?.processes()?;
        output::print(&table::align(&format!("{HEADER}\n{}", lines.trim_end())))?;
        return Ok(0);
    }
    let mut pids = engine.open(&container)?.workload.processes()?;
    pids.sort_unstable();
    let text = if args.options.is_empty() {
        let base = container.state.uid_base.unwrap_or(0);
        let lines = pids.iter().filter_map(|pid| Process::read(*pid, base)).map(|process| process.line());
        table::align(&std::iter::once(HEADER.to_owned()).chain(lines).collect::<Vec<_>>().join("\n"))
    } else {
        let list: Vec<_> = pids.iter().map(ToString::to_string).collect();
        let run_ps = |extra: &[&str]| {
            let ps = Command::new("ps").args(&args.options).args(extra).output();
            ps.context("cannot run the host's ps (install procps, or leave the options out)")
        };
        // Without a choice of processes `ps` shows those of its own terminal. Some options do not go together with -q.
        let mut ps = run_ps(&["-q", &list.join(",")])?;
        if !ps.status.success() {
            ps = run_ps(&[])?;
        }
        if !ps.status.success() {
            bail!("ps {}: {}", args.options.join(" "), String::from_utf8_lossy(&ps.stderr).trim());
        }
        only(&String::from_utf8_lossy(&ps.stdout), &pids).map_err(Error::msg)?
    };
    output::print(&text)?;
    Ok(0)
}
