//! `rkvm-oci state`.

use rkvm_oci::{Error, Result, Status};

use super::Context;

/// Flags of `rkvm-oci state`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The container's id
    id: String,
}

/// Prints the state (runtime-spec, "State", with runc's further fields).
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let (record, status) = context.look(&args.id)?;
    let state = serde_json::json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "pid": if status == Status::Stopped { 0 } else { record.pid },
        "status": status,
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "annotations": record.annotations,
        "owner": "",
        "isolation": record.isolation,
    });
    let text = serde_json::to_string_pretty(&state)
        .map_err(|source| Error::failed("print the state of", &record.id, source))?;
    super::print(&format!("{text}\n"))?;
    Ok(0)
}
