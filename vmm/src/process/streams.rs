//! The container's streams, which are this process's own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rkvm_guest_protocol::host::Streams;
use rkvm_oci::{Error, Result};

/// The streams, and the terminal's descriptor for its size, if they are one.
///
/// # Errors
/// No descriptors are left.
pub(super) fn take(terminal: bool) -> Result<(Streams, Option<OwnedFd>)> {
    let failed = |source| Error::failed("take over", "the container's streams", source);
    let own = |stream: BorrowedFd<'_>| stream.try_clone_to_owned().map_err(failed);
    let stdin = own(std::io::stdin().as_fd())?;
    if terminal {
        let copy = stdin.try_clone().map_err(failed)?;
        return Ok((Streams::Terminal(stdin), Some(copy)));
    }
    let (stdout, stderr) = (own(std::io::stdout().as_fd())?, own(std::io::stderr().as_fd())?);
    Ok((Streams::Files { stdin, stdout, stderr }, None))
}
