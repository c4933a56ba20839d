//! What the host and the guest's init say to each other, over one vsock stream a process.
//!
//! A stream is a sequence of frames: a head of eight bytes (kind, three zeros, payload length) and the payload. The guest's first
//! frame is [`ToHost::Hello`] with the protocol's version. Both sides treat the other as hostile: a frame of an unknown kind,
//! with a length above its kind's limit, or with a payload that is not well formed ends the stream.
//!
//! | stream | who connects | first frame of the host |
//! |---|---|---|
//! | [`INIT_PORT`] | the guest, once, when its init runs | [`ToGuest::Setup`], later [`ToGuest::Start`] |
//! | [`EXEC_PORT`] | the host, once for each further process | [`ToGuest::Exec`] |

mod frame;
mod message;

pub use frame::{Error, FrameReader, MAX_DOCUMENT, MAX_STREAM_DATA, Message};
pub use message::{
    Failure, FailureKind, FileSystem, GuestSetup, Network, Outcome, ProcessSpec, Rlimit, Terminal, ToGuest,
    ToHost, User, WindowSize,
};

/// Version of this protocol; both sides come from one build, so any difference is an error.
pub const VERSION: u32 = 1;
/// Port of the host that init connects to.
pub const INIT_PORT: u32 = 1024;
/// Port of the guest on which init accepts further processes.
pub const EXEC_PORT: u32 = 1025;

/// Values that the guest writes to the boot marker port, in this order.
pub mod marker {
    /// Init's first instruction.
    pub const INIT: u8 = 1;
    /// Everything for the process is in place.
    pub const READY: u8 = 2;
    /// `execve` of the process has succeeded.
    pub const EXEC: u8 = 3;
    /// The machine is to be switched off.
    pub const POWER_OFF: u8 = 255;
}
