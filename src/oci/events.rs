//! `rkvm-oci events`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use rkvm_oci::lifecycle::Verb;
use rkvm_oci::stats::Stats;
use rkvm_oci::{Error, Result, Status};
use serde_json::{Value, json};

use super::Context;

/// Flags of `rkvm-oci events`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Time between two reports: 5s, 500ms, 1m
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    interval: String,
    /// Print the present figures once
    #[arg(long)]
    stats: bool,
    /// The container's id
    id: String,
}

/// How often an out-of-memory kill is looked for between two reports.
const OOM_POLL: Duration = Duration::from_millis(100);

/// Prints one JSON object an event until the container stops.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let interval = duration(&args.interval).ok_or_else(|| {
        Error::invalid_spec("--interval", format!("{:?} is not a duration like 5s or 500ms", args.interval))
    })?;
    let opened = context.open(&args.id)?;
    opened.check(Verb::Stats)?;
    if args.stats {
        print(&args.id, "stats", figures(&opened.workload.stats()?))?;
        return Ok(0);
    }
    drop(opened);
    let mut kills = None;
    let mut next = Instant::now();
    loop {
        let (record, status) = match context.look(&args.id) {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(0),
            Err(error) => return Err(error),
        };
        if status == Status::Stopped {
            return Ok(0);
        }
        let stats = context.workload(&record)?.stats()?;
        if kills.is_some_and(|before| stats.oom_kills > before) {
            print(&args.id, "oom", Value::Null)?;
        }
        kills = Some(stats.oom_kills);
        if Instant::now() >= next {
            print(&args.id, "stats", figures(&stats))?;
            next += interval;
        }
        sleep(OOM_POLL.min(next.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))));
    }
}

fn print(id: &str, kind: &str, data: Value) -> Result<()> {
    let mut event = json!({"type": kind, "id": id});
    if !data.is_null() {
        event["data"] = data;
    }
    super::print(&format!("{event}\n"))
}

/// The figures in runc's form, as containerd and Docker read them.
fn figures(stats: &Stats) -> Value {
    let io = |op: &str, bytes: Option<u64>| bytes.map(|bytes| json!({"op": op, "value": bytes}));
    let operations: Vec<Value> =
        [io("Read", stats.io_read_bytes), io("Write", stats.io_write_bytes)].into_iter().flatten().collect();
    json!({
        "cpu": {
            "usage": {
                "total": stats.cpu_total_ns,
                "kernel": stats.cpu_kernel_ns,
                "user": stats.cpu_user_ns,
            },
            "throttling": {
                "periods": stats.cpu_periods,
                "throttledPeriods": stats.cpu_throttled_periods,
                "throttledTime": stats.cpu_throttled_ns,
            },
        },
        "memory": {
            "usage": {
                "usage": stats.memory_usage_bytes,
                "max": stats.memory_max_usage_bytes,
                "limit": stats.memory_limit_bytes.unwrap_or(u64::MAX),
                "failcnt": stats.memory_failcnt,
            },
            "oomKills": stats.oom_kills,
            "raw": {"total_inactive_file": stats.memory_inactive_file_bytes},
        },
        "pids": {"current": stats.pids_current, "limit": stats.pids_limit.unwrap_or(0)},
        "blkio": {
            "ioServiceBytesRecursive": operations,
        },
    })
}

/// A duration of one number and unit, as Go writes it.
fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let number: f64 = text[..split].parse().ok()?;
    let seconds = match &text[split..] {
        "ms" => number / 1_000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3_600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Some(Duration::from_millis(1500)));
        for text in ["", "5", "s", "0s", "5x", "-1s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
