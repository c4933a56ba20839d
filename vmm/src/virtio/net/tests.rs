//! The device over a pair of datagram sockets, which keep packets apart as a tap does and need no privilege.

use std::os::unix::net::UnixDatagram;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::over_socket::OverSocket;
use crate::virtio::FEATURE_EVENT_IDX;
use crate::virtio::testing::devices::PACKETS;
use crate::virtio::testing::hostile;
use crate::virtio::testing::{BUFFERS, Buffer, HIGH_START, Rig, Ring};

const RX: usize = 0;
const TX: usize = 1;
const HEADER: usize = super::sys::HEADER_BYTES;

fn send(rig: &Rig, rings: &mut [Ring], host: &UnixDatagram) {
    let packet: Vec<u8> = (0..100_u8).collect();
    rig.memory.write_slice(&packet, GuestAddress(BUFFERS)).unwrap();
    let parts = [Buffer::Readable(BUFFERS, 12), Buffer::Readable(BUFFERS + 12, 88)];
    let head = rings[TX].add(&rig.memory, &parts);
    assert_eq!(rig.exchange(TX, &mut rings[TX]), (head, 0));
    let mut got = [0; 200];
    assert_eq!(host.recv(&mut got).unwrap(), 100);
    assert_eq!(got[..100], packet[..]);
}

#[test]
fn hostile_driver() {
    let (device, host) = OverSocket::pair();
    host.set_nonblocking(true).unwrap();
    hostile::run(device, PACKETS, move |rig| {
        // Packets that came while nobody took any, both ways.
        while host.recv(&mut [0; 16]).is_ok() {}
        let mut rings = rig.start(u64::MAX, 64);
        host.set_nonblocking(false).unwrap();
        send(rig, &mut rings, &host);
        host.set_nonblocking(true).unwrap();
        (0..32).for_each(|_| drop(host.send(&[7; 600])));
    });
}

/// Takes one packet off the receive queue: header and data, put together from its buffers.
fn receive(rig: &Rig, ring: &mut Ring, places: &[(u16, u64)]) -> Vec<u8> {
    let mut packet = Vec::new();
    let mut count = 1;
    while count > 0 {
        let (head, bytes) = rig.wait_used(ring);
        let (_, place) = places.iter().find(|(of, _)| *of == head).unwrap();
        let mut part = vec![0; bytes as usize];
        rig.memory.read_slice(&mut part, GuestAddress(*place)).unwrap();
        if packet.is_empty() {
            count = u16::from_le_bytes([part[10], part[11]]);
        }
        packet.extend(part);
        count -= 1;
    }
    packet
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Packets of any size arrive whole and in order, in buffers of any size.
    #[test]
    fn packets_are_put_together_from_buffers(
        buffer in 300_u32..5000,
        sizes in prop::collection::vec(HEADER..20_000, 1..12),
    ) {
        let (device, host) = OverSocket::pair();
        let mut rig = Rig::new(device);
        let mut rings = rig.start(u64::MAX, 128);
        let mut place = BUFFERS;
        let mut places = Vec::new();
        for _ in 0..128 {
            if place + u64::from(buffer) > 0xf_0000 {
                place = HIGH_START;
            }
            places.push((rings[RX].add(&rig.memory, &[Buffer::Writable(place, buffer)]), place));
            place += u64::from(buffer);
        }
        rig.notify(RX);
        let mut next = 0;
        for (index, size) in sizes.iter().enumerate() {
            // What a ring of such buffers holds at most.
            let size = &(*size).min(128 * buffer as usize);
            let packet: Vec<u8> = (0..*size).map(|at| (at ^ at >> 8) as u8 ^ index as u8).collect();
            host.send(&packet).unwrap();
            let got = receive(&rig, &mut rings[RX], &places);
            // The buffers are used in their order, so the next descriptors are theirs again.
            for _ in 0..size.div_ceil(buffer as usize) {
                let (head, place) = places[next % places.len()];
                prop_assert_eq!(rings[RX].add(&rig.memory, &[Buffer::Writable(place, buffer)]), head);
                next += 1;
            }
            rig.notify(RX);
            prop_assert_eq!(got.len(), *size);
            // `num_buffers` is the device's.
            prop_assert_eq!(&got[..10], &packet[..10]);
            prop_assert_eq!(&got[HEADER..], &packet[HEADER..]);
            prop_assert_eq!(
                usize::from(u16::from_le_bytes([got[10], got[11]])),
                size.div_ceil(buffer as usize)
            );
        }
    }
}

#[test]
fn a_packet_waits_for_buffers_that_hold_any() {
    let (device, host) = OverSocket::pair();
    let mut rig = Rig::new(device);
    let mut rings = rig.start(u64::MAX, 256);
    host.send(&[9; 5000]).unwrap();
    let first = rings[RX].add(&rig.memory, &[Buffer::Writable(BUFFERS, 2048)]);
    rig.notify(RX);
    rig.settle();
    assert_eq!(rings[RX].take_used(&rig.memory), None);
    let places: Vec<_> = (1..40_u64)
        .map(|index| BUFFERS + index * 2048)
        .map(|at| (rings[RX].add(&rig.memory, &[Buffer::Writable(at, 2048)]), at))
        .chain([(first, BUFFERS)])
        .collect();
    rig.notify(RX);
    assert_eq!(receive(&rig, &mut rings[RX], &places).len(), 5000);
}

#[test]
fn a_flood_of_packets_from_either_side_leaves_the_other_its_turn() {
    let (device, host) = OverSocket::pair();
    let mut rig = Rig::new(device);
    let mut rings = rig.start(1 << 32 | FEATURE_EVENT_IDX, 64);
    host.set_nonblocking(true).unwrap();
    while host.send(&[1; 100]).is_ok() {}
    host.set_nonblocking(false).unwrap();
    send(&rig, &mut rings, &host);
}
