//! What /proc says of a process, as `top` shows it.

use std::fs;

use rkvm_oci::process::ProcessInfo;

/// Longest command line that is told, bytes: programs can make theirs as long as they like.
const MAX_COMMAND: usize = 4096;
/// Ticks a second of proc(5) on x86 (USER_HZ).
const TICKS: u64 = 100;

/// Process `pid`; `None` when it has ended meanwhile.
pub fn describe(pid: i32) -> Option<ProcessInfo> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    parse(&stat, &status, &command, parent_inside)
}

/// Id, in its own namespace, of process `pid`.
fn parent_inside(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    inner_id(&status).unwrap_or(0)
}

/// The last number of `NSpid`: the id in the innermost namespace; `None` for a process of the machine itself.
fn inner_id(status: &str) -> Option<u32> {
    field(status, "NSpid:")?.split_whitespace().skip(1).last()?.parse().ok()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn parse(stat: &str, status: &str, command: &[u8], inside: impl FnOnce(u32) -> u32) -> Option<ProcessInfo> {
    // The name is in parentheses and may hold some itself.
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Numbered as in proc(5), whose third field is the first here.
    let number = |index: usize| fields.get(index - 3).and_then(|text| text.parse::<u64>().ok());
    let words: Vec<_> = command[..command.len().min(MAX_COMMAND)]
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy)
        .collect();
    let command = words.join(" ").trim_end().to_owned();
    Some(ProcessInfo {
        pid: inner_id(status)?,
        parent: inside(number(4)? as u32),
        uid: field(status, "Uid:")?.split_whitespace().next()?.parse().ok()?,
        state: fields.first()?.chars().next()?,
        cpu_ms: (number(14)? + number(15)?) * 1000 / TICKS,
        start_ms: number(22)? * 1000 / TICKS,
        resident_kib: field(status, "VmRSS:")
            .and_then(|text| text.split_whitespace().next()?.parse().ok())
            .unwrap_or(0),
        terminal: number(7).unwrap_or(0) as u32,
        command: if command.is_empty() { format!("[{name}]") } else { command },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_name_that_looks_like_fields() {
        let stat = "42 (a) S (b) R 7 42 42 34816 42 4194304 100 0 0 0 15 5 0 0 20 0 1 0 1234 1000 50 0";
        let status = "Name:\ta\nUid:\t33\t33\t33\t33\nVmRSS:\t  804 kB\nNSpid:\t42\t5\n";
        let info = parse(stat, status, b"sh\0-c\0x\0", |parent| parent + 100).unwrap();
        assert_eq!((info.pid, info.parent, info.uid, info.state), (5, 107, 33, 'R'));
        assert_eq!((info.cpu_ms, info.start_ms, info.resident_kib, info.terminal), (200, 12340, 804, 34816));
        assert_eq!(info.command, "sh -c x");
        assert_eq!(parse(stat, status, b"", |_| 0).unwrap().command, "[a) S (b]");
        assert!(parse("", "", b"", |_| 0).is_none());
    }
}
