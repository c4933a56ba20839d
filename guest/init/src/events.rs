//! The loop: streams of the host, output of processes, children that end.

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};

use rkvm_guest_protocol::{EXEC_PORT, INIT_PORT};

use crate::fail::{Fail, Result};
use crate::machine;
use crate::session::{Machine, Session, Source};
use crate::sys;

/// Most sessions at once; the host is told by a closed stream.
const MAX_SESSIONS: usize = 128;

/// What a descriptor in the poll set belongs to.
#[derive(Debug, Clone, Copy)]
enum Owner {
    Children,
    Listener,
    Session(usize, Source),
}

/// Serves until the machine's own session is over.
pub fn run() -> Result<()> {
    machine::first_mounts()?;
    let children = sys::child_signals().map_err(Fail::on("watch", "children"))?;
    let stream =
        sys::connect_to_host(INIT_PORT).map_err(Fail::on("connect to the host's port", INIT_PORT))?;
    let listener = sys::listen(EXEC_PORT).map_err(Fail::on("listen on port", EXEC_PORT))?;
    let mut machine = Machine::default();
    let mut sessions = vec![Session::new(stream, true)];
    while sessions.first().is_some_and(|main| main.is_main() && !main.is_over()) {
        let (owners, mut set) = poll_set(&children, &listener, &sessions);
        sys::poll(&mut set).map_err(Fail::on("wait for", "events"))?;
        for (owner, _) in owners.iter().zip(&set).filter(|(_, ready)| ready.revents != 0) {
            match *owner {
                Owner::Children => reap(&children, &mut sessions),
                Owner::Listener => accept(&listener, &mut sessions),
                Owner::Session(index, source) => {
                    sessions[index].handle(source, &mut machine);
                }
            }
        }
        let mut index = 0;
        // The first one is the machine's own; the loop's condition sees to it.
        sessions.retain(|session| {
            index += 1;
            index == 1 || !session.is_over()
        });
    }
    Ok(())
}

fn poll_set(children: &OwnedFd, listener: &OwnedFd, sessions: &[Session]) -> (Vec<Owner>, Vec<libc::pollfd>) {
    let entry = |fd, events| libc::pollfd { fd, events, revents: 0 };
    let mut owners = vec![Owner::Children, Owner::Listener];
    let mut set = vec![entry(children.as_raw_fd(), libc::POLLIN), entry(listener.as_raw_fd(), libc::POLLIN)];
    for (index, session) in sessions.iter().enumerate() {
        for (source, fd, events) in session.interests() {
            owners.push(Owner::Session(index, source));
            set.push(entry(fd, events));
        }
    }
    (owners, set)
}

fn accept(listener: &OwnedFd, sessions: &mut Vec<Session>) {
    while let Ok((stream, peer)) = sys::accept(listener) {
        // Only the host may start processes; a program in the machine could otherwise become root through us.
        if peer == libc::VMADDR_CID_HOST && sessions.len() < MAX_SESSIONS {
            sessions.push(Session::new(stream, false));
        }
    }
}

fn reap(children: &OwnedFd, sessions: &mut [Session]) {
    let mut discard = [0; 512];
    if let Ok(mut file) = children.try_clone().map(std::fs::File::from) {
        let _ = file.read(&mut discard);
    }
    while let Some((pid, status)) = sys::reap() {
        if let Some(session) = sessions.iter_mut().find(|session| session.pid() == Some(pid)) {
            session.ended(status);
        }
    }
}
