//! Serves the socket device's queues and Unix sockets on the event loop.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use virtio_vsock::packet::VsockPacket;
use vmm_sys_util::eventfd::EventFd;

use super::connection::{BUFFER_BYTES, Connection, Greeting, Phase};
use super::table::{Key, MAX_CONNECTIONS, Table};
use super::{GUEST_CID, HOST_CID};
use crate::error::{Error, Result};
use crate::memory::GuestMemory;
use crate::virtio::{Activation, Interrupt};

const TYPE_STREAM: u16 = 1;
const OP_REQUEST: u16 = 1;
const OP_RESPONSE: u16 = 2;
const OP_RST: u16 = 3;
const OP_SHUTDOWN: u16 = 4;
const OP_RW: u16 = 5;
const OP_CREDIT_UPDATE: u16 = 6;
const OP_CREDIT_REQUEST: u16 = 7;
const SHUTDOWN_RECEIVE: u32 = 1;
const SHUTDOWN_SEND: u32 = 2;
const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;
/// Largest payload of a packet that is taken (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE of Linux): a larger length is an attack on the buffer.
const MAX_PAYLOAD: u32 = 64 << 10;
/// Control packets that wait for the guest's receive buffers. While there are more, nothing is taken of the guest: it could
/// otherwise make this process queue answers without end by sending packets and offering no buffers.
const MAX_CONTROL: usize = 2 * MAX_CONNECTIONS;
/// Packets a turn, so that no connection starves the other devices.
const MAX_PACKETS_A_TURN: usize = 256;

const TOKEN_RX: u32 = 0;
const TOKEN_TX: u32 = 1;
const TOKEN_EVENT: u32 = 2;
const TOKEN_LISTENER: u32 = 3;
const FIRST_CONNECTION: u32 = 4;

/// A packet without payload on its way to the guest.
#[derive(Debug, Clone, Copy)]
struct Control {
    key: Key,
    op: u16,
    flags: u32,
}

#[derive(Debug)]
pub(super) struct VsockHandler {
    /// For the first program of the guest that connects to each port.
    streams: Vec<(u32, UnixStream)>,
    listener: UnixListener,
    memory: GuestMemory,
    interrupt: Interrupt,
    rx: (Queue, EventFd),
    tx: (Queue, EventFd),
    event: (Queue, EventFd),
    table: Table,
    control: VecDeque<Control>,
}

impl VsockHandler {
    pub(super) fn new(
        streams: Vec<(u32, UnixStream)>,
        listener: UnixListener,
        activation: Activation,
    ) -> Result<Self> {
        let Ok([rx, tx, event]) = <[(Queue, EventFd); 3]>::try_from(activation.queues) else {
            return Err(Error::os("start the socket device")(io::ErrorKind::InvalidInput.into()));
        };
        Ok(Self {
            streams,
            listener,
            memory: activation.memory,
            interrupt: activation.interrupt,
            rx,
            tx,
            event,
            table: Table::default(),
            control: VecDeque::new(),
        })
    }

    fn reply(&mut self, key: Key, op: u16, flags: u32) {
        self.control.push_back(Control { key, op, flags });
    }

    /// Ends a connection on both sides.
    fn reset(&mut self, token: u32, key: Option<Key>, ops: &mut EventOps<'_>) {
        self.forget(token, ops);
        if let Some(key) = key {
            self.reply(key, OP_RST, 0);
        }
    }

    fn forget(&mut self, token: u32, ops: &mut EventOps<'_>) {
        if let Some(connection) = self.table.remove(token).filter(|connection| connection.watched) {
            let _ =
                ops.remove(Events::with_data_raw(connection.stream.as_raw_fd(), token, EventSet::empty()));
        }
    }

    /// Waits for what the connection can use now: its data only when the guest has room and its first bytes are wanted.
    fn watch(&mut self, token: u32, ops: &mut EventOps<'_>) {
        let queued = self.table.readable.contains(&token);
        let Some((_, connection)) = self.table.get(token) else { return };
        let mut events = EventSet::empty();
        let reads = match connection.phase {
            Phase::Greeting => true,
            Phase::Requested => false,
            Phase::Open => !queued && !connection.host_done && connection.credit() > 0,
        };
        if reads {
            events |= EventSet::IN;
        }
        if connection.has_backlog() {
            events |= EventSet::OUT;
        }
        // Without anything to wait for it is not watched at all: epoll always tells of a peer that has hung up, and a guest that gives no
        // credit could so make the loop turn without end.
        let entry = Events::with_data_raw(connection.stream.as_raw_fd(), token, events);
        let _ = match (connection.watched, events.is_empty()) {
            (true, true) => ops.remove(entry),
            (true, false) => ops.modify(entry),
            (false, true) => Ok(()),
            (false, false) => ops.add(entry),
        };
        connection.watched = !events.is_empty();
    }

    fn accept(&mut self, ops: &mut EventOps<'_>) {
        while let Ok((stream, _)) = self.listener.accept() {
            // Dropping it closes it: the program sees the end of the stream.
            if self.table.is_full() {
                continue;
            }
            if let Ok(connection) = Connection::new(stream, Phase::Greeting) {
                let token = self.table.insert(FIRST_CONNECTION, None, connection);
                self.watch(token, ops);
            }
        }
    }

    /// Takes packets from the guest.
    fn transmit(&mut self, ops: &mut EventOps<'_>) -> bool {
        let mut taken = 0;
        while taken < MAX_PACKETS_A_TURN && self.control.len() < MAX_CONTROL {
            let memory = self.memory.clone();
            let Some(mut chain) = self.tx.0.pop_descriptor_chain(&memory) else { break };
            taken += 1;
            let head = chain.head_index();
            if let Ok(packet) = VsockPacket::from_tx_virtq_chain(&memory, &mut chain, MAX_PAYLOAD) {
                self.receive_packet(&packet, ops);
            }
            if self.tx.0.add_used(&memory, head, 0).is_err() {
                break;
            }
        }
        taken > 0
    }

    fn receive_packet(&mut self, packet: &VsockPacket<'_, ()>, ops: &mut EventOps<'_>) {
        let key = Key { host_port: packet.dst_port(), guest_port: packet.src_port() };
        // Other addresses than these two do not exist here, and answering them would be answering a forged sender.
        if packet.src_cid() != GUEST_CID || packet.dst_cid() != HOST_CID {
            return;
        }
        if packet.type_() != TYPE_STREAM {
            return self.reply(key, OP_RST, 0);
        }
        let token = self.table.token(key);
        if packet.op() == OP_REQUEST {
            return self.connect_to_host(key, token, packet, ops);
        }
        let Some(token) = token else {
            if packet.op() != OP_RST {
                self.reply(key, OP_RST, 0);
            }
            return;
        };
        let Some((_, connection)) = self.table.get(token) else { return };
        connection.peer_credit(packet.buf_alloc(), packet.fwd_cnt());
        match (packet.op(), connection.phase) {
            (OP_RESPONSE, Phase::Requested) => {
                connection.phase = Phase::Open;
                let greeting = format!("OK {}\n", key.host_port);
                if io::Write::write_all(&mut connection.stream, greeting.as_bytes()).is_err() {
                    return self.reset(token, Some(key), ops);
                }
            }
            (OP_RST, _) => return self.forget(token, ops),
            (OP_SHUTDOWN, Phase::Open) => {
                connection.guest_done |= packet.flags() & SHUTDOWN_SEND != 0;
                connection.hung_up |= packet.flags() & SHUTDOWN_BOTH == SHUTDOWN_BOTH;
                let failed = connection.flush().is_err();
                if failed || (connection.hung_up && !connection.has_backlog()) {
                    return self.reset(token, Some(key), ops);
                }
            }
            (OP_RW, Phase::Open) => {
                // The slice is as long as the packet's header says, or there is none.
                let taken = match packet.data_slice() {
                    Some(data) => connection.take(data).is_ok(),
                    None => packet.is_empty(),
                };
                if !taken {
                    return self.reset(token, Some(key), ops);
                }
                if connection.wants_credit_update() {
                    self.reply(key, OP_CREDIT_UPDATE, 0);
                }
            }
            (OP_CREDIT_REQUEST, Phase::Open) => self.reply(key, OP_CREDIT_UPDATE, 0),
            (OP_CREDIT_UPDATE, Phase::Open) => {}
            _ => return self.reset(token, Some(key), ops),
        }
        self.watch(token, ops);
    }

    /// A program in the guest connects: it gets the stream of that port, if there is one.
    fn connect_to_host(
        &mut self,
        key: Key,
        token: Option<u32>,
        packet: &VsockPacket<'_, ()>,
        ops: &mut EventOps<'_>,
    ) {
        if token.is_some() || self.table.is_full() {
            return self.reply(key, OP_RST, 0);
        }
        let offered = self.streams.iter().position(|(port, _)| *port == key.host_port);
        let connection = offered.map(|index| Connection::new(self.streams.remove(index).1, Phase::Open));
        let Some(mut connection) = connection.and_then(Result::ok) else {
            return self.reply(key, OP_RST, 0);
        };
        connection.peer_credit(packet.buf_alloc(), packet.fwd_cnt());
        let token = self.table.insert(FIRST_CONNECTION, Some(key), connection);
        self.reply(key, OP_RESPONSE, 0);
        self.watch(token, ops);
    }

    /// Fills the guest's receive buffers: control packets first, then data, a packet a connection in turn.
    fn receive(&mut self, ops: &mut EventOps<'_>) -> bool {
        let mut given = 0;
        while given < MAX_PACKETS_A_TURN && (!self.control.is_empty() || !self.table.readable.is_empty()) {
            let memory = self.memory.clone();
            let Some(mut chain) = self.rx.0.pop_descriptor_chain(&memory) else { break };
            let head = chain.head_index();
            let used = match VsockPacket::from_rx_virtq_chain(&memory, &mut chain, MAX_PAYLOAD) {
                Ok(mut packet) => match self.fill(&mut packet, ops) {
                    Some(used) => used,
                    None => {
                        // Nothing to send after all: the buffer stays with the device.
                        self.rx.0.go_to_previous_position();
                        continue;
                    }
                },
                // A buffer that cannot hold a packet goes back unused.
                Err(_) => 0,
            };
            given += 1;
            if self.rx.0.add_used(&memory, head, used).is_err() {
                break;
            }
        }
        given > 0
    }

    /// Writes the next packet to `packet`; its length in bytes.
    fn fill(&mut self, packet: &mut VsockPacket<'_, ()>, ops: &mut EventOps<'_>) -> Option<u32> {
        const HEADER: u32 = virtio_vsock::packet::PKT_HEADER_SIZE as u32;
        if let Some(Control { key, op, flags }) = self.control.pop_front() {
            let forwarded = match self.table.token(key).and_then(|token| self.table.get(token)) {
                Some((_, connection)) => connection.announce(),
                None => 0,
            };
            header(packet, key, op, flags, 0, forwarded).then_some(HEADER)
        } else {
            let token = self.table.readable.pop_front()?;
            let (key, connection) = self.table.get(token)?;
            let key = key?;
            let room = packet.data_slice()?;
            if room.is_empty() || connection.credit() == 0 {
                self.watch(token, ops);
                return None;
            }
            match connection.give(room) {
                Ok(0) => {
                    connection.host_done = true;
                    let forwarded = connection.announce();
                    self.watch(token, ops);
                    header(packet, key, OP_SHUTDOWN, SHUTDOWN_SEND, 0, forwarded).then_some(HEADER)
                }
                Ok(count) => {
                    let forwarded = connection.announce();
                    self.watch(token, ops);
                    header(packet, key, OP_RW, 0, count as u32, forwarded).then_some(HEADER + count as u32)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.watch(token, ops);
                    None
                }
                Err(_) => {
                    self.reset(token, Some(key), ops);
                    None
                }
            }
        }
    }

    fn connection_event(&mut self, token: u32, events: EventSet, ops: &mut EventOps<'_>) {
        let Some((key, connection)) = self.table.get(token) else { return };
        match connection.phase {
            Phase::Greeting => match connection.read_greeting() {
                Greeting::Partial => {}
                Greeting::Connect(port) => {
                    connection.phase = Phase::Requested;
                    if let Some(key) = self.table.name(token, port) {
                        self.reply(key, OP_REQUEST, 0);
                    }
                }
                Greeting::Refused => return self.forget(token, ops),
            },
            Phase::Requested => {}
            Phase::Open => {
                if events.contains(EventSet::OUT) {
                    if connection.flush().is_err() || (connection.hung_up && !connection.has_backlog()) {
                        return self.reset(token, key, ops);
                    }
                    if connection.wants_credit_update()
                        && let Some(key) = key
                    {
                        self.reply(key, OP_CREDIT_UPDATE, 0);
                    }
                } else if events.intersects(EventSet::HANG_UP | EventSet::ERROR)
                    && self.table.get(token).is_some_and(|(_, connection)| connection.host_done)
                {
                    return self.reset(token, key, ops);
                }
                if events.contains(EventSet::IN) && !self.table.readable.contains(&token) {
                    self.table.readable.push_back(token);
                }
            }
        }
        self.watch(token, ops);
    }
}

/// Writes a packet's header; whether the guest's buffer could take it.
fn header(
    packet: &mut VsockPacket<'_, ()>,
    key: Key,
    op: u16,
    flags: u32,
    length: u32,
    forwarded: u32,
) -> bool {
    let mut raw = [0_u8; virtio_vsock::packet::PKT_HEADER_SIZE];
    let mut put = |at: usize, value: &[u8]| raw[at..at + value.len()].copy_from_slice(value);
    put(0, &HOST_CID.to_le_bytes());
    put(8, &GUEST_CID.to_le_bytes());
    put(16, &key.host_port.to_le_bytes());
    put(20, &key.guest_port.to_le_bytes());
    put(24, &length.to_le_bytes());
    put(28, &TYPE_STREAM.to_le_bytes());
    put(30, &op.to_le_bytes());
    put(32, &flags.to_le_bytes());
    put(36, &BUFFER_BYTES.to_le_bytes());
    put(40, &forwarded.to_le_bytes());
    packet.set_header_from_raw(&raw).is_ok()
}

impl MutEventSubscriber for VsockHandler {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let _ = ops.add(Events::with_data(&self.rx.1, TOKEN_RX, EventSet::IN));
        let _ = ops.add(Events::with_data(&self.tx.1, TOKEN_TX, EventSet::IN));
        let _ = ops.add(Events::with_data(&self.event.1, TOKEN_EVENT, EventSet::IN));
        let _ = ops.add(Events::with_data(&self.listener, TOKEN_LISTENER, EventSet::IN));
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.data() {
            TOKEN_RX => drop(self.rx.1.read()),
            TOKEN_TX => drop(self.tx.1.read()),
            // The event queue only tells of migrations, which do not happen here.
            TOKEN_EVENT => drop(self.event.1.read()),
            TOKEN_LISTENER => self.accept(ops),
            token => self.connection_event(token, events.event_set(), ops),
        }
        // What the guest sends makes answers, and answers sent make room to take more of it.
        let mut used = false;
        for _ in 0..2 {
            used |= self.transmit(ops);
            used |= self.receive(ops);
        }
        let waits =
            |queue: &mut Queue, memory: &GuestMemory| queue.enable_notification(memory).unwrap_or(false);
        if self.control.len() < MAX_CONTROL && waits(&mut self.tx.0, &self.memory) {
            let _ = self.tx.1.write(1);
        }
        let wants_rx = !self.control.is_empty() || !self.table.readable.is_empty();
        if waits(&mut self.rx.0, &self.memory) && wants_rx {
            let _ = self.rx.1.write(1);
        }
        if used {
            self.interrupt.used_buffers();
        }
    }
}
