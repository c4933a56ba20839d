//! `rkvm-oci update`.

use std::io::Read;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use rkvm_oci::lifecycle::Verb;
use rkvm_oci::{Error, Result};

use super::Context;

/// Flags of `rkvm-oci update`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File with resources as in config.json, `-` for standard input; the flags below are not read then
    #[arg(long, short, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Weight of block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// CPU time within a period, microseconds; -1 for no limit
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Period of the CPU quota, microseconds
    #[arg(long, value_name = "US")]
    cpu_period: Option<u64>,
    /// CPU time that may be saved up, microseconds
    #[arg(long, value_name = "US")]
    cpu_burst: Option<u64>,
    /// Real-time period, microseconds
    #[arg(long, value_name = "US")]
    cpu_rt_period: Option<u64>,
    /// Real-time runtime within its period, microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// Relative CPU weight, 2 to 262144
    #[arg(long, value_name = "SHARES", visible_alias = "cpu-shares")]
    cpu_share: Option<u64>,
    /// CPUs, as a list like 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes, as a list
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Idle CPU scheduling: 1 or 0
    #[arg(long, value_name = "0|1")]
    cpu_idle: Option<i64>,
    /// Memory limit, bytes or with a unit (64m); -1 for none
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Soft memory limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Limit of memory and swap together
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Limit of processes and threads; -1 for none
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Not supported: resource director technology
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Not supported: resource director technology
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
    /// The container's id
    id: String,
}

/// Changes the limits.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    if args.l3_cache_schema.is_some() || args.mem_bw_schema.is_some() {
        return Err(Error::unsupported(
            "--l3-cache-schema and --mem-bw-schema",
            "resource director technology is not built",
        ));
    }
    let resources = match &args.resources {
        Some(path) => read(path)?,
        None => from_flags(&args)?,
    };
    let mut opened = context.open(&args.id)?;
    opened.check(Verb::Update)?;
    opened.workload.update(&resources)?;
    Ok(0)
}

fn read(path: &PathBuf) -> Result<LinuxResources> {
    let failed = |source| Error::failed("read --resources", path.display(), source);
    let mut text = vec![];
    if path.as_os_str() == "-" {
        std::io::stdin().take(rkvm_oci::bundle::MAX_CONFIG_BYTES).read_to_end(&mut text).map_err(failed)?;
    } else {
        text = std::fs::read(path).map_err(failed)?;
    }
    serde_json::from_slice(&text).map_err(|source| Error::Malformed { path: path.clone(), source })
}

fn from_flags(args: &Args) -> Result<LinuxResources> {
    let mut resources = LinuxResources::default();
    resources.set_devices(None);
    let bytes = |flag: &str, text: &Option<String>| -> Result<Option<i64>> {
        text.as_deref()
            .map(|text| {
                size(text).ok_or_else(|| {
                    Error::invalid_spec(
                        flag,
                        format!("{text:?} is not a size; give bytes, or a unit like 64m"),
                    )
                })
            })
            .transpose()
    };
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(bytes("--memory", &args.memory)?)
        .set_reservation(bytes("--memory-reservation", &args.memory_reservation)?)
        .set_swap(bytes("--memory-swap", &args.memory_swap)?);
    if memory != LinuxMemory::default() {
        resources.set_memory(Some(memory));
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_quota(args.cpu_quota)
        .set_period(args.cpu_period)
        .set_burst(args.cpu_burst)
        .set_realtime_period(args.cpu_rt_period)
        .set_realtime_runtime(args.cpu_rt_runtime)
        .set_shares(args.cpu_share)
        .set_idle(args.cpu_idle)
        .set_cpus(args.cpuset_cpus.clone())
        .set_mems(args.cpuset_mems.clone());
    if cpu != LinuxCpu::default() {
        resources.set_cpu(Some(cpu));
    }
    if let Some(limit) = args.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    if let Some(weight) = args.blkio_weight {
        let mut io = LinuxBlockIo::default();
        io.set_weight(Some(weight));
        resources.set_block_io(Some(io));
    }
    Ok(resources)
}

/// A size in bytes, with an optional unit of 1024 (k, m, g, t).
fn size(text: &str) -> Option<i64> {
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches('b').trim_end_matches('i');
    let (number, unit) = match number.chars().last()? {
        'k' => (&number[..number.len() - 1], 1 << 10),
        'm' => (&number[..number.len() - 1], 1 << 20),
        'g' => (&number[..number.len() - 1], 1 << 30),
        't' => (&number[..number.len() - 1], 1 << 40),
        _ => (number, 1),
    };
    number.parse::<i64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes() {
        for (text, bytes) in [("64m", 64 << 20), ("1GiB", 1 << 30), ("-1", -1), ("512", 512), ("2kb", 2048)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "m", "1x", "9223372036854775807k"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
