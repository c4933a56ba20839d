//! A blocking netlink socket: a batch of requests out, its answers in.
//!
//! The kernel handles requests inside `send`, so every answer is queued when it returns; nothing here waits.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use netlink_bindings::traits::{NetlinkRequest, Protocol};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

use crate::error::{Error, Result};
use crate::sys;

const HEADER: usize = 16;
const TYPE_ERROR: u16 = libc::NLMSG_ERROR as u16;
const TYPE_DONE: u16 = libc::NLMSG_DONE as u16;

/// Which part of the kernel is spoken to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Family {
    /// Links, addresses and routes.
    Route,
    /// Rules.
    Netfilter,
}

/// A netlink socket of the network namespace that the thread was in when it was opened.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

/// Requests that are sent together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    buffer: Vec<u8>,
    requests: Vec<Request>,
}

#[derive(Debug)]
struct Request {
    offset: usize,
    action: &'static str,
    target: String,
    answered: Answer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    None,
    Expected,
}

impl Batch {
    /// Adds a request; `action` and `target` name it when the kernel refuses it.
    pub(crate) fn add(
        &mut self,
        request: &impl NetlinkRequest,
        action: &'static str,
        target: impl Into<String>,
    ) {
        self.append(request, libc::NLM_F_ACK as u16, action, target.into(), Answer::Expected);
    }

    /// Adds a request that has no answer of its own (begin and end of an nf_tables transaction).
    pub(crate) fn add_silent(&mut self, request: &impl NetlinkRequest, action: &'static str) {
        self.append(request, 0, action, String::new(), Answer::None);
    }

    fn append(
        &mut self,
        request: &impl NetlinkRequest,
        flags: u16,
        action: &'static str,
        target: String,
        answered: Answer,
    ) {
        let Protocol::Raw { request_type, .. } = request.protocol() else {
            unreachable!("route and netfilter requests are not generic netlink");
        };
        let offset = self.buffer.len();
        let payload = request.payload();
        let flags = flags | libc::NLM_F_REQUEST as u16 | request.flags();
        self.buffer.extend(((HEADER + payload.len()) as u32).to_ne_bytes());
        self.buffer.extend(request_type.to_ne_bytes());
        self.buffer.extend(flags.to_ne_bytes());
        self.buffer.extend([0; 8]);
        self.buffer.extend(payload);
        self.buffer.resize(self.buffer.len().next_multiple_of(4), 0);
        self.requests.push(Request { offset, action, target, answered });
    }

    fn number(&mut self, first: u32) {
        for (sequence, request) in (first..).zip(&self.requests) {
            self.buffer[request.offset + 8..request.offset + 12].copy_from_slice(&sequence.to_ne_bytes());
        }
    }
}

impl Socket {
    /// Opens a socket in the thread's network namespace.
    pub(crate) fn open(family: Family) -> Result<Self> {
        let protocol = match family {
            Family::Route => SockProtocol::NetlinkRoute,
            Family::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let fail = |source: io::Error| Error::Netlink {
            action: "open a socket for",
            target: format!("netlink ({family:?})"),
            reason: None,
            source,
        };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .map_err(|errno| fail(errno.into()))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(|errno| fail(errno.into()))?;
        sys::extended_acknowledgements(fd.as_fd()).map_err(fail)?;
        Ok(Self { fd, sequence: 1 })
    }

    /// Sends the batch and gives the first error back. Requests about links are independent of each other: those after
    /// an error are carried out too. A batch of rules is one transaction.
    pub(crate) fn execute(&mut self, mut batch: Batch) -> Result<()> {
        if batch.requests.is_empty() {
            return Ok(());
        }
        let first = self.sequence;
        batch.number(first);
        self.sequence = self.sequence.wrapping_add(batch.requests.len() as u32);
        let broken = |request: &Request, source: io::Error| Error::Netlink {
            action: request.action,
            target: request.target.clone(),
            reason: None,
            source,
        };
        send(self.fd.as_raw_fd(), &batch.buffer, MsgFlags::empty())
            .map_err(|errno| broken(&batch.requests[0], errno.into()))?;
        let mut buffer = vec![0; 16 * 1024];
        let mut failure = None;
        let mut waiting =
            batch.requests.iter().filter(|request| request.answered == Answer::Expected).count();
        while waiting > 0 {
            let length = match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                // The kernel stops answering at an error that breaks off a whole transaction.
                Err(nix::Error::EAGAIN) if failure.is_some() => break,
                Err(errno) => return Err(broken(&batch.requests[0], errno.into())),
            };
            for message in Messages(&buffer[..length]) {
                let index = message.sequence.wrapping_sub(first) as usize;
                let (TYPE_ERROR, Some(request)) = (message.kind, batch.requests.get(index)) else {
                    continue;
                };
                waiting = waiting.saturating_sub(1);
                if let Some(source) = message.error()
                    && failure.is_none()
                {
                    failure = Some(Error::Netlink {
                        action: request.action,
                        target: request.target.clone(),
                        reason: message.reason(),
                        source,
                    });
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Sends one request and hands each answer's payload to `each`: one for a get, all for a dump.
    pub(crate) fn query(
        &mut self,
        request: &impl NetlinkRequest,
        action: &'static str,
        target: &str,
        mut each: impl FnMut(&[u8]),
    ) -> Result<()> {
        let mut batch = Batch::default();
        batch.append(request, 0, action, target.to_owned(), Answer::Expected);
        batch.number(self.sequence);
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        let dump = request.flags() & libc::NLM_F_DUMP as u16 == libc::NLM_F_DUMP as u16;
        let fail =
            |reason, source: io::Error| Error::Netlink { action, target: target.to_owned(), reason, source };
        send(self.fd.as_raw_fd(), &batch.buffer, MsgFlags::empty())
            .map_err(|errno| fail(None, errno.into()))?;
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let length = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)
                .map_err(|errno| fail(None, errno.into()))?;
            for message in Messages(&buffer[..length]).filter(|message| message.sequence == sequence) {
                match message.kind {
                    TYPE_DONE => return Ok(()),
                    TYPE_ERROR => match message.error() {
                        Some(source) => return Err(fail(message.reason(), source)),
                        None => return Ok(()),
                    },
                    _ => each(message.payload),
                }
                if !dump {
                    return Ok(());
                }
            }
        }
    }
}

/// Whether the kernel refused a request with this error number.
pub(crate) fn is_errno(error: &Error, errno: i32) -> bool {
    matches!(error, Error::Netlink { source, .. } if source.raw_os_error() == Some(errno))
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Message<'_> {
    /// The error of an `NLMSG_ERROR`; `None` when it is an acknowledgement.
    fn error(&self) -> Option<io::Error> {
        let code = self.payload.first_chunk().map_or(-libc::EBADMSG, |bytes| i32::from_ne_bytes(*bytes));
        (code != 0).then(|| io::Error::from_raw_os_error(-code))
    }

    /// `NLMSGERR_ATTR_MSG` (1) of an extended acknowledgement.
    fn reason(&self) -> Option<String> {
        if self.flags & netlink_bindings::consts::NLM_F_ACK_TLVS as u16 == 0 {
            return None;
        }
        // The error number, and the header of the request (its body is left out with NETLINK_CAP_ACK).
        let mut attributes = self.payload.get(4 + HEADER..)?;
        loop {
            let (header, _) = attributes.split_first_chunk::<4>()?;
            let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
            let kind = u16::from_ne_bytes([header[2], header[3]]);
            let value = attributes.get(4..length)?;
            if kind == 1 {
                return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
            }
            attributes = attributes.get(length.next_multiple_of(4)..)?;
        }
    }
}

struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..HEADER)?;
        let length = u32::from_ne_bytes(*header.first_chunk()?) as usize;
        let payload = self.0.get(HEADER..length)?;
        let message = Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            payload,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}
