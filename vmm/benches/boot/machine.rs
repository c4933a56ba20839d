//! One boot of ours, in a process of its own.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use rkvm_oci::timeline::MonotonicNs;
use rkvm_vmm::{Console, Host, Image, Processors, VmConfig, build};

const LIMIT: Duration = Duration::from_secs(60);

/// `KERNEL INITRD CPUS MIB CMDLINE BEGUN`: boots, writes a byte when PID 1 runs, then lines of a name and a number.
pub fn run(arguments: &[String]) {
    let main = MonotonicNs::now();
    let [kernel, initrd, cpus, memory_mib, cmdline, begun] = arguments else { panic!("wrong arguments") };
    let mut config = VmConfig::new(Image::open(Path::new(kernel)).unwrap());
    config.initrd = Some(Image::open(Path::new(initrd)).unwrap());
    (config.vcpus, config.memory_mib) = (cpus.parse().unwrap(), memory_mib.parse().unwrap());
    config.processors = Processors::ByInit;
    config.console = Console::Emergency;
    config.cmdline.clone_from(cmdline);
    let vcpus = config.vcpus;
    let machine = build(&Host::open().unwrap(), config).unwrap_or_else(|error| panic!("{error}"));
    let built = MonotonicNs::now();
    machine.start().unwrap();
    let Ok(marked) = machine.events().wait_marker(1, LIMIT) else {
        panic!("no boot: {:?}\n{}", machine.events().ended(), machine.console_tail(20))
    };
    let mut out = std::io::stdout().lock();
    out.write_all(&[1]).and_then(|()| out.flush()).unwrap();
    if vcpus > 1 && machine.events().wait_marker(2, LIMIT).is_ok() {
        out.write_all(&[2]).and_then(|()| out.flush()).unwrap();
    }

    let entered = machine.events().entered().unwrap();
    let ms = |from: MonotonicNs, to: MonotonicNs| (to.0 - from.0) as f64 / 1e6;
    let begun = MonotonicNs(begun.parse().unwrap());
    let mut line = |name: &str, value: f64| writeln!(out, "{name} {value}").unwrap();
    line("process start to main, ms", ms(begun, main));
    line("machine built, ms", ms(main, built));
    line("threads up, ms", ms(built, entered));
    line("guest kernel to PID 1, ms", ms(entered, marked));
    line("processor time of all threads, ms", processor_ms());
    line("private memory beside the guest's RAM, KiB", private_kib(memory_mib.parse().unwrap()));
    for (reason, count) in machine.exit_counts() {
        line(&format!("exits: {reason}"), count as f64);
    }
    drop(out);
    // The VM is torn down by the kernel after this.
    std::process::exit(0);
}

/// KiB of this process that no other shares, without the mapping that is the guest's RAM.
fn private_kib(memory_mib: u64) -> f64 {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut size, mut sum) = (0, 0);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(Ok(value))) = (words.next(), words.next().map(str::parse::<u64>)) else {
            continue;
        };
        match name {
            "Size:" => size = value,
            "Private_Clean:" | "Private_Dirty:" if size < memory_mib << 10 => sum += value,
            _ => {}
        }
    }
    sum as f64
}

/// Processor time of this process's threads so far (schedstat: nanoseconds on a processor, waiting, slices).
fn processor_ms() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let nanoseconds = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e6
}
