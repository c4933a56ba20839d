//! The transport's state machine, with a device that only notes what happens to it.

use std::sync::atomic::{AtomicUsize, Ordering};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use proptest::prelude::*;
use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_INTERRUPT_STATUS,
    VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_NUM_MAX,
    VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_SHM_LEN_HIGH, VIRTIO_MMIO_SHM_LEN_LOW, VIRTIO_MMIO_VERSION,
};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::queue::VirtQueue;
use crate::virtio::testing::{BUFFERS, Buffer, LOW_END, Rig, Ring};
use crate::virtio::window::Windows;

const TYPE: u32 = 42;
const FEATURE_OWN: u64 = 1 << 7;
const RUNNING: u32 = STEPS[3];
const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;

/// Uses every chain at once; its second queue is optional.
#[derive(Default)]
struct Echo {
    config: Arc<AtomicUsize>,
    active: Arc<AtomicUsize>,
    works: Option<Works>,
}

struct EchoHandler {
    memory: GuestMemory,
    queues: Vec<VirtQueue>,
    active: Arc<AtomicUsize>,
}

impl VirtioDevice for Echo {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64, 8]
    }

    fn required_queues(&self) -> usize {
        1
    }

    fn works(&self) -> Works {
        self.works.unwrap_or(Works::WhenReached)
    }

    fn features(&self) -> u64 {
        FEATURE_VERSION_1 | FEATURE_EVENT_IDX | FEATURE_OWN
    }

    fn config(&self) -> &[u8] {
        &[1, 2, 3, 4, 5]
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.store(offset << 8 | data.len(), Ordering::SeqCst);
    }

    fn config_generation(&self) -> u32 {
        7
    }

    fn activate(&mut self, activation: Activation) -> Result<Handler> {
        assert_eq!(activation.features & !self.features(), 0, "a feature that was not offered");
        self.active.fetch_add(1, Ordering::SeqCst);
        let interrupt = activation.interrupt;
        let queues = activation.queues.into_iter().map(|queue| VirtQueue::new(queue, &interrupt)).collect();
        Ok(Box::new(EchoHandler { memory: activation.memory, queues, active: Arc::clone(&self.active) }))
    }
}

impl MutEventSubscriber for EchoHandler {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        for (index, queue) in self.queues.iter().enumerate() {
            ops.add(Events::with_data(queue, index as u32, EventSet::IN)).unwrap();
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        let queue = &mut self.queues[events.data() as usize];
        queue.acknowledge();
        while let Some(chain) = queue.pop(&self.memory) {
            let head = chain.head_index();
            queue.add_used(&self.memory, head, 5);
        }
        queue.interrupt(&self.memory);
    }
}

impl Drop for EchoHandler {
    fn drop(&mut self) {
        self.active.fetch_sub(1, Ordering::SeqCst);
    }
}

fn echo(rig: &Rig, index: usize, ring: &mut Ring) {
    let head = ring.add(&rig.memory, &[Buffer::Readable(BUFFERS, 8)]);
    assert_eq!(rig.exchange(index, ring), (head, 5));
}

#[test]
fn constant_registers_and_the_configuration_space() {
    let rig = Rig::new(Echo::default());
    assert_eq!(rig.read(VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!(rig.read(VIRTIO_MMIO_VERSION), 2);
    assert_eq!(rig.read(VIRTIO_MMIO_DEVICE_ID), TYPE);
    assert_eq!(rig.read(VIRTIO_MMIO_CONFIG_GENERATION), 7);
    // No shared memory region: a length of zero would be an empty one.
    assert_eq!([rig.read(VIRTIO_MMIO_SHM_LEN_LOW), rig.read(VIRTIO_MMIO_SHM_LEN_HIGH)], [u32::MAX; 2]);
    let mut config = [9; 8];
    rig.transport.read(0x101, &mut config);
    assert_eq!(config, [2, 3, 4, 5, 0, 0, 0, 0]);
    rig.transport.read(u64::MAX, &mut config);
    assert_eq!(config, [0; 8]);
}

#[test]
fn configuration_writes_reach_the_device_once_there_is_a_driver() {
    let written = Arc::new(AtomicUsize::new(0));
    let mut rig = Rig::new(Echo { config: Arc::clone(&written), ..Echo::default() });
    rig.transport.write(0x104, &[1, 2]);
    assert_eq!(written.load(Ordering::SeqCst), 0);
    rig.start(u64::MAX, 8);
    rig.transport.write(0x104, &[1, 2]);
    assert_eq!(written.load(Ordering::SeqCst), 4 << 8 | 2);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let mut rig = Rig::new(Echo::default());
    for (features, status) in [
        (FEATURE_VERSION_1, STEPS[2]),
        (FEATURE_VERSION_1 | FEATURE_OWN, STEPS[2]),
        (FEATURE_OWN, STEPS[1]),
        (FEATURE_VERSION_1 | 1, STEPS[1]),
        (FEATURE_VERSION_1 | 1 << 63, STEPS[1]),
    ] {
        rig.agree(features);
        assert_eq!(rig.status(), status, "{features:#x}");
    }
}

#[test]
fn a_device_runs_again_after_a_reset_and_not_in_between() {
    let active = Arc::new(AtomicUsize::new(0));
    let mut rig = Rig::new(Echo { active: Arc::clone(&active), ..Echo::default() });
    for round in 0..3 {
        let mut rings = rig.start(u64::MAX, 8);
        assert_eq!(active.load(Ordering::SeqCst), 1);
        for index in [0, 1] {
            echo(&rig, index, &mut rings[index]);
        }
        if round == 1 {
            rig.write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_FAILED);
            assert_eq!(rig.status(), RUNNING | VIRTIO_CONFIG_S_FAILED);
        } else {
            rig.reset();
            assert_eq!((rig.status(), rig.interrupted()), (0, 0));
        }
        assert_eq!(active.load(Ordering::SeqCst), 0);
        rings[0].add(&rig.memory, &[Buffer::Readable(BUFFERS, 8)]);
        rig.notify(0);
        rig.settle();
        assert_eq!(rings[0].take_used(&rig.memory), None);
    }
}

#[test]
fn a_queue_that_is_taken_back_stops_the_device() {
    let active = Arc::new(AtomicUsize::new(0));
    let mut rig = Rig::new(Echo { active: Arc::clone(&active), ..Echo::default() });
    rig.start(u64::MAX, 8);
    rig.write(VIRTIO_MMIO_QUEUE_SEL, 0);
    assert_eq!(rig.read(VIRTIO_MMIO_QUEUE_READY), 1);
    rig.write(VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(rig.read(VIRTIO_MMIO_QUEUE_READY), 0);
    assert_eq!(active.load(Ordering::SeqCst), 0);
    assert_eq!(rig.status(), RUNNING | NEEDS_RESET);
    let mut rings = rig.start(u64::MAX, 8);
    echo(&rig, 0, &mut rings[0]);
}

#[test]
fn queues_that_do_not_fit_into_memory_are_refused() {
    let mut rig = Rig::new(Echo::default());
    let good = || Ring::new(0, 8);
    let cases: [(&str, Ring, bool); 8] = [
        ("as it should be", good(), true),
        ("size 0", Ring { size: 0, ..good() }, false),
        ("size no power of two", Ring { size: 6, ..good() }, false),
        ("size above the maximum", Ring { size: 128, ..good() }, false),
        ("descriptors misaligned", Ring { descriptors: 8, ..good() }, false),
        ("descriptors beyond the end", Ring { descriptors: LOW_END - 16, ..good() }, false),
        ("available ring misaligned", Ring { available: 0x4001, ..good() }, false),
        ("used ring at the end of all addresses", Ring { used: u64::MAX - 3, ..good() }, false),
    ];
    for (what, ring, fits) in cases {
        rig.agree(FEATURE_VERSION_1);
        rig.set_queue(0, &ring);
        rig.write(VIRTIO_MMIO_STATUS, RUNNING);
        assert_eq!(rig.status(), if fits { RUNNING } else { RUNNING | NEEDS_RESET }, "{what}");
    }
    // The first queue is required, the second is not.
    rig.agree(FEATURE_VERSION_1);
    rig.write(VIRTIO_MMIO_STATUS, RUNNING);
    assert_eq!(rig.status(), RUNNING | NEEDS_RESET);
}

#[test]
fn a_ready_queue_keeps_its_addresses() {
    let mut rig = Rig::new(Echo::default());
    rig.agree(FEATURE_VERSION_1);
    let mut ring = Ring::new(0, 8);
    rig.set_queue(0, &ring);
    rig.write(VIRTIO_MMIO_QUEUE_DESC_LOW, 0xffff_fff0);
    rig.write(VIRTIO_MMIO_QUEUE_NUM, 3);
    rig.write(VIRTIO_MMIO_STATUS, RUNNING);
    assert_eq!(rig.status(), RUNNING);
    rig.write(VIRTIO_MMIO_QUEUE_SEL, 9);
    assert_eq!(rig.read(VIRTIO_MMIO_QUEUE_NUM_MAX), 0, "no such queue");
    echo(&rig, 0, &mut ring);
}

#[test]
fn a_broken_ring_asks_for_a_reset_and_ends_there() {
    let mut rig = Rig::new(Echo::default());
    for break_it in [
        // More chains than the ring holds.
        (|rig: &Rig, ring: &mut Ring| ring.write_index(&rig.memory, 100)) as fn(&Rig, &mut Ring),
        // A head beyond the table.
        |rig, ring| ring.offer(&rig.memory, 8),
    ] {
        let mut rings = rig.start(u64::MAX, 8);
        rig.interrupted();
        break_it(&rig, &mut rings[0]);
        rig.notify(0);
        rig.wait_status(RUNNING | NEEDS_RESET);
        assert_eq!(rig.interrupted() & 2, 2, "the driver is told by a configuration change");
        assert_eq!(rings[0].take_used(&rig.memory), None);
        let mut rings = rig.start(u64::MAX, 8);
        echo(&rig, 0, &mut rings[0]);
    }
}

#[test]
fn interrupts_come_when_the_driver_wants_them() {
    let mut rig = Rig::new(Echo::default());
    // By index: after the third chain.
    let mut rings = rig.start(u64::MAX, 8);
    rings[0].want_interrupt_after(&rig.memory, 2);
    for wanted in [0, 0, 1, 0] {
        echo(&rig, 0, &mut rings[0]);
        rig.settle();
        assert_eq!(rig.interrupted(), wanted);
    }
    // By flag.
    let mut rings = rig.start(FEATURE_VERSION_1, 8);
    for (flag, wanted) in [(0_u16, 1), (1, 0), (0, 1)] {
        rig.memory.write_obj(flag, GuestAddress(rings[0].available)).unwrap();
        echo(&rig, 0, &mut rings[0]);
        rig.settle();
        assert_eq!(rig.interrupted(), wanted);
    }
}

/// KVM keeps these writes, and the guest goes on reading the window meanwhile: it must not be able to tell.
#[test]
fn nothing_that_is_read_follows_from_a_write_that_is_kept() {
    let mut rig = Rig::new(Echo::default());
    let shown = |rig: &Rig| {
        let mut window = vec![0; 0x200];
        rig.transport.read(0, &mut window);
        window
    };
    for steps in 0..=STEPS.len() {
        rig.reset();
        rig.write(VIRTIO_MMIO_QUEUE_SEL, 1);
        for status in &STEPS[..steps] {
            rig.write(VIRTIO_MMIO_STATUS, *status);
        }
        let before = shown(&rig);
        for register in LATER.into_iter().flatten().step_by(4) {
            for value in [0, 1, 64, u32::MAX] {
                rig.write(register as u32, value);
                assert_eq!(shown(&rig), before, "{register:#x} after {steps} steps");
            }
        }
    }
}

/// What happens to an interrupt, by the device or the driver.
#[derive(Debug, Clone, Copy)]
enum Step {
    Raise(u32),
    Read,
    Acknowledge,
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// In any order of events, reads and acknowledgements the driver gets to know of each event after it has happened.
    #[test]
    fn no_event_is_lost(steps in prop::collection::vec(prop_oneof![
        Just(Step::Raise(1)), Just(Step::Raise(2)), Just(Step::Read), Just(Step::Acknowledge),
    ], 0..40), kvm_acknowledges in any::<bool>()) {
        let window = Windows::new(1).unwrap().window(0);
        let interrupt = Interrupt::new(EventFd::new(libc::EFD_NONBLOCK).unwrap(), window.clone());
        let status = || {
            let mut status = [0; 4];
            window.read(VIRTIO_MMIO_INTERRUPT_STATUS as usize, &mut status);
            u32::from_le_bytes(status)
        };
        let (mut unseen, mut read) = (0, 0);
        for step in steps {
            match step {
                Step::Raise(event) => {
                    interrupt.raise(event);
                    unseen |= event;
                    prop_assert!(interrupt.line.read().is_ok());
                }
                Step::Read => {
                    read = status();
                    prop_assert_eq!(read & unseen, unseen);
                    unseen = 0;
                }
                Step::Acknowledge => {
                    if !(kvm_acknowledges && read == Interrupt::USED_BUFFER) {
                        interrupt.acknowledge(read);
                    }
                    read = 0;
                }
            }
        }
        prop_assert_eq!(status() & unseen, unseen);
        // And a driver that does nothing but acknowledge is not told of a change for ever.
        for _ in 0..2 {
            interrupt.acknowledge(status());
        }
        prop_assert_eq!(status() & !Interrupt::USED_BUFFER, 0);
    }

    /// No order of register writes starts the device other than through the four steps, or gets it past a wrong queue.
    #[test]
    fn only_the_right_way_leads_to_a_running_device(
        writes in prop::collection::vec((0_u32..64, prop_oneof![
            Just(0), Just(1), Just(3), Just(0xb), Just(0xf), Just(8), any::<u32>(),
        ]), 0..60),
    ) {
        let active = Arc::new(AtomicUsize::new(0));
        let mut rig = Rig::new(Echo { active: Arc::clone(&active), ..Echo::default() });
        for (register, value) in writes {
            let register = if register < 20 { VIRTIO_MMIO_STATUS } else { register * 4 };
            let before = rig.status() & !NEEDS_RESET;
            rig.write(register, value);
            let after = rig.status() & !NEEDS_RESET;
            let step = STEPS.iter().position(|step| *step == after);
            let next = STEPS.iter().position(|step| *step == before).map_or(0, |index| index + 1);
            prop_assert!(
                after == before
                    || value == 0 && after == 0
                    || value & VIRTIO_CONFIG_S_FAILED != 0 && after == before | VIRTIO_CONFIG_S_FAILED
                    || value == after && step == Some(next),
                "{before:#x} became {after:#x} by {value:#x}"
            );
            if active.load(Ordering::SeqCst) > 0 {
                prop_assert_eq!(after & RUNNING, RUNNING);
            }
        }
        let mut rings = rig.start(u64::MAX, 8);
        echo(&rig, 0, &mut rings[0]);
    }
}

/// What a template does: another device goes on for the same driver, in a copy of its memory.
fn copied(rig: &Rig, device: Echo) -> Rig {
    let copy = Rig::new(device);
    for start in [0, crate::virtio::testing::HIGH_START] {
        let mut bytes = vec![0; LOW_END as usize];
        rig.memory.read_slice(&mut bytes, GuestAddress(start)).unwrap();
        copy.memory.write_slice(&bytes, GuestAddress(start)).unwrap();
    }
    copy
}

#[test]
fn another_device_goes_on_where_the_driver_is() {
    let mut rig = Rig::new(Echo::default());
    let mut rings = rig.start(u64::MAX, 8);
    for _ in 0..11 {
        echo(&rig, 0, &mut rings[0]);
    }
    let progress = rig.transport.progress().unwrap();
    let text = serde_json::to_string(&progress).unwrap();
    let mut copy = copied(&rig, Echo::default());
    copy.transport.go_on(serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(copy.status(), RUNNING);
    assert_eq!(copy.read(VIRTIO_MMIO_INTERRUPT_STATUS), 1, "a driver that was just interrupted looks");
    for _ in 0..20 {
        echo(&copy, 0, &mut rings[0]);
    }
    // Each driver has its own device.
    assert_eq!(copy.transport.progress(), Some(progress));
    // A driver that has not begun, or is in between, goes on as well.
    let mut rig = Rig::new(Echo::default());
    rig.agree(FEATURE_VERSION_1);
    let mut copy = copied(&rig, Echo::default());
    copy.transport.go_on(rig.transport.progress().unwrap()).unwrap();
    assert_eq!(copy.status(), STEPS[2]);
}

#[test]
fn a_device_with_work_to_do_is_in_no_state_to_be_recorded() {
    let device = || Echo { works: Some(Works::WhenAsked), ..Echo::default() };
    let mut rig = Rig::new(device());
    assert!(rig.transport.progress().is_some());
    let mut rings = rig.start(u64::MAX, 8);
    echo(&rig, 0, &mut rings[0]);
    assert!(rig.transport.progress().is_some());
    rings[0].add(&rig.memory, &[Buffer::Readable(BUFFERS, 8)]);
    assert!(rig.transport.progress().is_none());
}

#[test]
fn progress_that_no_driver_has_made_is_refused() {
    let mut rig = Rig::new(Echo::default());
    rig.start(u64::MAX, 8);
    let progress = rig.transport.progress().unwrap();
    let changes: [fn(&mut Progress); 8] = [
        |one| one.features |= 1 << 50,
        |one| one.features = 0,
        |one| one.queues[0].max = 128,
        |one| one.queues.truncate(1),
        |one| one.queues[0].ready = false,
        |one| one.queues[0].size = 1 << 16,
        |one| one.queues[0].used = u64::MAX - 3,
        |one| one.queues[0].descriptors = LOW_END,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut other = progress.clone();
        change(&mut other);
        assert_eq!(copied(&rig, Echo::default()).transport.go_on(other), None, "change {index}");
    }
}

#[test]
fn a_device_that_works_at_any_time_can_be_held() {
    let active = Arc::new(AtomicUsize::new(0));
    let device = Echo { works: Some(Works::Anytime), active: Arc::clone(&active), ..Echo::default() };
    let mut rig = Rig::new(device);
    rig.transport.hold();
    rig.transport.let_go();
    assert_eq!(active.load(Ordering::SeqCst), 0, "no driver has started it");
    let mut rings = rig.start(u64::MAX, 8);
    echo(&rig, 0, &mut rings[0]);
    rig.transport.hold();
    assert_eq!(active.load(Ordering::SeqCst), 0);
    let progress = rig.transport.progress().unwrap();
    assert_eq!(rig.status(), RUNNING, "as the driver sees it");
    rig.transport.let_go();
    assert_eq!(active.load(Ordering::SeqCst), 1);
    echo(&rig, 0, &mut rings[0]);
    // Whoever goes on from there is interrupted: the interrupt of what had been used may not have come.
    let mut copy = copied(&rig, Echo { works: Some(Works::Anytime), ..Echo::default() });
    copy.transport.go_on(progress).unwrap();
    assert!(copy.line.read().is_ok());
}
