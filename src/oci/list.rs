//! `rkvm-oci list`.

use clap::ValueEnum;
use rkvm_oci::{Error, Result, Status};

use super::Context;

/// Flags of `rkvm-oci list`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of the output
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Print ids only
    #[arg(long, short)]
    quiet: bool,
}

/// Values of `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for people.
    Table,
    /// A JSON array.
    Json,
}

/// Prints the containers.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let mut found = vec![];
    for id in context.store.ids()? {
        if args.quiet {
            super::print(&format!("{id}\n"))?;
            continue;
        }
        match context.look(&id) {
            Ok(one) => found.push(one),
            // Deleted while the list was made.
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if args.quiet {
        return Ok(0);
    }
    let pid = |pid: i32, status: Status| if status == Status::Stopped { 0 } else { pid };
    let owner = |uid: u32| match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => user.name,
        _ => format!("#{uid}"),
    };
    if args.format == Format::Json {
        let list: Vec<_> = found
            .iter()
            .map(|(record, status)| {
                serde_json::json!({
                    "ociVersion": record.oci_version,
                    "id": record.id,
                    "pid": pid(record.pid, *status),
                    "status": status,
                    "bundle": record.bundle,
                    "rootfs": record.rootfs,
                    "created": record.created,
                    "annotations": record.annotations,
                    "owner": owner(record.owner),
                })
            })
            .collect();
        super::print(&format!("{}\n", serde_json::Value::from(list)))?;
        return Ok(0);
    }
    let rows: Vec<[String; 6]> = found
        .iter()
        .map(|(record, status)| {
            [
                record.id.clone(),
                pid(record.pid, *status).to_string(),
                status.to_string(),
                record.bundle.display().to_string(),
                record.created.clone(),
                owner(record.owner),
            ]
        })
        .collect();
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    super::print(&super::table(&head, &rows))?;
    Ok(0)
}
