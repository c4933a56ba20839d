//! Handing the listener's descriptor to the agent that answers SCMP_ACT_NOTIFY.

use std::io::{IoSlice, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use oci_spec::runtime::{ContainerProcessState, SECCOMP_FD_NAME, State};
use rkvm_oci::{Error, Result};

use super::Listener;

impl Listener {
    /// Connects to the agent and sends it the container process state, as JSON, with the descriptor (runtime-spec,
    /// "Container Process State"). `pid` is the process that loaded the filter, `state` the container's.
    ///
    /// # Errors
    /// The agent does not listen, or the connection breaks.
    pub fn send(&self, listener: BorrowedFd<'_>, pid: i32, state: State) -> Result<()> {
        let failed = |source: std::io::Error| {
            Error::failed("hand the seccomp listener to", self.path.display(), source)
                .hint("the agent named by linux.seccomp.listenerPath must be listening")
        };
        let json = serde_json::to_vec(&self.message(pid, state))
            .map_err(|source| Error::Malformed { path: self.path.clone(), source })?;
        let mut socket = UnixStream::connect(&self.path).map_err(failed)?;
        let fds = [listener.as_raw_fd()];
        let sent = sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(&json)],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .map_err(|errno| failed(errno.into()))?;
        socket.write_all(&json[sent..]).map_err(failed)
    }

    fn message(&self, pid: i32, state: State) -> ContainerProcessState {
        let mut message = ContainerProcessState::default();
        message.set_version(state.version().clone()).set_fds(vec![SECCOMP_FD_NAME.to_owned()]);
        message.set_pid(pid).set_metadata(self.metadata.clone()).set_state(state);
        message
    }
}
