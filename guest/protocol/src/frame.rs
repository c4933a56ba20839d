//! Frames: heads, limits, and a reader that takes bytes as they come.

/// Largest JSON payload, bytes.
pub const MAX_DOCUMENT: usize = 1 << 20;
/// Largest payload of stream data, bytes.
pub const MAX_STREAM_DATA: usize = 64 << 10;

const HEAD_BYTES: usize = 8;

/// What is wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kind is not one of those that this direction has.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// The head's reserved bytes are not zero.
    #[error("a frame head with reserved bytes that are not zero")]
    Reserved,
    /// The payload is longer than its kind may be.
    #[error("a frame of kind {kind} with {bytes} bytes; at most {limit} are allowed")]
    Length {
        /// The kind.
        kind: u8,
        /// What the head says.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A payload of fixed size has another size or value.
    #[error("a frame of kind {kind} whose {bytes} bytes are not what it consists of")]
    Payload {
        /// The kind.
        kind: u8,
        /// Its length.
        bytes: usize,
    },
    /// A document cannot be parsed.
    #[error("a frame of kind {kind} whose document is not well formed")]
    Document {
        /// The kind.
        kind: u8,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
}

/// A direction of the protocol.
pub trait Message: Sized {
    /// Largest payload of `kind`; `None` for a kind that this direction does not have.
    fn limit(kind: u8) -> Option<usize>;

    /// The message with this payload.
    ///
    /// # Errors
    /// The payload does not fit the kind.
    fn decode(kind: u8, payload: &[u8]) -> Result<Self, Error>;
}

/// Puts a frame together.
pub(crate) fn encode(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD_BYTES + payload.len());
    append(&mut frame, kind, payload);
    frame
}

/// Appends a frame.
pub(crate) fn append(frames: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    frames.extend_from_slice(&[kind, 0, 0, 0]);
    // Payloads end at MAX_DOCUMENT.
    frames.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    frames.extend_from_slice(payload);
}

/// Takes a stream apart, however its bytes arrive. Holds at most one frame and what came with it.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
}

impl FrameReader {
    /// An empty reader.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that have arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message; `None` until more bytes arrive.
    ///
    /// # Errors
    /// The other side does not keep to the protocol; the stream is of no more use. The head is checked before its payload is
    /// waited for, so that a length cannot make this side keep what will be refused anyway.
    pub fn next_message<M: Message>(&mut self) -> Result<Option<M>, Error> {
        let rest = &self.buffer[self.start..];
        let Some((head, rest)) = rest.split_at_checked(HEAD_BYTES) else { return Ok(None) };
        let kind = head[0];
        if head[1..4] != [0, 0, 0] {
            return Err(Error::Reserved);
        }
        let bytes = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let limit = M::limit(kind).ok_or(Error::Kind(kind))?;
        if bytes > limit {
            return Err(Error::Length { kind, bytes, limit });
        }
        let Some(payload) = rest.get(..bytes) else { return Ok(None) };
        let message = M::decode(kind, payload)?;
        self.start += HEAD_BYTES + bytes;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rkvm_oci::ExitStatus;

    use crate::message::{ToGuest, ToHost};

    #[test]
    fn frames_survive_any_cut() {
        let messages = [
            ToHost::Hello { version: 7 },
            ToHost::Stdout(b"abc".to_vec()),
            ToHost::Ended(ExitStatus::Exited(3)),
        ];
        let bytes: Vec<u8> = messages.iter().flat_map(ToHost::encode).collect();
        for cut in 1..bytes.len() {
            let mut reader = FrameReader::new();
            let mut seen = vec![];
            for chunk in bytes.chunks(cut) {
                reader.push(chunk);
                while let Some(message) = reader.next_message::<ToHost>().unwrap() {
                    seen.push(message);
                }
            }
            assert_eq!(seen, messages);
        }
    }

    #[test]
    fn hostile_heads_are_refused_before_their_payload() {
        let refused = |head: [u8; 8]| {
            let mut reader = FrameReader::new();
            reader.push(&head);
            reader.next_message::<ToHost>().unwrap_err()
        };
        assert!(matches!(refused([99, 0, 0, 0, 0, 0, 0, 0]), Error::Kind(99)));
        assert!(matches!(refused([1, 1, 0, 0, 4, 0, 0, 0]), Error::Reserved));
        for kind in 0..=255 {
            if ToHost::limit(kind).is_some() {
                assert!(matches!(refused([kind, 0, 0, 0, 255, 255, 255, 255]), Error::Length { .. }));
            }
        }
    }

    #[test]
    fn no_bytes_make_either_side_panic() {
        // A small generator: every run is the same.
        for seed in 1..2000_u64 {
            let mut state = seed;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            let mut bytes: Vec<u8> = (0..next() % 64).map(|_| next() as u8).collect();
            if bytes.len() >= 8 {
                bytes[0] %= 12;
                bytes[1..4].fill(0);
                bytes[5..8].fill(0);
            }
            let mut reader = FrameReader::new();
            reader.push(&bytes);
            while let Ok(Some(_)) = reader.next_message::<ToHost>() {}
            let mut reader = FrameReader::new();
            reader.push(&bytes);
            while let Ok(Some(_)) = reader.next_message::<ToGuest>() {}
        }
    }
}
