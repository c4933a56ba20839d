//! `rkvm version`.

use anyhow::Result;
use rkvm_engine::format::Template;
use rkvm_engine::view::version::Versions;

use crate::context::Context;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  rkvm version --format '{{.Client.Version}}'
  rkvm version --format json";

/// Flags of `rkvm version`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// `json`, or a Go template with the fields .Client .Server .Guest .OCI
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Prints the versions of every part.
pub fn run(args: Args, _context: &Context) -> Result<u8> {
    let versions = Versions::new(env!("CARGO_PKG_VERSION"));
    let template = match args.format.as_deref() {
        None | Some("") => return output::print(&versions.to_string()).map(|()| 0),
        Some("json") => "{{json .}}",
        Some(template) => template,
    };
    output::print(&format!("{}\n", Template::parse(template)?.render_serializable(&versions)?))?;
    Ok(0)
}
