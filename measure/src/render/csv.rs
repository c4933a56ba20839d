//! Comma-separated values: one line a start, its phases as columns (RFC 4180); lines of other kinds for everything else that was measured.
//!
//! Provenance and findings stand above the header in lines that begin with `#` (`comment="#"` in R's `read.csv` and in pandas).

use std::fmt::Write as _;

use super::facts;
use crate::model::{PHASES, Report, SampleKind};

/// A line. What it has nothing to say of is empty.
#[derive(Default)]
struct Line<'a> {
    subject: &'a str,
    kind: &'a str,
    order: Option<usize>,
    round: Option<usize>,
    instance: Option<usize>,
    at_ms: Option<u64>,
    total_ns: Option<u64>,
    phases: [Option<u64>; PHASES.len()],
    instances: Option<usize>,
    pss_bytes: Option<u64>,
    available_bytes: Option<u64>,
    limit_ns: Option<u64>,
    remark: String,
}

impl Line<'_> {
    fn write(&self, out: &mut String) {
        let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
        let count = |value: Option<usize>| value.map(|value| value.to_string()).unwrap_or_default();
        let mut cells = vec![field(self.subject), self.kind.to_owned()];
        cells.extend([self.order, self.round, self.instance].map(count));
        cells.extend([self.at_ms, self.total_ns].map(number));
        cells.extend(self.phases.map(number));
        cells.push(count(self.instances));
        cells.extend([self.pss_bytes, self.available_bytes, self.limit_ns].map(number));
        cells.push(field(&flat(&self.remark)));
        let _ = writeln!(out, "{}", cells.join(","));
    }
}

/// The raw samples, then lines of the kinds `density`, `failure`, `missing`, `difference`, `command` and `budget`. Times are nanoseconds;
/// what a line does not have is empty. `total_ns` of a `density` is the start of the last of `instances`, that of a `budget` what was measured.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    for line in [facts::partial(report), facts::nothing(report)].into_iter().flatten() {
        let _ = writeln!(out, "# {line}");
    }
    for (name, value) in facts::question(report).into_iter().chain(facts::provenance(report)) {
        let _ = writeln!(out, "# {name}: {}", flat(&value));
    }
    for finding in &report.findings {
        let text = facts::finding(finding);
        let _ = writeln!(out, "# {} {}: {}", facts::severity(finding), finding.id, flat(&text));
    }
    let _ = write!(out, "subject,kind,order,round,instance,at_ms,total_ns");
    for phase in PHASES {
        let _ = write!(out, ",{phase}_ns");
    }
    out.push_str(",instances,pss_bytes,available_bytes,limit_ns,remark\n");
    samples(&mut out, report);
    others(&mut out, report);
    out
}

fn samples(out: &mut String, report: &Report) {
    for sample in &report.samples {
        let kind = match sample.kind {
            SampleKind::Warmup => "warmup",
            SampleKind::Measured => "measured",
        };
        let line = Line {
            subject: &sample.subject,
            kind,
            order: Some(sample.order),
            round: Some(sample.round),
            instance: Some(sample.instance),
            at_ms: Some(sample.at_ms),
            total_ns: Some(sample.total_ns),
            phases: PHASES.map(|phase| sample.phase_ns(phase)),
            ..Line::default()
        };
        line.write(out);
    }
}

fn others(out: &mut String, report: &Report) {
    for point in &report.density {
        let line = Line {
            subject: &point.subject,
            kind: "density",
            total_ns: Some(point.start_ns),
            instances: Some(point.instances),
            pss_bytes: Some(point.pss_bytes),
            available_bytes: Some(point.available_bytes),
            ..Line::default()
        };
        line.write(out);
    }
    for one in &report.failures {
        let log =
            if one.log.is_empty() { String::new() } else { format!("; it wrote: {}", one.log.join(" | ")) };
        let remark = facts::failure(one) + &log;
        let order = Some(one.order);
        Line { subject: &one.subject, kind: "failure", order, remark, ..Line::default() }.write(out);
    }
    for one in &report.missing {
        let remark = one.reason.clone();
        Line { subject: &one.id, kind: "missing", remark, ..Line::default() }.write(out);
    }
    for one in &report.subjects {
        if let Some(remark) = facts::differences(&one.differences) {
            Line { subject: &one.id, kind: "difference", remark, ..Line::default() }.write(out);
        }
        let remark = one.command_line.join(" ");
        if !remark.is_empty() {
            Line { subject: &one.id, kind: "command", remark, ..Line::default() }.write(out);
        }
    }
    for one in &report.summary.budgets {
        let line = Line {
            subject: &one.subject,
            kind: "budget",
            total_ns: Some(one.actual_ns),
            limit_ns: Some(one.limit_ns),
            remark: format!("{}: {}", one.budget, facts::budget(one)),
            ..Line::default()
        };
        line.write(out);
    }
}

/// On one line, for those who read line by line.
fn flat(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

/// Quoted where it has to be.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
