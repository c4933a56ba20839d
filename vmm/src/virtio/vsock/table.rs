//! The connections of one device, found by their ports or by their token on the event loop.

use std::collections::{HashMap, VecDeque};

use super::connection::Connection;

/// Most connections at once: each holds a descriptor and up to [`super::connection::BUFFER_BYTES`] of this process.
pub(super) const MAX_CONNECTIONS: usize = 256;
/// First port that is given to host programs; the guest sees it as the peer's.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// Which connection: the two ends' ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) host_port: u32,
    pub(super) guest_port: u32,
}

/// Connections by token; tokens are never used twice, so that a late event cannot reach a successor.
#[derive(Debug, Default)]
pub(super) struct Table {
    by_token: HashMap<u32, (Option<Key>, Connection)>,
    by_key: HashMap<Key, u32>,
    /// Tokens whose host side has data, in the order in which they get their turn.
    pub(super) readable: VecDeque<u32>,
    next_token: u32,
    next_port: u32,
}

impl Table {
    pub(super) fn is_full(&self) -> bool {
        self.by_token.len() >= MAX_CONNECTIONS
    }

    /// Adds a connection; its token, at least `first`.
    pub(super) fn insert(&mut self, first: u32, key: Option<Key>, connection: Connection) -> u32 {
        let mut token = self.next_token.max(first);
        while self.by_token.contains_key(&token) {
            token = token.checked_add(1).unwrap_or(first);
        }
        self.next_token = token.checked_add(1).unwrap_or(first);
        if let Some(key) = key {
            self.by_key.insert(key, token);
        }
        self.by_token.insert(token, (key, connection));
        token
    }

    /// Gives a connection that has been greeted its ports.
    pub(super) fn name(&mut self, token: u32, guest_port: u32) -> Option<Key> {
        let key = loop {
            let key = Key { host_port: FIRST_HOST_PORT | self.next_port, guest_port };
            self.next_port = (self.next_port + 1) % FIRST_HOST_PORT;
            if !self.by_key.contains_key(&key) {
                break key;
            }
        };
        self.by_token.get_mut(&token)?.0 = Some(key);
        self.by_key.insert(key, token);
        Some(key)
    }

    pub(super) fn token(&self, key: Key) -> Option<u32> {
        self.by_key.get(&key).copied()
    }

    pub(super) fn get(&mut self, token: u32) -> Option<(Option<Key>, &mut Connection)> {
        self.by_token.get_mut(&token).map(|(key, connection)| (*key, connection))
    }

    pub(super) fn remove(&mut self, token: u32) -> Option<Connection> {
        let (key, connection) = self.by_token.remove(&token)?;
        if let Some(key) = key {
            self.by_key.remove(&key);
        }
        self.readable.retain(|other| *other != token);
        Some(connection)
    }
}
