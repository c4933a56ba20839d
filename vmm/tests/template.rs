//! The real guest kernel and init, recorded as a template and begun with again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod guest_support;

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, SystemTime};

use guest_support::{Guest, LIMIT, shell};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rkvm_guest_protocol::{GuestSetup, Own};
use rkvm_oci::ExitStatus;
use rkvm_vmm::hull::{Hull, Outline};
use rkvm_vmm::template::{self, Recorded, Template};
use rkvm_vmm::virtio::rng::Rng;
use rkvm_vmm::{End, Error, Host, HugePages, Image, VmConfig, builder};

/// Of [`Guest`]s, bytes.
const MEMORY: u64 = 128 << 20;
const KEY: &str = "the machine of these tests";

/// What each machine is asked, a line each.
const LOOK: &str = "cat /proc/sys/kernel/random/boot_id; cat /proc/sys/kernel/random/uuid; date +%s; nproc; cat /proc/uptime; \
                    cat /sys/devices/system/clocksource/clocksource0/current_clocksource; sleep 1.2; date +%s; \
                    md5sum </bin/busybox; basename $(readlink /sys/bus/virtio/devices/virtio0/driver)";

fn setup(script: &str, seed: u8, behind: i64) -> GuestSetup {
    let mut setup = guest_support::setup(shell(script));
    setup.own = Some(Own { behind, seed: vec![seed; 32] });
    setup
}

/// Boots a machine with `vcpus` and records it; the machine, which goes on, and the template.
fn record(vcpus: u8) -> Option<(Guest, File)> {
    let mut guest = Guest::begin(|config| {
        config.vcpus = vcpus;
        config.template = Template::Record;
    })?;
    let recording = guest.machine.recording().unwrap();
    let mut ready = [PollFd::new(recording.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut ready, PollTimeout::from(LIMIT.as_millis() as u16)), Ok(1));
    let snapshot = recording.snapshot().unwrap();
    let mut file = tempfile::tempfile().unwrap();
    template::write(&mut file, KEY, snapshot, MEMORY, std::process::id() as i32).unwrap();
    drop(recording);
    guest.main.greet(LIMIT).unwrap();
    Some((guest, file))
}

fn go_on(file: &File, vcpus: u8) -> Guest {
    let recorded = Recorded::open(file.try_clone().unwrap(), KEY).unwrap();
    Guest::boot_changed(|config| {
        config.vcpus = vcpus;
        config.template = Template::Use(Box::new(recorded));
    })
    .unwrap()
}

fn look(guest: Guest, seed: u8) -> Vec<String> {
    let behind = guest.machine.behind().unwrap_or(0);
    let run = guest.run_with(setup(LOOK, seed, behind), b"");
    assert_eq!((run.status, &run.end), (Ok(ExitStatus::Exited(0)), &End::PowerOff), "{}", run.stderr);
    run.stdout.lines().map(str::to_owned).collect()
}

fn seconds(text: &str) -> f64 {
    text.split(' ').next().unwrap().parse().unwrap()
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

#[test]
fn machines_go_on_from_a_template_each_as_one_of_its_own() {
    let begun = now();
    let Some((donor, file)) = record(1) else { return };
    let mut all = vec![look(donor, 1)];
    // An age that shows in whatever clock is not set right.
    std::thread::sleep(Duration::from_secs(2));
    // Two at once.
    let later = now();
    let (one, other) = (go_on(&file, 1), go_on(&file, 1));
    let other = std::thread::spawn(move || look(other, 3));
    all.push(look(one, 2));
    all.push(other.join().unwrap());
    let ended = now();
    for (lines, begun) in all.iter().zip([begun, later, later]) {
        let [_, _, before, processors, uptime, clock, after, digest, driver] = &lines[..] else {
            panic!("{lines:?}");
        };
        // The time is the host's, but for the part of a second that `date` leaves out.
        assert!(seconds(before) > begun - 1.0 && seconds(after) <= ended, "{begun} {lines:?} {ended}");
        assert!(seconds(after) - seconds(before) >= 1.0, "{lines:?}");
        assert!(seconds(uptime) < ended - begun + 30.0, "{lines:?}");
        assert_eq!(processors, "1");
        assert_ne!(clock, "kvm-clock", "the slower one");
        assert_eq!(digest, &all[0][7], "what the disk holds");
        // It is probed a second after the boot, so after the template.
        assert_eq!(driver, "virtio_rng");
    }
    for line in [0, 1] {
        let mut drawn: Vec<_> = all.iter().map(|lines| &lines[line]).collect();
        drawn.sort();
        drawn.dedup();
        assert_eq!(drawn.len(), 3, "the same random numbers: {all:?}");
    }
}

#[test]
fn further_processors_start_after_the_template() {
    let Some((donor, file)) = record(3) else { return };
    assert_eq!(look(donor, 1)[3], "3");
    for turn in 0..3 {
        assert_eq!(look(go_on(&file, 3), turn)[3], "3");
    }
}

#[test]
fn a_guest_that_nobody_records_goes_on() {
    let Some(mut guest) = Guest::begin(|config| config.template = Template::Record) else { return };
    drop(guest.machine.recording());
    guest.main.greet(LIMIT).unwrap();
    assert_eq!(look(guest, 1).len(), 9);
}

#[test]
fn a_machine_that_stands_still_can_be_stopped() {
    let Some(guest) = Guest::begin(|config| config.template = Template::Record) else { return };
    guest.machine.events().wait_marker(rkvm_guest_protocol::marker::TEMPLATE, LIMIT).unwrap();
    guest.machine.stop();
    assert_eq!(guest.machine.wait(Some(LIMIT)), End::Stopped);
}

#[test]
fn a_template_is_only_for_its_key_and_only_whole() {
    let Some((_donor, file)) = record(1) else { return };
    assert!(Recorded::open(file.try_clone().unwrap(), "another").is_err());
    let mut content = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut content, 0).unwrap();
    assert!(content.len() > 4 << 20, "{}", content.len());
    for rest in [content.len() - 1, content.len() / 2, 4096, 24, 1] {
        let cut = tempfile::tempfile().unwrap();
        cut.write_all_at(&content[..rest], 0).unwrap();
        assert!(Recorded::open(cut, KEY).is_err(), "{rest}");
    }
}

#[test]
fn a_hull_is_finished_with_as_many_devices_as_it_was_made_for() {
    let Ok(host) = Host::open() else { return };
    let outline = Outline {
        vcpus: 1,
        memory_mib: 32,
        huge_pages: HugePages::Transparent,
        devices: 2,
        template: Template::None,
    };
    let hull = Hull::lay(&host, outline).unwrap();
    assert!(hull.fits(2) && !hull.fits(1) && !hull.resumes());
    let mut config = VmConfig::new(Image::open("/proc/self/exe".as_ref()).unwrap());
    config.attach(Rng::new().unwrap());
    let error = builder::finish(&host, hull, config).unwrap_err();
    assert!(matches!(error, Error::Config { setting: "devices", value: 1, .. }), "{error}");
}
