//! Boots hand-made guests of a few instructions: what the machine does before any kernel is involved.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use rkvm_vmm::virtio::{block::Block, rng::Rng};
use rkvm_vmm::{Access, Console, End, Host, Image, VmConfig, build};

const LOAD_ADDRESS: u64 = 0x20_0000;

fn config(code: &[u8], vcpus: u8) -> VmConfig {
    let mut config = VmConfig::new(support::image("guest", &support::elf(LOAD_ADDRESS, code, 0)));
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
    let code = [out(0x5b0, 7), out(0x5b0, 9), out(0x5b0, 0xff), vec![0xf4]].concat();
    assert_eq!(run(&code, 1), (End::PowerOff, vec![7, 9, 255], String::new()));
}

#[test]
fn console_output_is_kept_and_the_reset_line_ends_the_machine() {
    let code = [out(0x3f8, b'h'), out(0x3f8, b'i'), out(0x64, 0xfe), vec![0xf4]].concat();
    assert_eq!(run(&code, 2), (End::Reset, vec![], "hi".to_owned()));
}

#[test]
fn a_triple_fault_is_told_from_a_power_off() {
    // ud2 without an interrupt table.
    assert_eq!(run(&[0x0f, 0x0b], 1).0, End::TripleFault);
}

#[test]
fn a_guest_that_only_spins_is_stopped_in_time() {
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

/// Code that maps the 2 MiB of device windows where they are, through a page directory in low memory, and leaves their address in rdi.
fn map_windows() -> Vec<u8> {
    let mut code = Vec::new();
    // PDPT entry 3 -> directory at 0x3000; its entry 0x80 -> 0xd0000000, a large page.
    for (at, value) in [(0xa018_u32, 0x3007_u64), (0x3000 + 8 * 0x80, 0xd000_0087)] {
        code.extend([0x48, 0xb8]);
        code.extend(value.to_le_bytes());
        code.extend([0x48, 0x89, 0x04, 0x25]);
        code.extend(at.to_le_bytes());
    }
    // CR4.OSFXSR, for 16-byte accesses.
    code.extend([0x0f, 0x20, 0xe0, 0x0d, 0, 0x02, 0, 0, 0x0f, 0x22, 0xe0]);
    code.extend([0xbf, 0, 0, 0, 0xd0]);
    code
}

#[test]
fn accesses_of_every_size_and_alignment_to_devices_do_no_harm() {
    let writes: [&[u8]; 5] =
        [&[0x88, 0x87], &[0x66, 0x89, 0x87], &[0x89, 0x87], &[0x48, 0x89, 0x87], &[0x0f, 0x11, 0x87]];
    let reads: [&[u8]; 5] =
        [&[0x8a, 0x87], &[0x66, 0x8b, 0x87], &[0x8b, 0x87], &[0x48, 0x8b, 0x87], &[0x0f, 0x10, 0x87]];
    let mut code = map_windows();
    let (mut value, mut accesses) = (1_u32, 0);
    // Both windows, what lies between their registers and the window's end, and the empty space behind them.
    let offsets = (0..0x120).chain(0xff0..0x1120).chain(0x1ff0..0x2010).chain([0x1f_ffe0]);
    for offset in offsets {
        for access in writes.iter().chain(&reads) {
            value = value.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            code.push(0xb8); // mov eax, value: often a small one, which is a legal index or status
            code.extend((if value & 0x100 == 0 { value >> 28 } else { value }).to_le_bytes());
            code.extend(*access);
            code.extend(i32::to_le_bytes(offset));
            accesses += 1;
        }
    }
    code.extend(out(0x5b0, 7));
    code.extend(out(0x5b0, 0xff));
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 20).unwrap();
    let mut config = config(&code, 1);
    config.attach(Rng::new().unwrap());
    config.attach(Block::open(disk.path(), Access::ReadWrite, "disk").unwrap());
    let machine = build(&Host::open().unwrap(), config).unwrap();
    machine.start().unwrap();
    assert_eq!(machine.wait(Some(Duration::from_secs(60))), End::PowerOff);
    let counts = machine.exit_counts();
    let each = accesses / 2;
    assert!(counts["device write"] >= each * 9 / 10, "{counts:?} of {accesses}");
    // Registers are read without an exit; behind the last window there is nothing to be shown.
    assert!((1..each / 10).contains(&counts["device read"]), "{counts:?} of {accesses}");
}

#[test]
fn every_port_in_every_width_does_no_harm() {
    let mut code = Vec::new();
    // Ports of the machine and their neighbours; a string instruction with a count as well.
    for port in (0x60..0x66).chain(0x3f6..0x402).chain(0x5ae..0x5b4).chain([0, 0xcf8, 0xffff]) {
        for access in [&[0xec][..], &[0x66, 0xed], &[0xed], &[0xee], &[0x66, 0xef], &[0xef]] {
            if access == [0xee] && (port == 0x64 || port == 0x5b0) {
                continue;
            }
            code.extend([0x66, 0xba]);
            code.extend((port as u16).to_le_bytes());
            code.extend([0xb8, 0xfe, 0, 0, 0]);
            code.extend(access);
        }
        for string in [&[0xf3, 0x6c][..], &[0xf3, 0x66, 0x6d], &[0xf3, 0x6d]] {
            code.extend([0xb9, 100, 0, 0, 0, 0xbf, 0, 0, 0x30, 0]); // ecx = 100, edi = 0x300000
            code.extend(string);
        }
    }
    code.extend(out(0x5b0, 7));
    code.extend(out(0x5b0, 0xff));
    let (end, markers, _) = run(&code, 1);
    assert_eq!((end, markers), (End::PowerOff, vec![7, 255]));
}

#[test]
fn a_guest_that_marks_without_end_fills_no_memory() {
    let code = [out(0x5b0, 7), vec![0xeb, 0xf7]].concat();
    let machine = build(&Host::open().unwrap(), config(&code, 1)).unwrap();
    machine.start().unwrap();
    let begun = std::time::Instant::now();
    while machine.exit_counts().get("marker port").copied().unwrap_or(0) <= 100 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", machine.exit_counts());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(machine.wait(Some(Duration::from_millis(1))), End::TimedOut);
    assert_eq!(machine.markers().len(), 64);
}
