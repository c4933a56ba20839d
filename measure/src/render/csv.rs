//! Comma-separated values: one line a start, its phases as columns (RFC 4180).
//!
//! Provenance stands above the header in lines that begin with `#` (`comment="#"` in R's `read.csv` and in pandas).

use std::fmt::Write as _;

use super::facts;
use crate::model::{PHASES, Report, SampleKind};

/// The raw samples. Times are nanoseconds; a phase that a start does not have is empty.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    if let Some(line) = facts::partial(report) {
        let _ = writeln!(out, "# {line}");
    }
    for (name, value) in facts::question(report).into_iter().chain(facts::provenance(report)) {
        let _ = writeln!(out, "# {name}: {}", value.replace(['\r', '\n'], " "));
    }
    for finding in &report.findings {
        let _ = writeln!(out, "# {}: {} {}", finding.id, finding.what, finding.effect);
    }
    let _ = write!(out, "subject,kind,order,round,instance,at_ms,total_ns");
    for phase in PHASES {
        let _ = write!(out, ",{phase}_ns");
    }
    out.push('\n');
    for sample in &report.samples {
        let kind = match sample.kind {
            SampleKind::Warmup => "warmup",
            SampleKind::Measured => "measured",
        };
        let _ = write!(
            out,
            "{},{kind},{},{},{},{},{}",
            field(&sample.subject),
            sample.order,
            sample.round,
            sample.instance,
            sample.at_ms,
            sample.total_ns
        );
        for phase in PHASES {
            out.push(',');
            if let Some(ns) = sample.phase_ns(phase) {
                let _ = write!(out, "{ns}");
            }
        }
        out.push('\n');
    }
    out
}

/// Quoted where it has to be.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
