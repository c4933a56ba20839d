//! Devices with the real guest kernel: network both ways, a disk that is written, a balloon that is filled.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    dead_code,
    reason = "a test fails by panicking; the support is shared"
)]

#[path = "../guest_support/mod.rs"]
mod guest_support;
mod sys;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use guest_support::{Guest, LIMIT, shell};
use rkvm_oci::ExitStatus;
use rkvm_vmm::Access;
use rkvm_vmm::virtio::balloon::{Balloon, Offers};
use rkvm_vmm::virtio::block::Block;
use rkvm_vmm::virtio::net::{Net, open_tap};
use serde_json::{Value, json};

/// A script with the rights to set a link up and to make device nodes.
fn privileged(script: &str) -> Value {
    let mut spec = shell(script);
    let wanted = json!(["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_MKNOD", "CAP_SYS_ADMIN"]);
    spec["process"]["capabilities"] = json!({"bounding": wanted, "effective": wanted, "permitted": wanted});
    spec["linux"]["resources"] = json!({"devices": [{"allow": true, "access": "rwm"}]});
    spec
}

fn sequence() -> Vec<u8> {
    (1..=300_000).flat_map(|number: u32| format!("{number}\n").into_bytes()).collect()
}

#[test]
fn packets_and_streams_cross_both_ways() {
    sys::leave_network();
    let Ok(tap) = open_tap("tap0") else {
        eprintln!("skipped: no taps here");
        return;
    };
    for words in ["addr add 10.78.0.1/24 dev tap0", "link set tap0 up"] {
        assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success());
    }
    let listener = TcpListener::bind("10.78.0.1:5000").unwrap();
    let net = Net::new(tap, [2, 0, 0, 0, 0, 9]).unwrap();
    let Some(guest) = Guest::boot_changed(|config| config.attach(net)) else { return };
    // Threads are born into the namespace of the thread that makes them.
    let host = std::thread::spawn(move || {
        let all = sequence();
        let mut stream = listener.accept().unwrap().0;
        let mut got = vec![0; all.len()];
        stream.read_exact(&mut got).unwrap();
        assert!(got == all, "the guest's bytes arrived changed");
        stream.write_all(&all).unwrap();
        drop(stream);
        let begun = Instant::now();
        let mut stream = loop {
            match TcpStream::connect("10.78.0.2:6000") {
                Ok(stream) => break stream,
                Err(error) => assert!(begun.elapsed() < LIMIT, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        stream.write_all(&all).unwrap();
    });
    let run = guest.run(privileged(
        "ip addr add 10.78.0.2/24 dev eth0; ip link set eth0 up; cat /sys/class/net/eth0/address
        ping -c 2 10.78.0.1 | grep -c 'bytes from'
        seq 300000 | nc 10.78.0.1 5000 | cmp - /proc/self/fd/3 3<<END && echo same
$(seq 300000)
END
        nc -l -p 6000 | md5sum; seq 300000 | md5sum",
    ));
    assert_eq!(run.status, Ok(ExitStatus::Exited(0)), "{}{}", run.stdout, run.stderr);
    let lines: Vec<_> = run.stdout.lines().collect();
    assert_eq!(lines[..3], ["02:00:00:00:00:09", "2", "same"], "{}{}", run.stdout, run.stderr);
    assert_eq!(lines[3], lines[4]);
    host.join().unwrap();
}

#[test]
fn a_disk_is_written_flushed_and_discarded() {
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(8 << 20).unwrap();
    let block = Block::open(disk.path(), Access::ReadWrite, "scratch").unwrap();
    let Some(guest) = Guest::boot_changed(|config| config.attach(block)) else { return };
    let run = guest.run(privileged(
        "mknod /dev/scratch b 254 16 && cat /sys/block/vdb/serial && echo
        seq 300000 | dd of=/dev/scratch bs=64k conv=fsync,notrunc 2>/dev/null
        dd if=/dev/scratch bs=4k iflag=direct 2>/dev/null | head -c 1988895 | md5sum; seq 300000 | md5sum
        blkdiscard -o 0 -l 4096 /dev/scratch && echo discarded",
    ));
    assert_eq!(run.status, Ok(ExitStatus::Exited(0)), "{}{}", run.stdout, run.stderr);
    let lines: Vec<_> = run.stdout.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!([lines[0], lines[3]], ["scratch", "discarded"], "{}{}", run.stdout, run.stderr);
    assert_eq!(lines[1], lines[2]);
    let content = std::fs::read(disk.path()).unwrap();
    let all = sequence();
    assert!(content[..4096].iter().all(|byte| *byte == 0));
    assert!(content[4096..all.len()] == all[4096..]);
}

#[test]
fn a_balloon_takes_what_it_is_told_to() {
    const TARGET: u64 = 16 << 20;
    let balloon = Balloon::new(Offers::All).unwrap();
    let control = balloon.control();
    let Some(guest) = Guest::boot_changed(|config| config.attach(balloon)) else { return };
    control.set_target(TARGET);
    let begun = Instant::now();
    while control.given_up() < TARGET || control.statistics().total.is_none() {
        control.want_statistics();
        assert!(begun.elapsed() < LIMIT, "{} {:?}", control.given_up(), control.statistics());
        std::thread::sleep(Duration::from_millis(20));
    }
    let run = guest.run(shell("echo alive"));
    assert_eq!(run.stdout, "alive\n");
}
