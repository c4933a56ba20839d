//! `rkvm-oci ps`.

use std::process::Command;

use clap::ValueEnum;
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

/// Prints the container's processes.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let opened = context.open(&args.id)?;
    let pids = if opened.status == Status::Stopped { vec![] } else { opened.workload.processes()? };
    drop(opened);
    if args.format == Format::Json {
        println!("{}", serde_json::Value::from(pids));
        return Ok(0);
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
    println!("{head}");
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            println!("{line}");
        }
    }
    Ok(0)
}
