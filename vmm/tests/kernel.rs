//! Boots the real guest kernel: as many processors as asked for, each way to end, pause.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use rkvm_vmm::{Console, End, Host, Image, Microvm, Processors, VmConfig, build};

const LIMIT: Duration = Duration::from_secs(60);

fn machine(code: &[u8], change: impl FnOnce(&mut VmConfig)) -> Microvm {
    let mut config = VmConfig::new(Image::open(&support::kernel()).unwrap());
    config.initrd = Some(support::image("initramfs", &support::initramfs(code)));
    change(&mut config);
    let machine = build(&Host::open().unwrap(), config).unwrap();
    machine.start().unwrap();
    machine
}

#[test]
fn every_processor_runs() {
    for vcpus in [1, 2, 4] {
        let code = [support::mark_processors(0x40), support::mark(0xff), support::pause()].concat();
        let machine = machine(&code, |config| config.vcpus = vcpus);
        assert_eq!(machine.wait(Some(LIMIT)), End::PowerOff, "{}", machine.console_tail(20));
        let values: Vec<u8> = machine.markers().iter().map(|marker| marker.value).collect();
        assert_eq!(values, [0x40 + vcpus, 0xff]);
        assert!(machine.events().entered().unwrap() < machine.markers()[0].at);
    }
}

#[test]
fn init_can_start_the_processors_itself() {
    let code = [
        support::mark_processors(0x40),
        support::start_processors(3),
        support::mark_processors(0x40),
        support::mark(0xff),
        support::pause(),
    ];
    let machine = machine(&code.concat(), |config| {
        (config.vcpus, config.processors) = (3, Processors::ByInit);
    });
    assert_eq!(machine.wait(Some(LIMIT)), End::PowerOff, "{}", machine.console_tail(20));
    let values: Vec<u8> = machine.markers().iter().map(|marker| marker.value).collect();
    assert_eq!(values, [0x41, 0x43, 0xff]);
}

#[test]
fn a_panic_is_told_with_its_message_and_from_a_reboot() {
    let panicked = machine(&[support::mark(1), support::exit(3)].concat(), |_| {});
    let end = panicked.wait(Some(LIMIT));
    assert!(matches!(&end, End::Panic(text) if text.contains("Attempted to kill init")), "{end:?}");
    assert!(panicked.console_tail(20).contains("Kernel panic"), "{}", panicked.console_tail(20));

    let rebooted = machine(&[support::mark(1), support::reboot()].concat(), |_| {});
    let end = rebooted.wait(Some(LIMIT));
    assert!(matches!(end, End::TripleFault | End::Reset), "{end:?}");
}

#[test]
fn a_boot_that_hangs_is_noticed() {
    let machine = machine(&support::spin(), |_| {});
    assert_eq!(machine.events().wait_marker(1, Duration::from_millis(700)), Err(End::TimedOut));
    assert_eq!(machine.events().ended(), None);
    machine.stop();
    assert_eq!(machine.events().ended(), Some(End::Stopped));
}

#[test]
fn a_paused_machine_stands_still_and_goes_on() {
    // Marks without end, so that standing still shows.
    let mut code = support::mark(1);
    code.extend([0xeb, (-(code.len() as i8) - 2) as u8]);
    for vcpus in [1, 2] {
        let machine = machine(&code, |config| config.vcpus = vcpus);
        machine.events().wait_marker(1, LIMIT).unwrap();
        let exits = || machine.exit_counts().get("marker port").copied().unwrap_or(0);
        for _ in 0..20 {
            machine.pause().unwrap();
            let before = exits();
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(exits(), before, "a paused machine ran");
            machine.resume();
            let until = std::time::Instant::now() + LIMIT;
            while exits() == before {
                assert!(std::time::Instant::now() < until, "a resumed machine does not run");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        machine.pause().unwrap();
        machine.stop();
        assert_eq!(machine.events().ended(), Some(End::Stopped));
    }
}

#[test]
fn a_thread_that_cannot_be_confined_ends_the_machine() {
    let mut config = VmConfig::new(Image::open(&support::kernel()).unwrap());
    config.console = Console::Unset;
    let machine = build(&Host::open().unwrap(), config).unwrap();
    machine.start_with(|kind| Err(std::io::Error::other(format!("no filter for {kind:?}")))).unwrap();
    let end = machine.wait(Some(LIMIT));
    assert!(matches!(&end, End::Device(text) if text.contains("no filter for")), "{end:?}");
}

#[test]
fn too_little_memory_is_named() {
    let mut config = VmConfig::new(Image::open(&support::kernel()).unwrap());
    config.memory_mib = 32;
    config.initrd = Some(support::image("initramfs", &vec![0; 20 << 20]));
    let error = build(&Host::open().unwrap(), config).unwrap_err().to_string();
    assert!(error.contains("the initramfs (20971520 bytes) does not fit in 32 MiB"), "{error}");
    assert!(error.contains("--memory"));
}

#[test]
fn a_guest_that_runs_out_of_memory_says_so() {
    // Writes over and over to new memory: mmap 1 GiB and touch it. Init cannot be killed, so the kernel panics.
    let mut code = vec![0x31, 0xff, 0xbe, 0, 0, 0, 0x40, 0xba, 3, 0, 0, 0, 0x41, 0xba, 0x22, 0x40, 0, 0];
    code.extend([0x49, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff, 0x45, 0x31, 0xc9]); // r8 = -1, r9 = 0
    code.extend(support::syscall(9));
    code.extend([0xc6, 0x00, 1, 0x48, 0x05, 0, 0x10, 0, 0, 0xeb, 0xf5]); // touch a page, next
    let machine = machine(&code, |config| config.memory_mib = 64);
    let end = machine.wait(Some(LIMIT));
    assert!(matches!(end, End::OutOfMemory(_)), "{end:?}: {}", machine.console_tail(20));
}
