//! Boots of our VMM and of QEMU's microvm, interleaved: process start to the first byte of PID 1, with the same kernel and the same
//! initramfs. With `--run`, a whole `rkvm run` in between, from the command to its exit code, and boots of the initramfs that it uses.
//! `./x bench vm` runs it.
//!
//! Both machines get that byte at the same I/O port (QEMU: isa-debugcon) and pass it on to a pipe, where the clock stops. Our side is this
//! program itself, started anew for each boot with `machine` as its first argument.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark ends when anything is missing")]

#[path = "../../tests/support/mod.rs"]
mod support;

mod machine;
mod statistics;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rkvm_oci::timeline::MonotonicNs;
use statistics::{median, ratio};

const USAGE: &str = "options: --boots N (default 40), --cpus N[,N...] (default 1,2), --memory MIB (default 256), --kernel FILE, \
                     --cmdline WORDS (for both), --initrd FILE (default: an init of a few instructions), --ours (without QEMU), --run PROGRAM (an rkvm whose store has \
                     busybox)";
const CMDLINE: &str = "quiet reboot=t panic=-1 8250.nr_uarts=0";
const QEMU: &str = "qemu-system-x86_64";
/// What `--run` measures.
const RUN: [&str; 5] = ["run", "--rm", "--isolation=vm", "busybox", "true"];
/// Runs before the first that counts: one makes the template that the others begin with.
const WARM_UP: usize = 3;
/// Tearing a VM down costs the host a while, which is not to disturb the next boot.
const TEAR_DOWN: Duration = Duration::from_millis(20);

struct Options {
    boots: usize,
    cpus: Vec<u8>,
    memory_mib: u32,
    kernel: PathBuf,
    initrd: PathBuf,
    cmdline: String,
    with_qemu: bool,
    rkvm: Option<PathBuf>,
}

/// Whose turn it is.
#[derive(Clone, Copy)]
enum Turn {
    Ours,
    Qemu,
    /// What `rkvm run` boots.
    OursWhole,
    Run,
}

/// What one boot of ours says of itself, besides how long it took.
#[derive(Debug, Default)]
struct Report {
    lines: Vec<(String, f64)>,
}

fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|first| first == "machine").is_some() {
        return machine::run(&arguments.collect::<Vec<_>>());
    }
    let initrd = tempfile::NamedTempFile::new().unwrap();
    let mut options = options(arguments);
    let own_init = options.initrd.as_os_str().is_empty();
    for cpus in options.cpus.clone() {
        if own_init {
            let code =
                [support::mark(1), support::start_processors(cpus), support::mark(2), support::pause()];
            std::fs::write(initrd.path(), support::initramfs(&code.concat())).unwrap();
            options.initrd = initrd.path().into();
        }
        compare(&options, cpus);
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Options {
    let mut options = Options {
        boots: 40,
        cpus: vec![1, 2],
        memory_mib: 256,
        kernel: PathBuf::new(),
        initrd: PathBuf::new(),
        cmdline: CMDLINE.to_owned(),
        with_qemu: true,
        rkvm: None,
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect(USAGE);
        match argument.as_str() {
            "--boots" => options.boots = value().parse().expect(USAGE),
            "--cpus" => options.cpus = value().split(',').map(|text| text.parse().expect(USAGE)).collect(),
            "--memory" => options.memory_mib = value().parse().expect(USAGE),
            "--kernel" => options.kernel = value().into(),
            "--initrd" => options.initrd = value().into(),
            "--cmdline" => options.cmdline = format!("{CMDLINE} {}", value()),
            "--ours" => options.with_qemu = false,
            "--run" => options.rkvm = Some(value().into()),
            "--help" => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            // cargo bench adds this one.
            "--bench" => {}
            _ => panic!("unknown option {argument}; {USAGE}"),
        }
    }
    if options.kernel.as_os_str().is_empty() {
        options.kernel = support::kernel();
    }
    options
}

fn compare(options: &Options, cpus: u8) {
    let (mut ours, mut qemus, mut reports) = (Vec::new(), Vec::new(), Vec::new());
    let (mut wholes, mut runs) = (Vec::new(), Vec::new());
    // Its machines have one vCPU.
    let rkvm = options.rkvm.as_deref().filter(|_| cpus == 1);
    let mut turns = vec![Turn::Ours];
    turns.extend(options.with_qemu.then_some(Turn::Qemu));
    if let Some(rkvm) = rkvm {
        turns.extend([Turn::OursWhole, Turn::Run]);
        for _ in 0..WARM_UP {
            run(rkvm);
        }
    }
    for _ in 0..options.boots {
        turns.rotate_left(1);
        for turn in &turns {
            match turn {
                Turn::Ours => {
                    let (times, report) = boot_ours(options, &options.initrd, cpus);
                    ours.push(times);
                    reports.push(report);
                }
                Turn::Qemu => qemus.push(boot_qemu(options, cpus)),
                Turn::OursWhole => {
                    let initrd = rkvm.map(|rkvm| rkvm.with_file_name("guest").join("initramfs.cpio"));
                    wholes.extend(initrd.map(|initrd| boot_ours(options, &initrd, cpus).0.first));
                }
                Turn::Run => runs.extend(rkvm.map(run)),
            }
        }
    }
    let (boots, memory) = (options.boots, options.memory_mib);
    println!(
        "\n{boots} boots each, interleaved, {cpus} vCPU, {memory} MiB; from the start of the process, ms"
    );
    print_series("PID 1", &ours, &qemus, |times| Some(times.first));
    if cpus > 1 {
        print_series("every processor runs", &ours, &qemus, |times| times.second);
    }
    if !runs.is_empty() {
        let boots: Vec<f64> = ours.iter().map(|times| times.first).collect();
        println!("  PID 1 of the initramfs that rkvm uses:");
        println!("    rkvm   median {:6.1}   least {:6.1}", median(&wholes), least(&wholes));
        println!("  `rkvm {}`, from the command to its exit code:", RUN.join(" "));
        println!("    rkvm   median {:6.1}   least {:6.1}", median(&runs), least(&runs));
        let (middle, low, high) = ratio(&runs, &wholes);
        println!(
            "    ratio  {middle:.2} of that boot (95% interval {low:.2} to {high:.2}); aim: at most 2.00"
        );
        let (middle, low, high) = ratio(&runs, &boots);
        println!("    ratio  {middle:.2} of the boot to a few instructions ({low:.2} to {high:.2})");
    }
    println!("  medians of our boots:");
    for (name, _) in &reports[0].lines {
        let values: Vec<f64> = reports
            .iter()
            .flat_map(|report| report.lines.iter().filter(|line| line.0 == *name).map(|line| line.1))
            .collect();
        println!("    {name:<44} {:8.2}", median(&values));
    }
}

/// When the bytes of PID 1 came, milliseconds.
#[derive(Clone, Copy)]
struct Times {
    first: f64,
    second: Option<f64>,
}

fn print_series(what: &str, ours: &[Times], qemus: &[Times], of: impl Fn(&Times) -> Option<f64>) {
    let ours: Vec<f64> = ours.iter().filter_map(&of).collect();
    let qemus: Vec<f64> = qemus.iter().filter_map(&of).collect();
    if ours.is_empty() {
        return;
    }
    println!("  {what}:");
    println!("    rkvm   median {:6.1}   least {:6.1}", median(&ours), least(&ours));
    if !qemus.is_empty() {
        println!("    QEMU   median {:6.1}   least {:6.1}", median(&qemus), least(&qemus));
        let (middle, low, high) = ratio(&ours, &qemus);
        println!("    ratio  {middle:.2} (95% interval {low:.2} to {high:.2}); aim: at most 0.60");
    }
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Starts `command` and waits for the bytes of PID 1 on its output, a second one only where there are processors to start.
fn bytes_of_pid_1(command: &mut Command, cpus: u8) -> (Times, Child) {
    let begun = MonotonicNs::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut next = |wanted| {
        let mut byte = [0];
        let read = child.stdout.as_mut().unwrap().read_exact(&mut byte);
        if read.is_err() || byte != [wanted] {
            let _ = child.kill();
            panic!("{command:?} ended without byte {wanted} of PID 1: {:?}", child.wait());
        }
        (MonotonicNs::now().0 - begun.0) as f64 / 1e6
    };
    let first = next(1);
    let second = (cpus > 1).then(|| next(2));
    (Times { first, second }, child)
}

/// How long a whole start takes, milliseconds.
fn run(rkvm: &Path) -> f64 {
    let begun = MonotonicNs::now();
    let status = Command::new(rkvm).args(RUN).stdin(Stdio::null()).status().expect("rkvm starts");
    let time = (MonotonicNs::now().0 - begun.0) as f64 / 1e6;
    assert!(status.success(), "{}: {status}", RUN.join(" "));
    // The machine and its link are taken apart by a process that nobody waits for.
    std::thread::sleep(2 * TEAR_DOWN);
    time
}

fn boot_ours(options: &Options, initrd: &Path, cpus: u8) -> (Times, Report) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .arg("machine")
        .args([options.kernel.as_path(), initrd])
        .args([cpus.to_string(), options.memory_mib.to_string(), options.cmdline.clone()])
        .arg(MonotonicNs::now().0.to_string());
    let (times, mut child) = bytes_of_pid_1(&mut command, cpus);
    let mut report = Report::default();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let (name, value) = line.rsplit_once(' ').expect("a name and a number");
        report.lines.push((name.to_owned(), value.parse().expect("a number")));
    }
    assert!(child.wait().unwrap().success());
    (times, report)
}

/// QEMU takes over a processor's capability register where KVM offers one, and gives up where KVM does not let it be set: on a PVM host with
/// an AMD processor, which has no such register.
fn qemu_cpu() -> &'static str {
    match std::fs::read_to_string("/proc/cpuinfo").unwrap().contains("GenuineIntel") {
        true => "host,migratable=off,+invtsc",
        false => "host,migratable=off,+invtsc,-arch-capabilities",
    }
}

fn boot_qemu(options: &Options, cpus: u8) -> Times {
    let mut command = Command::new(QEMU);
    command
        .args(["-M", "microvm,acpi=off,pit=off,pic=off,rtc=off,isa-serial=off", "-accel", "kvm"])
        .args(["-cpu", qemu_cpu(), "-smp", &cpus.to_string()])
        .args(["-m", &options.memory_mib.to_string(), "-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-no-reboot", "-chardev", "stdio,id=port,signal=off"])
        .args(["-device", "isa-debugcon,iobase=0x5b0,chardev=port"])
        .arg("-kernel")
        .arg(&options.kernel)
        .arg("-initrd")
        .arg(&options.initrd)
        .args(["-append", &options.cmdline]);
    let (times, mut child) = bytes_of_pid_1(&mut command, cpus);
    child.kill().unwrap();
    child.wait().unwrap();
    std::thread::sleep(TEAR_DOWN);
    times
}
