//! What is reported while an image comes in.

use crate::digest::Digest;

/// A step of one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is here already.
    Exists,
    /// `done` of `total` bytes are here.
    Fetching {
        /// Bytes so far, those of an earlier, interrupted pull too.
        done: u64,
        /// Size of the blob.
        total: u64,
    },
    /// It is here and verified.
    Fetched,
}

/// Told of each step, from several threads.
pub trait Progress: Sync {
    /// Blob `blob` has reached `step`.
    fn report(&self, blob: &Digest, step: Step);

    /// All blobs are here, and `layers` layers are unpacked now.
    fn unpacking(&self, layers: usize);
}

/// Reports nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _blob: &Digest, _step: Step) {}

    fn unpacking(&self, _layers: usize) {}
}
