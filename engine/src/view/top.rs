//! Processes of a container, as `ps -ef` shows them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// User id inside the container.
    pub uid: u32,
    /// Process id on the host.
    pub pid: i32,
    /// Parent's process id on the host.
    pub parent: i32,
    /// Share of one CPU over its life, percent.
    pub cpu_percent: u64,
    /// Seconds since midnight UTC at which it began.
    pub started: u64,
    /// `?`, `pts/0`, `tty1`.
    pub terminal: String,
    /// CPU time used.
    pub cpu_time: Duration,
    /// Command line, or the name in brackets where there is none.
    pub command: String,
}

impl Process {
    /// The process `pid`, whose user 0 is `uid_base` on the host; `None` when it has ended.
    pub fn read(pid: i32, uid_base: u32) -> Option<Self> {
        let folder = format!("/proc/{pid}");
        let uid = fs::metadata(&folder).ok()?.uid();
        let stat = fs::read_to_string(format!("{folder}/stat")).ok()?;
        let uptime = fs::read_to_string("/proc/uptime").ok()?;
        let uptime: f64 = uptime.split(' ').next()?.parse().ok()?;
        let name = stat.get(stat.find('(')? + 1..stat.rfind(')')?)?;
        // proc_pid_stat(5); the first field after the name is the third.
        let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
        let ticks = ticks_per_second();
        let cpu_ticks = u64::try_from(field(14)? + field(15)?).unwrap_or(0);
        let cpu_time = Duration::from_millis(cpu_ticks * 1_000 / ticks);
        let age = (uptime - field(22)? as f64 / ticks as f64).max(0.0);
        let began = SystemTime::now().checked_sub(Duration::from_secs_f64(age))?;
        let began = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let line = fs::read(format!("{folder}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " ");
        Some(Self {
            uid: uid.checked_sub(uid_base).unwrap_or(uid),
            pid,
            parent: i32::try_from(field(4)?).ok()?,
            cpu_percent: if age >= 1.0 { (cpu_time.as_secs_f64() * 100.0 / age) as u64 } else { 0 },
            started: began % 86_400,
            terminal: terminal(field(7)?),
            cpu_time,
            command: if line.is_empty() { format!("[{name}]") } else { line },
        })
    }

    /// Its line, cells separated by tabs.
    pub fn line(&self) -> String {
        let clock = |seconds: u64| (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        let (hour, minute, _) = clock(self.started);
        let (hours, minutes, seconds) = clock(self.cpu_time.as_secs());
        let Self { uid, pid, parent, cpu_percent, terminal, command, .. } = self;
        format!(
            "{uid}\t{pid}\t{parent}\t{cpu_percent}\t{hour:02}:{minute:02}\t{terminal}\t\
             {hours:02}:{minutes:02}:{seconds:02}\t{command}"
        )
    }
}

/// What stands above the lines.
pub const HEADER: &str = "UID\tPID\tPPID\tC\tSTIME\tTTY\tTIME\tCMD";

/// Lines of all processes that this one can see, but of itself and of the kernel's own.
pub fn all_but_own() -> String {
    let own = std::process::id() as i32;
    let mut pids: Vec<i32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own && !is_kernel_thread(*pid))
        .collect();
    pids.sort_unstable();
    pids.into_iter().filter_map(|pid| Some(Process::read(pid, 0)?.line() + "\n")).collect()
}

/// A kernel thread has no program.
fn is_kernel_thread(pid: i32) -> bool {
    pid == 2 || Process::read(pid, 0).is_some_and(|process| process.parent == 2)
}

/// The controlling terminal from its device number (proc_pid_stat(5), `tty_nr`).
fn terminal(device: i64) -> String {
    let major = (device >> 8) & 0xfff;
    let minor = (device & 0xff) | ((device >> 12) & 0xfff00);
    match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 => format!("tty{minor}"),
        _ => "?".to_owned(),
    }
}

fn ticks_per_second() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .and_then(|ticks| u64::try_from(ticks).ok())
        .filter(|ticks| *ticks > 0)
        .unwrap_or(100)
}

/// Lines of `listing`, the output of a `ps` program, that belong to `pids`; its header stays.
///
/// # Errors
/// It has no column PID.
pub fn only(listing: &str, pids: &[i32]) -> Result<String, String> {
    let mut lines = listing.lines();
    let header = lines.next().unwrap_or_default();
    let column = header
        .split_whitespace()
        .position(|name| name == "PID")
        .ok_or_else(|| format!("ps printed no column PID, only: {header}"))?;
    let belongs = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    Ok(std::iter::once(header).chain(lines.filter(belongs)).map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_described() {
        let process = Process::read(std::process::id() as i32, 0).unwrap();
        assert_eq!(process.parent, nix::unistd::getppid().as_raw());
        assert!(process.command.contains("rkvm_engine"), "{process:?}");
        assert_eq!(process.line().split('\t').count(), HEADER.split('\t').count());
        assert_eq!(Process::read(i32::MAX, 0), None);
    }

    #[test]
    fn terminals_have_their_names() {
        for (device, name) in [(0, "?"), (0x8800, "pts/0"), (0x8903, "pts/259"), (0x0401, "tty1")] {
            assert_eq!(terminal(device), name);
        }
    }

    #[test]
    fn a_listing_is_cut_down_to_the_containers_processes() {
        let listing = "USER  PID COMMAND\nroot    1 init\nroot   42 nginx 1\nroot  420 42\n";
        assert_eq!(only(listing, &[42]).unwrap(), "USER  PID COMMAND\nroot   42 nginx 1\n");
        assert!(only("COMMAND\ninit\n", &[1]).is_err());
    }
}
