//! Boots hand-made guests of a few instructions: what the machine does before any kernel is involved.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::time::Duration;

use rkvm_vmm::{End, Host, VmConfig, build};

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

fn run(code: &[u8], vcpus: u8) -> (End, Vec<u8>, String) {
    let kernel = elf(code);
    let config = VmConfig {
        kernel: kernel.path().into(),
        initrd: None,
        cmdline: String::new(),
        disks: vec![],
        vsock: None,
        vcpus,
        memory_mib: 32,
    };
    let mut machine = build(&Host::open().unwrap(), &config, None).unwrap();
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
    let kernel = elf(code);
    let config = VmConfig {
        kernel: kernel.path().into(),
        initrd: None,
        cmdline: String::new(),
        disks: vec![],
        vsock: None,
        vcpus: 1,
        memory_mib: 32,
    };
    let mut machine = build(&Host::open().unwrap(), &config, None).unwrap();
    machine.start().unwrap();
    machine.wait(Some(limit))
}

#[test]
fn settings_out_of_range_and_files_that_are_no_kernel_are_named() {
    if !has_kvm() {
        return;
    }
    let kernel = elf(&[0xf4]);
    let config = |kernel: &std::path::Path, vcpus, memory_mib| VmConfig {
        kernel: kernel.into(),
        initrd: None,
        cmdline: String::new(),
        disks: vec![],
        vsock: None,
        vcpus,
        memory_mib,
    };
    let host = Host::open().unwrap();
    let text = |config: &VmConfig| build(&host, config, None).unwrap_err().to_string();
    assert!(text(&config(kernel.path(), 0, 32)).contains("vcpus is 0"));
    assert!(text(&config(kernel.path(), 1, 1)).contains("memory (MiB) is 1"));
    assert!(text(&config("/nonexistent".as_ref(), 1, 32)).contains("cannot read /nonexistent"));
    assert!(
        text(&config(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").as_ref(), 1, 32))
            .contains("is not a kernel")
    );
    let long = VmConfig { cmdline: "x".repeat(5000), ..config(kernel.path(), 1, 32) };
    assert!(text(&long).contains("at most 2047"), "{}", text(&long));
}
