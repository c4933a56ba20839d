//! What of a host matters to figures.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Facts of a host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Host {
    /// This program was built without optimisation.
    pub debug_build: bool,
    /// Part of the processors' time that was used while nothing was measured, 0 to 1.
    pub busy: f64,
    /// Load averages.
    pub load: [f64; 3],
    /// Frequency governor; `None`: none is visible.
    pub governor: Option<String>,
    /// What this host runs in, when it is a virtual machine.
    pub hypervisor: Option<String>,
    /// `hardware`, `pvm` or `none`.
    pub kvm: String,
    /// The processor can make CPUID fault (flag `cpuid_fault` of /proc/cpuinfo): a PVM host turns that on and off around every run
    /// of guest code, and where the host is itself a virtual machine each turn is a trap into the hypervisor below.
    pub cpuid_faults: bool,
    /// `v1`, `v2`, `hybrid` or `none`.
    pub cgroup: String,
    /// Serial console to which messages of every level go.
    pub serial_console: Option<String>,
    /// There is swap.
    pub swap_on: bool,
    /// Some of it is used.
    pub swap_used: bool,
    /// Mode of transparent huge pages.
    pub thp: String,
    /// Free memory is given back to a hypervisor (virtio balloon with free page reporting).
    pub reports_free_pages: bool,
    /// Vulnerabilities against which something is done.
    pub mitigations: usize,
}

/// How long the host is watched for other load.
const WATCH: Duration = Duration::from_millis(500);
/// The devices that the balloon's driver serves.
const BALLOONS: &str = "sys/bus/virtio/drivers/virtio_balloon";
/// VIRTIO_BALLOON_F_PAGE_REPORTING (virtio 1.2, section 5.5.3).
const PAGE_REPORTING: usize = 5;
/// Kernel messages of this level (informational) are printed for each link.
const INFORMATIONAL: u32 = 6;

impl Host {
    /// This host; takes half a second. `kvm` and `cgroup` are told by whoever knows them.
    pub fn look(kvm: &str, cgroup: &str) -> Self {
        let before = CpuTime::now();
        std::thread::sleep(WATCH);
        let busy = CpuTime::now().since(&before).busy_part();
        Self { busy, ..Self::read(Path::new("/"), kvm, cgroup) }
    }

    /// All but the load of a host whose /proc and /sys are below `root`.
    pub fn read(root: &Path, kvm: &str, cgroup: &str) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let trimmed = |path: &str| Some(text(path).trim().to_owned()).filter(|text| !text.is_empty());
        let mut load = [0.0; 3];
        for (value, word) in load.iter_mut().zip(text("proc/loadavg").split_whitespace()) {
            *value = word.parse().unwrap_or(0.0);
        }
        let kibibytes = |name: &str| {
            let meminfo = text("proc/meminfo");
            let line =
                meminfo.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
            line.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0)
        };
        let (swap, free) = (kibibytes("SwapTotal:"), kibibytes("SwapFree:"));
        Self {
            debug_build: cfg!(debug_assertions),
            busy: 0.0,
            load,
            governor: trimmed("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            hypervisor: hypervisor(
                &text("proc/cpuinfo"),
                &text("sys/class/dmi/id/sys_vendor"),
                trimmed("sys/hypervisor/type"),
            ),
            kvm: kvm.to_owned(),
            cpuid_faults: has_flag(&text("proc/cpuinfo"), "cpuid_fault"),
            cgroup: cgroup.to_owned(),
            serial_console: serial(&text("proc/consoles"), &text("proc/sys/kernel/printk")),
            swap_on: swap > 0,
            swap_used: free < swap,
            thp: chosen(&text("sys/kernel/mm/transparent_hugepage/enabled")),
            reports_free_pages: reports_free_pages(&root.join(BALLOONS)),
            mitigations: mitigations(root).values().filter(|state| state.starts_with("Mitigation")).count(),
        }
    }
}

/// File name below /sys/devices/system/cpu/vulnerabilities and its content.
pub fn mitigations(root: &Path) -> BTreeMap<String, String> {
    let entries =
        fs::read_dir(root.join("sys/devices/system/cpu/vulnerabilities")).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let state = fs::read_to_string(entry.path()).ok()?;
            Some((entry.file_name().into_string().ok()?, state.trim().to_owned()))
        })
        .collect()
}

/// A balloon of the host has agreed to report free pages; sysfs shows a device's features as a digit a bit, bit 0 first.
fn reports_free_pages(balloons: &Path) -> bool {
    let devices = fs::read_dir(balloons).into_iter().flatten().flatten();
    let mut features = devices.filter_map(|entry| fs::read(entry.path().join("features")).ok());
    features.any(|bits| bits.get(PAGE_REPORTING) == Some(&b'1'))
}

/// The first processor has this flag.
fn has_flag(cpuinfo: &str, wanted: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == wanted)
}

/// A guest's processor has the flag `hypervisor` (CPUID leaf 1, ECX bit 31).
fn hypervisor(cpuinfo: &str, vendor: &str, kind: Option<String>) -> Option<String> {
    if !has_flag(cpuinfo, "hypervisor") {
        return None;
    }
    let vendor = Some(vendor.trim().to_owned()).filter(|vendor| !vendor.is_empty());
    Some(kind.or(vendor).unwrap_or_else(|| "of an unknown kind".to_owned()))
}

/// The first serial line among the enabled consoles, when informational messages are printed.
fn serial(consoles: &str, printk: &str) -> Option<String> {
    let level: u32 = printk.split_whitespace().next()?.parse().ok()?;
    let enabled = |line: &&str| line.split('(').nth(1).is_some_and(|flags| flags.contains('E'));
    let names = consoles.lines().filter(enabled).filter_map(|line| line.split_whitespace().next());
    let mut serial = names.filter(|name| name.starts_with("ttyS") || name.starts_with("ttyAMA"));
    if level > INFORMATIONAL { serial.next().map(str::to_owned) } else { None }
}

/// The word in brackets.
fn chosen(text: &str) -> String {
    text.split(['[', ']']).nth(1).unwrap_or_default().to_owned()
}

/// Time of all processors since boot, in ticks (proc_stat(5)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTime {
    total: u64,
    idle: u64,
    steal: u64,
}

impl CpuTime {
    /// Up to now.
    pub fn now() -> Self {
        Self::parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    fn parse(stat: &str) -> Self {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
        // user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user.
        let fields: Vec<u64> =
            line.split_whitespace().take(8).filter_map(|field| field.parse().ok()).collect();
        let field = |index: usize| fields.get(index).copied().unwrap_or(0);
        Self { total: fields.iter().sum(), idle: field(3) + field(4), steal: field(7) }
    }

    /// What passed since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            total: self.total.saturating_sub(earlier.total),
            idle: self.idle.saturating_sub(earlier.idle),
            steal: self.steal.saturating_sub(earlier.steal),
        }
    }

    /// Part that was used.
    pub fn busy_part(&self) -> f64 {
        if self.total == 0 {
            0.0
        } else {
            (self.total - self.idle.min(self.total)) as f64 / self.total as f64
        }
    }

    /// Part that a hypervisor withheld.
    pub fn steal_part(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.steal as f64 / self.total as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_split() {
        let before = CpuTime::parse("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3\n");
        let after = CpuTime::parse("cpu  150 0 80 900 60 0 0 10 0 0\n");
        let spent = after.since(&before);
        assert_eq!(spent, CpuTime { total: 200, idle: 110, steal: 10 });
        assert!((spent.busy_part() - 0.45).abs() < 1e-9 && (spent.steal_part() - 0.05).abs() < 1e-9);
        assert_eq!(CpuTime::default().busy_part(), 0.0);
    }

    #[test]
    fn a_serial_console_matters_only_when_it_prints_everything() {
        let consoles =
            "tty0                 -WU (EC  p  )    4:1\nttyS0                -W- (E   p a)    4:64\n";
        assert_eq!(serial(consoles, "7\t4\t1\t7\n").as_deref(), Some("ttyS0"));
        assert_eq!(serial(consoles, "4\t4\t1\t7\n"), None);
        assert_eq!(serial("tty0 -WU (EC p )\n", "7\t4\t1\t7\n"), None);
    }
}
