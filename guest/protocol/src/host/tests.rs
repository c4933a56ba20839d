use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rkvm_oci::ExitStatus;

use super::*;
use crate::{STDIN_WINDOW, ToGuest, ToHost, VERSION};

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(20);

fn pair() -> (Connection, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Connection::new(ours).unwrap(), theirs)
}

/// A relay with its guest, the end that feeds standard input, and the end that reads both outputs.
fn relay() -> (Relay, UnixStream, UnixStream, UnixStream) {
    let (connection, guest) = pair();
    let (stdin, feeds) = UnixStream::pair().unwrap();
    let (stdout, reads) = UnixStream::pair().unwrap();
    let stderr = stdout.try_clone().unwrap();
    let streams = Streams::Files { stdin: stdin.into(), stdout: stdout.into(), stderr: stderr.into() };
    (Relay::new(connection, streams).unwrap(), guest, feeds, reads)
}

#[test]
fn a_relay_begins_with_what_the_guest_has_said_already() {
    let (mut connection, mut guest) = pair();
    let together = [ToHost::Ready, ToHost::Started { pid: 7 }].map(|message| message.encode()).concat();
    guest.write_all(&together).unwrap();
    assert!(matches!(connection.arrived(), Ok(Some(ToHost::Ready))));
    let null = || std::fs::File::options().read(true).write(true).open("/dev/null").unwrap().into();
    let streams = Streams::Files { stdin: null(), stdout: null(), stderr: null() };
    // Nothing is left to be read, so that no `poll` would tell of it.
    assert_eq!(Relay::new(connection, streams).unwrap().started(), Some(7));
}

#[test]
fn a_guest_that_says_nothing_closes_or_is_of_another_build_is_told_apart() {
    let (mut connection, _guest) = pair();
    assert!(matches!(connection.greet(SHORT), Err(Error::TimedOut(limit)) if limit == SHORT));
    let (mut connection, guest) = pair();
    drop(guest);
    assert!(matches!(connection.greet(LONG), Err(Error::Closed)));
    let (mut connection, mut guest) = pair();
    guest.write_all(&ToHost::Hello { version: VERSION + 1 }.encode()).unwrap();
    assert!(matches!(connection.greet(LONG), Err(Error::Version { theirs }) if theirs == VERSION + 1));
    let (mut connection, mut guest) = pair();
    guest.write_all(&ToHost::Ready.encode()).unwrap();
    assert!(matches!(connection.greet(LONG), Err(Error::Unexpected)));
}

#[test]
fn messages_that_came_together_are_all_found_without_waiting() {
    let (mut connection, mut guest) = pair();
    assert!(connection.arrived().unwrap().is_none());
    let whole = [ToHost::Hello { version: VERSION }.encode(), ToHost::Ready.encode()].concat();
    let (begin, end) = whole.split_at(whole.len() - 1);
    guest.write_all(begin).unwrap();
    assert!(matches!(connection.arrived(), Ok(Some(ToHost::Hello { version: VERSION }))));
    assert!(connection.arrived().unwrap().is_none(), "half a message");
    guest.write_all(end).unwrap();
    guest.write_all(&ToHost::StdinClosed.encode()).unwrap();
    drop(guest);
    assert!(matches!(connection.arrived(), Ok(Some(ToHost::Ready))));
    assert!(matches!(connection.arrived(), Ok(Some(ToHost::StdinClosed))));
    assert!(matches!(connection.arrived(), Err(Error::Closed)));
}

#[test]
fn output_arrives_before_the_end_and_input_keeps_to_its_window() {
    let (relay, mut guest, mut feeds, mut reads) = relay();
    let running = std::thread::spawn(move || relay.run());
    let feeder = std::thread::spawn(move || feeds.write_all(&vec![b'i'; 3 * STDIN_WINDOW]));
    guest.write_all(&ToHost::Started { pid: 7 }.encode()).unwrap();
    // Never more than the window before the guest has taken some.
    let (mut reader, mut taken) = (crate::FrameReader::new(), 0);
    let mut outstanding = 0;
    let mut bytes = vec![0; 64 << 10];
    while taken < 3 * STDIN_WINDOW {
        let count = guest.read(&mut bytes).unwrap();
        reader.push(&bytes[..count]);
        while let Some(message) = reader.next_message::<ToGuest>().unwrap() {
            if let ToGuest::Stdin(bytes) = message {
                outstanding += bytes.len();
                taken += bytes.len();
            }
        }
        assert!(outstanding <= STDIN_WINDOW, "{outstanding} bytes on their way");
        if outstanding == STDIN_WINDOW {
            guest.write_all(&ToHost::StdinTaken(outstanding as u32).encode()).unwrap();
            outstanding = 0;
        }
    }
    let output = vec![b'o'; 300_000];
    let reading = std::thread::spawn(move || {
        let mut all = Vec::new();
        reads.read_to_end(&mut all).map(|_| all)
    });
    for chunk in output.chunks(60_000) {
        guest.write_all(&ToHost::Stdout(chunk.to_vec()).encode()).unwrap();
    }
    guest.write_all(&ToHost::Ended(ExitStatus::Exited(4)).encode()).unwrap();
    assert_eq!(running.join().unwrap().unwrap(), Ended::Process(ExitStatus::Exited(4)));
    assert!(reading.join().unwrap().unwrap() == output);
    feeder.join().unwrap().unwrap();
}

#[test]
fn a_guest_that_lies_ends_its_relay_and_nothing_else() {
    let lies: [Vec<u8>; 7] = [
        vec![99, 0, 0, 0, 0, 0, 0, 0],
        vec![5, 0, 0, 0, 255, 255, 255, 255],
        vec![7, 0, 0, 0, 2, 0, 0, 0, 1, 65],
        // Memory kills and an end without a start, a second start, an answer that nobody asked for.
        ToHost::Ended(ExitStatus::Exited(0)).encode(),
        ToHost::OomKills(1).encode(),
        [ToHost::Started { pid: 1 }.encode(), ToHost::Started { pid: 1 }.encode()].concat(),
        ToHost::Ready.encode(),
    ];
    for lie in lies {
        let (relay, mut guest, _feeds, _reads) = relay();
        guest.write_all(&lie).unwrap();
        let error = relay.run().unwrap_err();
        assert!(matches!(error, Error::Protocol(_) | Error::Unexpected), "{error:?} for {lie:?}");
    }
    let (relay, guest, _feeds, _reads) = relay();
    drop(guest);
    assert!(matches!(relay.run().unwrap_err(), Error::Closed));
}

/// Changed copies of a good conversation: `RKVM_FUZZ_ROUNDS` for more than the usual ones.
#[test]
fn mutated_conversations_never_panic_hang_or_grow() {
    let rounds = std::env::var("RKVM_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(300_u64);
    let good = [
        ToHost::Started { pid: 1 }.encode(),
        ToHost::Stdout(b"some output".to_vec()).encode(),
        ToHost::StdinTaken(u32::MAX).encode(),
        ToHost::Stderr(b"e".to_vec()).encode(),
        ToHost::StdinClosed.encode(),
        ToHost::OomKills(u64::MAX).encode(),
        ToHost::Ended(ExitStatus::Exited(1)).encode(),
    ]
    .concat();
    for round in 1..=rounds {
        let mut state = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = |bound: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % bound as u64) as usize
        };
        let mut bytes = good.clone();
        for _ in 0..=next(4) {
            let at = next(bytes.len());
            match next(3) {
                0 => bytes[at] = next(256) as u8,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, next(256) as u8),
            }
        }
        let (relay, mut guest, _feeds, reads) = relay();
        guest.write_all(&bytes).unwrap();
        drop(guest);
        // Whatever it is taken for, it ends: the stream is closed.
        let _ = relay.run();
        reads.set_nonblocking(true).unwrap();
    }
}
