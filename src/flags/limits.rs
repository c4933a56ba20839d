//! Flags of resource limits.

use anyhow::{Result, bail};
use rkvm_engine::options;
use rkvm_engine::record::Limits;

/// Flags that `run`, `create` and `update` share.
#[derive(Debug, clap::Args)]
pub struct ResourceFlags {
    /// Memory limit, e.g. 512m
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// Limit of memory and swap together; -1 is unlimited swap
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Soft memory limit
    #[arg(long, value_name = "SIZE")]
    memory_reservation: Option<String>,
    /// CPUs, e.g. 1.5
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// Length of a CPU period, microseconds
    #[arg(long, value_name = "US")]
    cpu_period: Option<u64>,
    /// CPU time a period, microseconds
    #[arg(long, value_name = "US", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// CPU weight relative to other containers, default 1024
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<u64>,
    /// CPUs to run on, e.g. 0-3,5
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Limit of processes and threads; -1 is unlimited
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Block I/O weight, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
}

impl ResourceFlags {
    /// Sets what was given in `limits`.
    ///
    /// # Errors
    /// A value makes no sense.
    pub fn apply(&self, limits: &mut Limits) -> Result<()> {
        if let Some(text) = &self.memory {
            limits.memory = options::memory(text)?;
        }
        if let Some(text) = &self.memory_swap {
            limits.memory_swap = options::swap(text, limits.memory)?;
        }
        if let (Some(memory), Some(swap)) = (limits.memory, limits.memory_swap)
            && (0..memory).contains(&swap)
        {
            bail!(
                "the limit of memory and swap ({swap}) is below that of memory ({memory}): give --memory-swap too"
            );
        }
        if let Some(text) = &self.memory_reservation {
            limits.memory_reservation = options::memory(text)?;
        }
        if let (Some(memory), Some(soft)) = (limits.memory, limits.memory_reservation)
            && soft > memory
        {
            bail!("--memory-reservation is above --memory");
        }
        if let Some(text) = &self.cpus {
            if self.cpu_period.is_some() || self.cpu_quota.is_some() {
                bail!("--cpus says the same as --cpu-period and --cpu-quota: leave one out");
            }
            limits.nano_cpus = options::cpus(text)?;
        }
        if let Some(period) = self.cpu_period {
            if !(1_000..=1_000_000).contains(&period) && period != 0 {
                bail!("--cpu-period must be from 1000 to 1000000 microseconds");
            }
            limits.cpu_period = Some(period).filter(|period| *period > 0);
        }
        if let Some(quota) = self.cpu_quota {
            if quota > 0 && quota < 1_000 {
                bail!("--cpu-quota must be at least 1000 microseconds");
            }
            limits.cpu_quota = Some(quota).filter(|quota| *quota != 0);
        }
        if let Some(shares) = self.cpu_shares {
            if shares != 0 && !(2..=262_144).contains(&shares) {
                bail!("--cpu-shares must be from 2 to 262144");
            }
            limits.cpu_shares = Some(shares).filter(|shares| *shares > 0);
        }
        if let Some(list) = &self.cpuset_cpus {
            limits.cpuset_cpus = Some(options::cpuset(list)?);
        }
        if let Some(list) = &self.cpuset_mems {
            limits.cpuset_mems = Some(options::cpuset(list)?);
        }
        if let Some(pids) = self.pids_limit {
            limits.pids = Some(if pids <= 0 { -1 } else { pids });
        }
        if let Some(weight) = self.blkio_weight {
            if weight != 0 && !(10..=1000).contains(&weight) {
                bail!("--blkio-weight must be from 10 to 1000");
            }
            limits.blkio_weight = Some(weight).filter(|weight| *weight > 0);
        }
        Ok(())
    }
}

/// See the module.
#[derive(Debug, clap::Args)]
pub struct LimitFlags {
    #[command(flatten)]
    resources: ResourceFlags,
    /// How eagerly to swap, 0 to 100
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
    memory_swappiness: Option<i64>,
    /// Limit of each process, NAME=SOFT[:HARD]
    #[arg(long = "ulimit", value_name = "LIMIT")]
    ulimits: Vec<String>,
    /// Size of /dev/shm, default 64m
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    /// Let processes wait for memory in place of killing them
    #[arg(long)]
    oom_kill_disable: bool,
    /// How eagerly to kill it when memory is short, -1000 to 1000
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    oom_score_adj: Option<i32>,
}

impl LimitFlags {
    /// Sets what was given in `limits`.
    pub(super) fn apply(&self, limits: &mut Limits) -> Result<()> {
        self.resources.apply(limits)?;
        limits.memory_swappiness = match self.memory_swappiness {
            None | Some(-1) => None,
            Some(percent @ 0..=100) => Some(percent as u64),
            Some(_) => bail!("--memory-swappiness must be from 0 to 100"),
        };
        for text in &self.ulimits {
            let limit = options::ulimit(text)?;
            limits.ulimits.retain(|other| other.name != limit.name);
            limits.ulimits.push(limit);
        }
        if let Some(text) = &self.shm_size {
            let bytes = options::size(text)?;
            if bytes == 0 {
                bail!("--shm-size must be more than 0");
            }
            limits.shm_size = Some(bytes);
        }
        limits.oom_kill_disable = self.oom_kill_disable;
        if self.oom_score_adj.is_some_and(|score| !(-1000..=1000).contains(&score)) {
            bail!("--oom-score-adj must be from -1000 to 1000");
        }
        limits.oom_score_adj = self.oom_score_adj;
        Ok(())
    }
}
