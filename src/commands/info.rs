//! `rkvm info`.

use anyhow::Result;
use rkvm_engine::format::Template;
use rkvm_engine::view::info::Info;

use crate::context::Context;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  rkvm info --format '{{.CgroupMode}} {{.KVM.Kind}}'
  rkvm info --format '{{range .Isolation}}{{.Name}}: {{.Available}}{{println}}{{end}}'
  rkvm info --format json";

/// Flags of `rkvm info`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// `json`, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Prints what this engine and this host are.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let info = Info::collect(&context.engine(), env!("CARGO_PKG_VERSION"), crate::backend::machines())?;
    let template = match args.format.as_deref() {
        None | Some("") => {
            output::print(&info.to_string())?;
            for warning in info.warnings() {
                output::complain(format_args!("WARNING: {warning}"));
            }
            return Ok(0);
        }
        Some("json") => "{{json .}}",
        Some(template) => template,
    };
    output::print(&format!("{}\n", Template::parse(template)?.render_serializable(&info)?))?;
    Ok(0)
}
