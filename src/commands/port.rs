//! `rkvm port`.

use anyhow::{Result, bail};
use rkvm_engine::record::PortMapping;
use rkvm_engine::view::ports;

use crate::context::Context;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  rkvm port web           every published port
  rkvm port web 80        where port 80/tcp of the container listens on the host
  rkvm port dns 53/udp";

/// Flags of `rkvm port`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name, id or beginning of the id
    container: String,
    /// Port inside the container; every published one when it is left out
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
}

/// Prints where the ports of a container listen on the host.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let container = context.engine().find(&args.container)?;
    let mut mappings: Vec<&PortMapping> = ports::published(&container).iter().collect();
    mappings.sort_by_key(|mapping| (mapping.container_port, mapping.protocol, mapping.host_ip));
    let name = |mapping: &PortMapping| format!("{}/{}", mapping.container_port, mapping.protocol);
    let mut text = String::new();
    match &args.port {
        None => {
            for mapping in mappings {
                text.push_str(&format!("{} -> {}\n", name(mapping), ports::host_socket(mapping)));
            }
        }
        Some(wanted) => {
            let wanted = if wanted.contains('/') { wanted.clone() } else { format!("{wanted}/tcp") };
            let Some((number, "tcp" | "udp")) = wanted.split_once('/') else {
                bail!("{wanted:?} is not a port: write PORT/tcp or PORT/udp");
            };
            if number.parse::<u16>().is_err() {
                bail!("{number:?} is not a port: give a number from 1 to 65535");
            }
            mappings.retain(|mapping| name(mapping) == wanted);
            if mappings.is_empty() {
                bail!("no public port '{wanted}' published for {}", args.container);
            }
            for mapping in mappings {
                text.push_str(&format!("{}\n", ports::host_socket(mapping)));
            }
        }
    }
    output::print(&text)?;
    Ok(0)
}
