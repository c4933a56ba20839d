//! What the host and the guest's init say to each other, over one vsock stream a process.
//!
//! A stream is a sequence of frames: a head of eight bytes (kind, three zeros, payload length) and the payload. The guest's first
//! frame is [`ToHost::Hello`] with the protocol's version. Both sides treat the other as hostile: a frame of an unknown kind,
//! with a length above its kind's limit, or with a payload that is not well formed ends the stream.
//!
//! | stream | who connects | first frame of the host |
//! |---|---|---|
//! | [`INIT_PORT`] | the guest, once, when its init runs | [`ToGuest::Setup`], later [`ToGuest::Start`] |
//! | [`SERVICE_PORT`] | the host, once for each further process | [`ToGuest::Exec`] |
//! | [`SERVICE_PORT`] | the host, once for each question | [`ToGuest::Ask`], answered by [`ToHost::Answer`] or [`ToHost::Failed`] |
//!
//! Standard input has a window: the host sends at most [`STDIN_WINDOW`] bytes more than [`ToHost::StdinTaken`] has told of, so that a
//! program which does not read never keeps a signal or a new window size from getting through. Output needs none: nothing that the
//! guest sends after it matters before it.
//!
//! The host's half is ready to use: [`host::Connection`] (one stream, with deadlines) and [`host::Relay`] (a process's streams and
//! the descriptors of the host that they belong to, for any `poll` loop).

mod frame;
pub mod host;
mod message;
mod setup;

pub use frame::{Error, FrameReader, MAX_DOCUMENT, MAX_STREAM_DATA, Message};
pub use message::{Answer, OutputKind, Question, ToGuest, ToHost, WindowSize};
pub use setup::{
    Address, Disk, GuestProcess, GuestSetup, Link, Own, Root, Route, SeccompProgram, WriteLayer,
};

/// Version of this protocol; both sides come from one build, so any difference is an error.
pub const VERSION: u32 = 3;
/// Port of the host that init connects to.
pub const INIT_PORT: u32 = 1024;
/// Port of the guest on which init accepts further processes and questions.
pub const SERVICE_PORT: u32 = 1025;
/// Bytes of standard input that may be on their way.
pub const STDIN_WINDOW: usize = 256 << 10;

/// Word of the kernel's command line that has init say [`marker::TEMPLATE`]; the kernel makes it a variable of init's environment.
pub const TEMPLATE_WORD: &str = "RKVM_TEMPLATE";

/// Values that the guest writes to the boot marker port, in this order.
pub mod marker {
    /// Init's first instruction.
    pub const INIT: u8 = 1;
    /// Everything for the process is in place.
    pub const READY: u8 = 2;
    /// `execve` of the process has succeeded.
    pub const EXEC: u8 = 3;
    /// Everything that machines of this shape have in common is in place: the machine can be recorded as a template. Between
    /// [`INIT`] and [`READY`], by a guest with [`super::TEMPLATE_WORD`].
    pub const TEMPLATE: u8 = 4;
    /// Init goes on after [`TEMPLATE`], in this machine or in one of the template.
    pub const RESUMED: u8 = 5;
    /// The machine is to be switched off.
    pub const POWER_OFF: u8 = 255;
}
