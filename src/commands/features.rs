//! `rkvm features`.

use anyhow::Result;
use rkvm_oci::{Error, Isolation};
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  rkvm features
  rkvm features --format json        the features structure of the OCI runtime-spec for each backend";

/// Flags of `rkvm features`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only this backend
    #[arg(long, value_name = "container|vm")]
    isolation: Option<Isolation>,
    /// `text` or `json`
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    format: String,
}

/// What one backend can do.
enum Support {
    /// It is here; what it understands, and why this host cannot run it, if that is so.
    Built { features: Value, host: Option<String> },
    /// It is not in this build.
    Missing { feature: String, reason: String },
}

/// Prints what each backend supports.
pub fn run(args: Args, _context: &Context) -> Result<u8> {
    let mut shown = Map::new();
    let mut text = String::new();
    for isolation in [Isolation::Container, Isolation::Vm] {
        if args.isolation.is_some_and(|only| only != isolation) {
            continue;
        }
        let support = support(isolation)?;
        text.push_str(&describe(isolation, &support));
        shown.insert(isolation.to_string(), to_json(support));
    }
    output::print(&if args.format == "json" { output::pretty_json(&shown)? } else { text })?;
    Ok(0)
}

fn support(isolation: Isolation) -> Result<Support> {
    match crate::backend::backend(isolation) {
        Ok(backend) => {
            let host = backend.check_host().err().map(|error| format!("{:#}", anyhow::Error::from(error)));
            Ok(Support::Built { features: serde_json::to_value(backend.features())?, host })
        }
        Err(Error::Unsupported { feature, reason }) => Ok(Support::Missing { feature, reason }),
        Err(error) => Err(error.into()),
    }
}

fn to_json(support: Support) -> Value {
    match support {
        Support::Built { features, host } => {
            json!({ "available": host.is_none(), "reason": host, "features": features })
        }
        Support::Missing { feature, reason } => {
            json!({ "available": false, "reason": reason, "unsupported": [feature] })
        }
    }
}

fn describe(isolation: Isolation, support: &Support) -> String {
    match support {
        Support::Missing { feature, reason } => {
            format!("{isolation}: not available\n  unsupported: {feature} ({reason})\n")
        }
        Support::Built { features, host } => {
            let state = host.as_ref().map_or("available".to_owned(), |reason| format!("not on this host: {reason}"));
            let mut lines = vec![];
            flatten("", features, &mut lines);
            let (unsupported, supported): (Vec<_>, Vec<_>) =
                lines.into_iter().partition(|(_, value)| value == "false");
            let mut text = format!("{isolation}: {state}\n");
            for (name, value) in supported {
                text.push_str(&format!("  {name}: {value}\n"));
            }
            for (name, _) in unsupported {
                text.push_str(&format!("  unsupported: {name}\n"));
            }
            text
        }
    }
}

/// Each value with its path, lists on one line; absent ones are left out.
fn flatten(path: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        // A field of the structure that says nothing.
        Value::String(text) if text.is_empty() => {}
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(path.strip_suffix(".enabled").unwrap_or(&path), field, lines);
            }
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(plain).collect();
            lines.push((path.to_owned(), items.join(", ")));
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => lines.push((path.to_owned(), plain(value))),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_switched_off_is_listed_as_unsupported() {
        let features = json!({"linux": {"namespaces": ["pid", "net"], "apparmor": {"enabled": false}, "selinux": null}});
        let text = describe(Isolation::Container, &Support::Built { features, host: None });
        assert_eq!(text, "container: available\n  linux.namespaces: pid, net\n  unsupported: linux.apparmor\n");
    }
}
