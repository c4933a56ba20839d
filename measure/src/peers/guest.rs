//! What the virtual machines of other programs boot: our guest kernel and the image's erofs file, with an init of a few lines; and
//! their processes.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::cpio::Archive;
use super::{Workload, make_folder, on_path};
use crate::error::{Error, Result};
use crate::probe::Probe;

/// Address of the host's end of the link.
pub const HOST: &str = "10.0.2.2/24";
/// Address of the guest's end.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// How its link differs, for both machines.
pub const LINK: &str = "its tap device is made before the command; the host sends nothing before the guest has announced its address, which it does as soon as its link is up";
/// Memory without a limit, as `rkvm run --isolation=vm` gives.
const MEMORY_MIB: u64 = 256;

/// What a machine needs beside the workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The guest kernel.
    pub kernel: PathBuf,
    /// The image as one erofs file.
    pub root: PathBuf,
}

/// What a machine boots.
#[derive(Debug)]
pub struct Guest {
    /// Kernel and image.
    pub machine: Machine,
    /// The initial root filesystem with the init.
    pub initrd: PathBuf,
    /// Its memory.
    pub memory_mib: u64,
}

/// Makes it below `folder`; the reason why a machine cannot take part otherwise.
///
/// # Errors
/// Files cannot be written.
pub fn prepare(
    workload: &Workload,
    probe: &Probe,
    folder: &Path,
    ending: &str,
) -> Result<std::result::Result<Guest, String>> {
    let cannot = |reason: &str| Ok(Err(reason.to_owned()));
    if matches!(probe, Probe::Exec) {
        return cannot("it does not tell when the program is executed: use exit, log, http or tcp");
    }
    let machine = match &workload.machine {
        Ok(machine) => machine.clone(),
        Err(reason) => return cannot(reason),
    };
    let Some(busybox) = on_path("busybox").and_then(static_program) else {
        return cannot("its init needs a static busybox on PATH (Debian's package busybox-static)");
    };
    let process = &workload.spec["process"];
    if process["user"]["uid"].as_u64().unwrap_or(0) != 0 {
        return cannot("the image's program does not run as root, and its init knows no other user");
    }
    make_folder(folder)?;
    let mut archive = Archive::default();
    ["bin", "dev", "lower", "rw", "root"].iter().for_each(|name| archive.folder(name));
    archive.program("bin/busybox", &busybox);
    archive.program("init", script(process, ending, probe).as_bytes());
    let initrd = folder.join("initrd");
    fs::write(&initrd, archive.finish()).map_err(|error| Error::file("write", &initrd, error))?;
    let limit = workload.spec["linux"]["resources"]["memory"]["limit"].as_u64();
    Ok(Ok(Guest { machine, initrd, memory_mib: limit.map_or(MEMORY_MIB, |bytes| bytes >> 20) }))
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The init: joins the layers, makes what a container finds, runs the program and switches the machine off. `ending` is what its shell
/// does with the program's status. Devices may be found after the init has begun: on a
/// loaded host one in fifteen machines had no console yet, and nginx ended because it could not open its log there.
fn script(process: &Value, ending: &str, probe: &Probe) -> String {
    let words = |name: &str| {
        let words = process[name].as_array().into_iter().flatten().filter_map(Value::as_str);
        words.map(quoted).collect::<Vec<_>>().join(" ")
    };
    let folder = quoted(process["cwd"].as_str().unwrap_or("/"));
    format!(
        "#!/bin/busybox sh\n\
         B=/bin/busybox\n\
         $B mount -t devtmpfs dev /dev\n\
         until (: >/dev/console) 2>/dev/null; do $B usleep 500; done\n\
         exec </dev/console >/dev/console 2>&1\n\
         until [ -b /dev/vda ]; do $B usleep 500; done\n\
         $B mount -t erofs -o ro /dev/vda /lower\n\
         $B mount -t tmpfs tmpfs /rw\n\
         $B mkdir /rw/upper /rw/work\n\
         $B mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work overlay /root\n\
         $B mkdir -p /root/proc /root/sys /root/dev /root/tmp\n\
         $B mount -t proc proc /root/proc\n\
         $B mount -t sysfs sysfs /root/sys\n\
         $B mount -t devtmpfs dev /root/dev\n\
         $B ln -s /proc/self/fd /root/dev/fd\n\
         $B ln -s /proc/self/fd/1 /root/dev/stdout\n\
         $B ln -s /proc/self/fd/2 /root/dev/stderr\n\
         $B ifconfig lo 127.0.0.1 up\n\
         if {link}; then\n\
         until [ -e /root/sys/class/net/eth0 ]; do $B usleep 500; done\n\
         echo 1 >/root/proc/sys/net/ipv4/conf/eth0/arp_notify\n\
         $B ifconfig eth0 {GUEST} netmask 255.255.255.0 up\n\
         fi\n\
         cd /root\n\
         $B env -i {env} $B chroot /root {shell}{args}\n\
         {ending}\n\
         $B reboot -f\n",
        link = probe.port().is_some(),
        env = words("env"),
        args = words("args"),
        // Only a workdir that is not / needs a shell of the image's.
        shell = if folder == "'/'" {
            String::new()
        } else {
            format!("/bin/sh -c 'cd \"$0\" && exec \"$@\"' {folder} ")
        },
    )
}

/// The content of a program that needs no loader.
fn static_program(path: PathBuf) -> Option<Vec<u8>> {
    let bytes = fs::read(path).ok()?;
    // The loader's path (PT_INTERP) lies behind the program headers.
    let head = bytes.get(..4096)?;
    let is_dynamic = head.windows(8).any(|window| window == b"ld-linux");
    (!is_dynamic).then_some(bytes)
}

/// The process that a file names.
pub fn pid_in(file: &Path) -> Option<i32> {
    fs::read_to_string(file).ok()?.trim().parse().ok().filter(|pid| *pid > 0)
}

/// Whether a process is a machine of this measurement's, and not one that has its number by now.
pub fn is_ours(pid: i32, folder: &Path) -> bool {
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&command_line).contains(&*folder.to_string_lossy())
}

/// How long a killed machine may take to be gone.
const GONE: Duration = Duration::from_secs(10);

/// Kills a machine and waits until it is gone.
pub fn end(pid_file: &Path, folder: &Path) {
    let Some(pid) = pid_in(pid_file).filter(|pid| is_ours(*pid, folder)) else { return };
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    let deadline = Instant::now() + GONE;
    // A dead process has no command line.
    while is_ours(pid, folder) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Kills the machines of a killed measurement that had their files in `folder`.
pub fn clean_up(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "pid") {
            end(&entry.path(), folder);
        }
    }
}

/// The last lines of a console's file.
pub fn log(path: &Path) -> Vec<String> {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(10)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_init_waits_for_what_it_uses_and_announces_itself() {
        let process = serde_json::json!({ "args": ["nginx"], "env": ["A=b c"], "cwd": "/" });
        let text = script(&process, "true", &Probe::Tcp { port: 80 });
        let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part:?} is not in:\n{text}"));
        assert!(place("until (: >/dev/console)") < place("exec </dev/console"));
        assert!(place("until [ -b /dev/vda ]") < place("mount -t erofs"));
        assert!(place("if true; then") < place("until [ -e /root/sys/class/net/eth0 ]"));
        assert!(place("arp_notify") < place("ifconfig eth0"));
        // Without a link there is nothing to wait for.
        assert!(script(&process, "true", &Probe::Exit).contains("if false; then"));
    }
}
