//! Rows of `stats`.

use std::fs;
use std::path::Path;
use std::time::Instant;

use rkvm_oci::LinkForm;
use rkvm_oci::stats::Stats;

use super::ps::Width;
use crate::engine::Engine;
use crate::error::Result;
use crate::format::{Column, Listing, Row, human};
use crate::ids;
use crate::store::Container;

/// What `stats` can show.
pub const LISTING: Listing = Listing {
    columns: &[
        Column { field: "Container", header: "CONTAINER" },
        Column { field: "ID", header: "CONTAINER ID" },
        Column { field: "Name", header: "NAME" },
        Column { field: "CPUPerc", header: "CPU %" },
        Column { field: "MemUsage", header: "MEM USAGE / LIMIT" },
        Column { field: "MemPerc", header: "MEM %" },
        Column { field: "NetIO", header: "NET I/O" },
        Column { field: "BlockIO", header: "BLOCK I/O" },
        Column { field: "PIDs", header: "PIDS" },
    ],
    default: "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
};

/// Resource use of a container at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    at: Instant,
    stats: Stats,
    /// Bytes received and sent.
    net: Option<(u64, u64)>,
}

impl Sample {
    /// Measures `container`; `None` when it does not run.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn take(engine: &Engine, container: &Container) -> Result<Option<Self>> {
        if !container.state.status.has_processes() {
            return Ok(None);
        }
        let stats = engine.open(container)?.workload.stats()?;
        let net = match engine.backend(container.record.isolation)?.needs().link {
            LinkForm::Veth => fs::read_to_string(format!("/proc/{}/net/dev", container.state.pid))
                .ok()
                .map(|text| traffic(&text)),
            LinkForm::Tap => tap_traffic(container.id()),
        };
        Ok(Some(Self { at: Instant::now(), stats, net }))
    }
}

/// Bytes that a microVM received and sent, which its tap sent and received; `None` without one.
fn tap_traffic(id: &str) -> Option<(u64, u64)> {
    let folder = Path::new("/sys/class/net").join(rkvm_net::link_name(id)).join("statistics");
    let bytes = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok();
    Some((bytes("tx_bytes")?, bytes("rx_bytes")?))
}

/// Bytes received and sent over every link but the loopback one (proc_pid_net(5), `dev`).
fn traffic(text: &str) -> (u64, u64) {
    let link = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> =
            counters.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        (name.trim() != "lo").then_some((*counters.first()?, *counters.get(8)?))
    };
    text.lines().filter_map(link).fold((0, 0), |sum, link| (sum.0 + link.0, sum.1 + link.1))
}

/// The row of `container`. CPU use is what happened between the samples; a container without a second sample does not run.
pub fn row(
    container: &Container,
    width: Width,
    before: Option<&Sample>,
    now: Option<&Sample>,
    host_memory_bytes: u64,
) -> Row {
    const UNKNOWN: &str = "--";
    let id = if width == Width::Short { ids::short(container.id()) } else { container.id() };
    let row = Row::default().with("Container", id).with("ID", id).with("Name", container.name());
    let Some(now) = now else {
        return row
            .with("CPUPerc", UNKNOWN)
            .with("MemUsage", "-- / --")
            .with("MemPerc", UNKNOWN)
            .with("NetIO", UNKNOWN)
            .with("BlockIO", UNKNOWN)
            .with("PIDs", UNKNOWN);
    };
    let pair = |a: Option<u64>, b: Option<u64>, show: fn(u64) -> String| match (a, b) {
        (None, None) => UNKNOWN.to_owned(),
        (a, b) => format!("{} / {}", show(a.unwrap_or(0)), show(b.unwrap_or(0))),
    };
    let stats = &now.stats;
    // As Docker: what the kernel would drop at once is not counted as used.
    let used = stats
        .memory_usage_bytes
        .map(|usage| usage.saturating_sub(stats.memory_inactive_file_bytes.unwrap_or(0)));
    let limit = stats.memory_limit_bytes.unwrap_or(u64::MAX).min(host_memory_bytes);
    let memory =
        used.map_or(UNKNOWN.to_owned(), |used| format!("{:.2}%", used as f64 * 100.0 / limit.max(1) as f64));
    row.with("CPUPerc", before.and_then(|before| cpu(before, now)).unwrap_or_else(|| UNKNOWN.to_owned()))
        .with("MemUsage", pair(used, Some(limit), human::memory))
        .with("MemPerc", memory)
        .with("NetIO", pair(now.net.map(|net| net.0), now.net.map(|net| net.1), human::size))
        .with("BlockIO", pair(stats.io_read_bytes, stats.io_write_bytes, human::size))
        .with("PIDs", stats.pids_current.map_or_else(|| UNKNOWN.to_owned(), |pids| pids.to_string()))
}

/// Share of one CPU that was used between two samples, `12.34%`; above 100 % on several CPUs.
fn cpu(before: &Sample, now: &Sample) -> Option<String> {
    let used = now.stats.cpu_total_ns?.saturating_sub(before.stats.cpu_total_ns?);
    let passed = now.at.duration_since(before.at).as_nanos().max(1);
    Some(format!("{:.2}%", used as f64 * 100.0 / passed as f64))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ps::tests::container;
    use super::*;
    use crate::format::Format;

    fn print(before: Option<&Sample>, now: Option<&Sample>) -> String {
        let rows = [row(&container("web"), Width::Short, before, now, 8 << 30)];
        Format::parse(Some(LISTING.default), &LISTING).unwrap().print(&LISTING, &rows).unwrap()
    }

    #[test]
    fn use_between_two_samples() {
        let first = Sample {
            at: Instant::now(),
            stats: Stats { cpu_total_ns: Some(1_000_000_000), ..Stats::default() },
            net: Some((0, 0)),
        };
        let second = Sample {
            at: first.at + Duration::from_secs(2),
            stats: Stats {
                cpu_total_ns: Some(4_000_000_000),
                memory_usage_bytes: Some(3 << 20),
                memory_inactive_file_bytes: Some(1 << 20),
                memory_limit_bytes: Some(16 << 20),
                pids_current: Some(7),
                ..Stats::default()
            },
            net: Some((1_200, 648)),
        };
        assert_eq!(
            print(Some(&first), Some(&second)),
            "777777777777\tweb\t150.00%\t2MiB / 16MiB\t12.50%\t1.2kB / 648B\t--\t7\n"
        );
        assert_eq!(print(None, None), "777777777777\tweb\t--\t-- / --\t--\t--\t--\t--\n");
    }

    #[test]
    fn loopback_does_not_count() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 500 1 0 0 0 0 0 0 500 1 0 0 0 0 0 0\n\
                    eth0: 100 2 0 0 0 0 0 0 30 1 0 0 0 0 0 0\n";
        assert_eq!(traffic(text), (100, 30));
    }
}
