//! `rkvm-oci ps`.

use std::process::Command;

use clap::ValueEnum;
use rkvm_oci::process::ProcessInfo;
use rkvm_oci::{Error, Result, Status};

use super::Context;

/// Flags of `rkvm-oci ps`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of the output
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// The container's id
    id: String,
    /// Flags for ps(1)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PS FLAGS")]
    flags: Vec<String>,
}

/// Values of `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// What ps(1) prints.
    Table,
    /// A JSON array of process ids.
    Json,
}

/// Prints the container's processes: of a microVM those inside. In JSON they are process ids of the host for every container, since
/// that is where callers (containerd, Docker's `top`) look them up.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let opened = context.open(&args.id)?;
    let pids = if opened.status == Status::Stopped { vec![] } else { opened.workload.processes()? };
    let inside = match (args.format, opened.status) {
        (Format::Json, _) => None,
        // Nobody is left to be asked.
        (Format::Table, Status::Stopped) => None,
        (Format::Table, _) => opened.workload.processes_inside()?,
    };
    drop(opened);
    if args.format == Format::Json {
        super::print(&format!("{}\n", serde_json::Value::from(pids)))?;
        return Ok(0);
    }
    if let Some(inside) = inside {
        return print_inside(&inside, &args.flags);
    }
    let flags = if args.flags.is_empty() { vec!["-ef".to_owned()] } else { args.flags };
    let output =
        Command::new("ps").args(&flags).output().map_err(|source| Error::failed("run", "ps", source))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::failed("run ps with", flags.join(" "), reason));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let Some(column) = head.split_whitespace().position(|name| name == "PID") else {
        return Err(Error::failed(
            "find column PID in the output of ps with",
            flags.join(" "),
            "no such column",
        ));
    };
    let is_ours = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    let kept = std::iter::once(head).chain(lines.filter(is_ours));
    super::print(&kept.map(|line| format!("{line}\n")).collect::<String>())?;
    Ok(0)
}

/// Prints what a microVM's kernel runs.
fn print_inside(processes: &[ProcessInfo], flags: &[String]) -> Result<u8> {
    if !flags.is_empty() {
        return Err(Error::unsupported(
            "flags of ps for a microVM",
            "the host's ps cannot look into it; use none, or `rkvm-oci exec ID ps ...`",
        ));
    }
    let head = ["UID", "PID", "PPID", "S", "RSS", "TIME", "CMD"].map(str::to_owned);
    let rows: Vec<[String; 7]> = processes
        .iter()
        .map(|process| {
            let seconds = process.cpu_ms / 1_000;
            [
                process.uid.to_string(),
                process.pid.to_string(),
                process.parent.to_string(),
                printable(&process.state.to_string()),
                process.resident_kib.to_string(),
                format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60),
                printable(&process.command),
            ]
        })
        .collect();
    super::print(&super::table(&head, &rows))?;
    Ok(0)
}

/// `text` of a guest, without what a terminal would act on.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}
