//! The hot paths of a microVM below its lifecycle: virtqueues, block requests, socket packets, the guest protocol. Each device is
//! driven by a driver of a few lines in the same process, so that no guest's speed is in the figures. Groups are named
//! `what/backend/size`.

// A benchmark that cannot measure has nothing else to do than to stop and say why.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ring;

use std::hint::black_box;
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use event_manager::{EventManager, SubscriberOps};
use rkvm_guest_protocol::{FrameReader, ToHost};
use rkvm_vmm::virtio::block::{Access, Block};
use rkvm_vmm::virtio::queue::VirtQueue;
use rkvm_vmm::virtio::vsock::Vsock;
use rkvm_vmm::virtio::{Activation, Handler, Interrupt, VirtioDevice};
use rkvm_vmm::vm::ThreadSetup;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use ring::{Buffer, Ring, memory};

/// Where the driver's buffers are.
const BUFFERS: u64 = 0x10_0000;

fn event() -> EventFd {
    EventFd::new(0).unwrap()
}

/// Taking chains and giving them back, without a device behind.
fn virtqueue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("virtqueue");
    let memory = memory();
    for chains in [1_u16, 64] {
        let mut ring = Ring::new(0, 128);
        let interrupt = Interrupt::alone(event()).unwrap();
        let mut queue = VirtQueue::new((ring.queue(), event()), &interrupt);
        group.throughput(Throughput::Elements(chains.into()));
        group.bench_function(BenchmarkId::new("vm", format!("{chains}-chains")), |bencher| {
            bencher.iter(|| {
                for _ in 0..chains {
                    ring.add(&memory, &[Buffer::Readable(BUFFERS, 64), Buffer::Writable(BUFFERS + 64, 64)]);
                }
                while let Some(chain) = queue.pop(&memory) {
                    queue.add_used(&memory, chain.head_index(), 64);
                }
                queue.interrupt(&memory);
            });
        });
    }
}

/// A device whose handler is served by a thread, as in a machine.
struct Served {
    memory: rkvm_vmm::memory::GuestMemory,
    rings: Vec<Ring>,
    notifiers: Vec<EventFd>,
    line: EventFd,
}

impl Served {
    fn new(mut device: impl VirtioDevice + 'static) -> Self {
        let memory = memory();
        let line = event();
        let rings: Vec<Ring> =
            device.queue_sizes().iter().enumerate().map(|(index, size)| Ring::new(index, *size)).collect();
        let notifiers: Vec<EventFd> = rings.iter().map(|_| event()).collect();
        let queues =
            rings.iter().zip(&notifiers).map(|(ring, fd)| (ring.queue(), fd.try_clone().unwrap())).collect();
        device.start(&ThreadSetup::unconfined().unwrap()).unwrap();
        let features = device.features() & 1 << 32;
        let handler = device
            .activate(Activation {
                memory: memory.clone(),
                interrupt: Interrupt::alone(line.try_clone().unwrap()).unwrap(),
                queues,
                features,
            })
            .unwrap();
        thread::spawn(move || {
            let mut manager = EventManager::<Handler>::new().unwrap();
            manager.add_subscriber(handler);
            let _device = device;
            loop {
                manager.run().unwrap();
            }
        });
        Self { memory, rings, notifiers, line }
    }

    /// Makes a chain available, notifies, and waits until it has been used.
    fn serve(&mut self, queue: usize, buffers: &[Buffer]) {
        self.rings[queue].add(&self.memory, buffers);
        self.notifiers[queue].write(1).unwrap();
        while !self.rings[queue].take_used(&self.memory) {
            self.line.read().unwrap();
        }
    }
}

/// Reads and writes of a disk whose file is in the page cache: from the driver's notification to its interrupt.
fn block(criterion: &mut Criterion) {
    // VIRTIO_BLK_T_IN and VIRTIO_BLK_T_OUT.
    for (name, kind, access) in [("block-read", 0, Access::ReadOnly), ("block-write", 1, Access::ReadWrite)] {
        let mut group = criterion.benchmark_group(name);
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &vec![7; 1 << 20]).unwrap();
        let mut served = Served::new(Block::new(file, "disk".as_ref(), access, "disk").unwrap());
        for (size, bytes) in [("4KiB", 4 << 10), ("128KiB", 128 << 10)] {
            group.throughput(Throughput::Bytes(u64::from(bytes)));
            group.bench_function(BenchmarkId::new("vm", size), |bencher| {
                // Of sector 0.
                served.memory.write_obj([kind, 0_u64], GuestAddress(BUFFERS)).unwrap();
                let (data, status) = (BUFFERS + 4096, BUFFERS + 16);
                let data = match access {
                    Access::ReadOnly => Buffer::Writable(data, bytes),
                    Access::ReadWrite => Buffer::Readable(data, bytes),
                };
                bencher.iter(|| {
                    let request = [Buffer::Readable(BUFFERS, 16), data, Buffer::Writable(status, 1)];
                    served.serve(0, &request);
                });
                let status = served.memory.read_obj::<u8>(GuestAddress(status)).unwrap();
                assert_eq!(status, 0, "the request failed");
            });
        }
    }
}

/// Header of a packet (virtio 1.2, section 5.10.6), from the guest to port 1 of the host.
fn packet(operation: u16, length: u32, credit: u32) -> [u8; 44] {
    let mut header = [0; 44];
    let mut put = |offset: usize, bytes: &[u8]| header[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &3_u64.to_le_bytes());
    put(8, &2_u64.to_le_bytes());
    put(16, &5000_u32.to_le_bytes());
    put(20, &1_u32.to_le_bytes());
    put(24, &length.to_le_bytes());
    put(28, &1_u16.to_le_bytes());
    put(30, &operation.to_le_bytes());
    put(36, &credit.to_le_bytes());
    header
}

/// A packet from the guest, until its bytes can be read from the host's socket.
fn vsock(criterion: &mut Criterion) {
    const REQUEST: u16 = 1;
    const RW: u16 = 5;
    let mut group = criterion.benchmark_group("vsock-packet");
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
    let (theirs, mut ours) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut served = Served::new(Vsock::new(listener).unwrap().offer(1, theirs));
    // Room for the device's answers.
    for _ in 0..64 {
        served.rings[0].add(&served.memory, &[Buffer::Writable(BUFFERS + 0x8_0000, 4096)]);
    }
    served.memory.write_slice(&packet(REQUEST, 0, 1 << 20), GuestAddress(BUFFERS)).unwrap();
    served.serve(1, &[Buffer::Readable(BUFFERS, 44)]);
    for (name, bytes) in [("64B", 64_u32), ("4KiB", 4096)] {
        group.throughput(Throughput::Bytes(u64::from(bytes)));
        group.bench_function(BenchmarkId::new("vm", name), |bencher| {
            let mut buffer = vec![0; bytes as usize];
            served.memory.write_slice(&packet(RW, bytes, 1 << 20), GuestAddress(BUFFERS)).unwrap();
            bencher.iter(|| {
                let data = Buffer::Readable(BUFFERS + 4096, bytes);
                served.serve(1, &[Buffer::Readable(BUFFERS, 44), data]);
                ours.read_exact(&mut buffer).expect("the packet's bytes");
                // What the device says of its credit makes room again.
                while served.rings[0].take_used(&served.memory) {
                    served.rings[0].add(&served.memory, &[Buffer::Writable(BUFFERS + 0x8_0000, 4096)]);
                }
            });
        });
    }
}

/// Output of the guest: put into a frame, taken out of it.
fn protocol(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("protocol");
    for (name, bytes) in [("64B", 64), ("32KiB", 32 << 10)] {
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("vm", name), |bencher| {
            let message = ToHost::Stdout(vec![b'x'; bytes]);
            let mut reader = FrameReader::new();
            bencher.iter(|| {
                reader.push(&message.encode());
                black_box(reader.next_message::<ToHost>().unwrap().unwrap());
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    targets = virtqueue, block, vsock, protocol
}
criterion_main!(benches);
