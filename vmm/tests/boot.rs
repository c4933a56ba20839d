//! Boots hand-made guests of a few instructions: what the machine does before any kernel is involved.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::time::Duration;

use rkvm_vmm::{Console, End, Host, Image, VmConfig, build};

const LOAD_ADDRESS: u64 = 0x20_0000;

/// Whether guests can run here; says so where they cannot.
fn has_kvm() -> bool {
    let usable = Host::open();
    if let Err(error) = &usable {
        eprintln!("skipped: {error}");
    }
    usable.is_ok()
}

/// An ELF file with one segment of machine code, entered at its first byte.
fn elf(code: &[u8]) -> tempfile::NamedTempFile {
    const HEADERS: u64 = 64 + 56;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |file: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    let word = |file: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    let long = |file: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    half(&mut file, &[2, 62]); // executable, x86-64
    word(&mut file, &[1]);
    long(&mut file, &[LOAD_ADDRESS, 64, 0]); // entry, program headers, section headers
    word(&mut file, &[0]);
    half(&mut file, &[64, 56, 1, 0, 0, 0]);
    word(&mut file, &[1, 5]); // load, read and execute
    long(&mut file, &[HEADERS, LOAD_ADDRESS, LOAD_ADDRESS, code.len() as u64, code.len() as u64, 0x1000]);
    file.extend_from_slice(code);
    let mut out = tempfile::NamedTempFile::new().unwrap();
    out.write_all(&file).unwrap();
    out
}

fn config(code: &[u8], vcpus: u8) -> VmConfig {
    let mut config = VmConfig::new(Image::open(elf(code).path()).unwrap());
    (config.vcpus, config.memory_mib) = (vcpus, 32);
    config.console = Console::Unset;
    config
}

fn run(code: &[u8], vcpus: u8) -> (End, Vec<u8>, String) {
    let machine = build(&Host::open().unwrap(), config(code, vcpus)).unwrap();
    machine.start().unwrap();
    let end = machine.wait(Some(Duration::from_secs(20)));
    let markers = machine.markers();
    assert!(markers.windows(2).all(|pair| pair[0].at <= pair[1].at));
    (end, markers.iter().map(|marker| marker.value).collect(), machine.console_tail(10))
}

/// `mov dx, port; mov al, value; out dx, al`.
fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, value, 0xee]
}

#[test]
fn markers_are_stamped_and_power_off_ends_the_machine() {
    if !has_kvm() {
        return;
    }
    let code = [out(0x5b0, 7), out(0x5b0, 9), out(0x5b0, 0xff), vec![0xf4]].concat();
    assert_eq!(run(&code, 1), (End::PowerOff, vec![7, 9, 255], String::new()));
}

#[test]
fn console_output_is_kept_and_the_reset_line_ends_the_machine() {
    if !has_kvm() {
        return;
    }
    let code = [out(0x3f8, b'h'), out(0x3f8, b'i'), out(0x64, 0xfe), vec![0xf4]].concat();
    assert_eq!(run(&code, 2), (End::Reset, vec![], "hi".to_owned()));
}

#[test]
fn a_triple_fault_is_told_from_a_power_off() {
    if !has_kvm() {
        return;
    }
    // ud2 without an interrupt table.
    assert_eq!(run(&[0x0f, 0x0b], 1).0, End::TripleFault);
}

#[test]
fn a_guest_that_only_spins_is_stopped_in_time() {
    if !has_kvm() {
        return;
    }
    assert_eq!(run_limited(&[0xeb, 0xfe], Duration::from_millis(300)), End::TimedOut);
    // hlt with interrupts off: the vCPU sleeps inside KVM and must be kicked out of it.
    assert_eq!(run_limited(&[0xfa, 0xf4], Duration::from_millis(300)), End::TimedOut);
}

fn run_limited(code: &[u8], limit: Duration) -> End {
    let machine = build(&Host::open().unwrap(), config(code, 1)).unwrap();
    machine.start().unwrap();
    machine.wait(Some(limit))
}

#[test]
fn settings_out_of_range_and_files_that_are_no_kernel_are_named() {
    if !has_kvm() {
        return;
    }
    let host = Host::open().unwrap();
    let text = |change: &dyn Fn(&mut VmConfig)| {
        let mut config = config(&[0xf4], 1);
        change(&mut config);
        build(&host, config).unwrap_err().to_string()
    };
    assert!(text(&|c| c.vcpus = 0).contains("vcpus is 0"));
    assert!(text(&|c| c.memory_mib = 1).contains("memory (MiB) is 1"));
    assert!(text(&|c| c.cmdline = "x".repeat(5000)).contains("at most 2047"));
    let manifest: &std::path::Path = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").as_ref();
    assert!(text(&|c| c.kernel = Image::open(manifest).unwrap()).contains("is not a kernel"));
    let missing = Image::open("/nonexistent".as_ref()).unwrap_err().to_string();
    assert!(missing.contains("cannot read /nonexistent"));
}
