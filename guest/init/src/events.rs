//! The loop: streams of the host, output of processes, children that end.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};

use rkvm_guest_protocol::{INIT_PORT, SERVICE_PORT, TEMPLATE_WORD, marker};
use rkvm_oci::{Error, Result};

use crate::session::{Session, Source};
use crate::sys;
use crate::workload::Machine;

/// Most sessions at once; the host is told by a closed stream.
const MAX_SESSIONS: usize = 256;

/// What a descriptor in the poll set belongs to.
#[derive(Debug, Clone, Copy)]
enum Owner {
    Children,
    Listener,
    Session(usize, Source),
}

/// Serves until the machine's own session is over.
///
/// # Errors
/// The host cannot be reached.
pub fn run(marker: &mut sys::Marker) -> Result<()> {
    let failed =
        |action: &'static str, port: u32| move |source| Error::failed(action, format!("port {port}"), source);
    let children = File::from(
        sys::child_signals().map_err(|source| Error::failed("watch", "processes that end", source))?,
    );
    let listener = sys::listen(SERVICE_PORT).map_err(failed("listen on", SERVICE_PORT))?;
    let mut machine = Machine::default();
    if std::env::var_os(TEMPLATE_WORD).is_some() && machine.get_ready()? {
        marker.mark(marker::TEMPLATE);
        // Here, or in another machine.
        marker.mark(marker::RESUMED);
    }
    let stream = sys::connect_to_host(INIT_PORT).map_err(failed("connect to the host's", INIT_PORT))?;
    let mut sessions = vec![Session::new(stream, true)];
    while sessions.first().is_some_and(|main| !main.is_over()) {
        let (owners, mut set) = poll_set(&children, &listener, &sessions);
        sys::poll(&mut set).map_err(|source| Error::failed("wait for", "events", source))?;
        for (owner, _) in owners.iter().zip(&set).filter(|(_, ready)| ready.revents != 0) {
            match *owner {
                Owner::Children => reap(&children, &mut sessions, &mut machine),
                Owner::Listener => accept(&listener, &mut sessions),
                Owner::Session(index, source) => sessions[index].handle(source, &mut machine, marker),
            }
        }
        let mut index = 0;
        // The first one is the machine's own; the loop's condition sees to it.
        sessions.retain(|session| {
            index += 1;
            index == 1 || !session.is_over()
        });
    }
    sessions.into_iter().for_each(Session::close);
    Ok(())
}

fn poll_set(children: &File, listener: &OwnedFd, sessions: &[Session]) -> (Vec<Owner>, Vec<libc::pollfd>) {
    let entry = |fd, events| libc::pollfd { fd, events, revents: 0 };
    let mut owners = vec![Owner::Children];
    let mut set = vec![entry(children.as_raw_fd(), libc::POLLIN)];
    if sessions.len() < MAX_SESSIONS {
        owners.push(Owner::Listener);
        set.push(entry(listener.as_raw_fd(), libc::POLLIN));
    }
    for (index, session) in sessions.iter().enumerate() {
        for (source, fd, events) in session.interests() {
            owners.push(Owner::Session(index, source));
            set.push(entry(fd, events));
        }
    }
    (owners, set)
}

fn accept(listener: &OwnedFd, sessions: &mut Vec<Session>) {
    while sessions.len() < MAX_SESSIONS
        && let Ok((stream, peer)) = sys::accept(listener)
    {
        // Only the host may start processes; a program in the machine could otherwise become root through us.
        if peer == libc::VMADDR_CID_HOST {
            sessions.push(Session::new(stream, false));
        }
    }
}

fn reap(mut children: &File, sessions: &mut [Session], machine: &mut Machine) {
    let mut discard = [0; 512];
    let _ = children.read(&mut discard);
    while let Some((pid, status)) = sys::reap() {
        if let Some(session) = sessions.iter_mut().find(|session| session.pid() == Some(pid)) {
            session.ended(status, machine);
        }
    }
}
