//! `--timings`: how long each phase of a start took.

use std::str::FromStr;

use crate::output;
use anyhow::Result;
use rkvm_oci::Timeline;

/// How timings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimingsFormat {
    /// A line a phase.
    Table,
    /// One JSON object: each phase, and when the first began (CLOCK_MONOTONIC, nanoseconds).
    Json,
}

impl FromStr for TimingsFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is no format of timings: there are table and json")),
        }
    }
}

/// Prints the phases of `timeline` to standard error, since standard output is the container's.
///
/// # Errors
/// They cannot be written as JSON.
pub fn print(timeline: &Timeline, format: TimingsFormat) -> Result<()> {
    match format {
        TimingsFormat::Table => {
            for (phase, ns) in timeline.durations() {
                output::complain(format_args!("{:<8} {:>10.3} ms", phase.name(), ns as f64 / 1e6));
            }
            output::complain(format_args!("{:<8} {:>10.3} ms", "total", timeline.total_ns() as f64 / 1e6));
        }
        TimingsFormat::Json => {
            let phases: Vec<_> = timeline
                .durations()
                .map(|(phase, ns)| serde_json::json!({"phase": phase.name(), "ns": ns}))
                .collect();
            let report = serde_json::json!({
                "phases": phases,
                "start_ns": timeline.start.0,
                "total_ns": timeline.total_ns(),
            });
            output::complain(format_args!("{}", serde_json::to_string(&report)?));
        }
    }
    Ok(())
}
