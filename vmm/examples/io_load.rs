//! Load for measuring a machine's devices, for both ends: a disk is read or written past the page cache, a TCP stream is filled or emptied.
//! Prints one JSON line a run. `dev/bench-vm-io.sh` runs it in guests and on the host.
//!
//! ```text
//! io_load disk DEVICE read|write sequential|random BLOCK_BYTES THREADS SECONDS
//! io_load send ADDRESS SECONDS      connects, and sends as fast as it goes
//! io_load receive ADDRESS SECONDS   connects, and receives as fast as it goes
//! io_load round-trips ADDRESS SECONDS   connects, and sends a byte for each that comes back
//! io_load serve ADDRESS             is the other end of these three, until it is killed
//! ```
#![allow(clippy::unwrap_used, reason = "a developer's tool")]

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PAGE: usize = 4096;
const STREAM_BYTES: usize = 128 << 10;
const READ: u8 = b's';
const WRITE: u8 = b'r';
const ECHO: u8 = b'e';

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["disk", device, direction, order, block, threads, seconds] => {
            disk(device, direction, order, block.parse().unwrap(), threads.parse().unwrap(), limit(seconds));
        }
        [what @ ("send" | "receive" | "round-trips"), address, seconds] => {
            stream(what, address, limit(seconds))
        }
        ["serve", address] => serve(address),
        _ => panic!("see the first lines of this program's source"),
    }
}

fn limit(seconds: &str) -> Duration {
    Duration::from_secs_f64(seconds.parse().unwrap())
}

fn report(what: &str, operations: u64, bytes: u64, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    println!(
        "{{\"test\":\"{what}\",\"operations\":{operations},\"bytes\":{bytes},\"seconds\":{seconds:.4},\"mb_per_s\":{:.1},\"per_s\":{:.1}}}",
        bytes as f64 / 1e6 / seconds,
        operations as f64 / seconds
    );
}

fn disk(device: &str, direction: &str, order: &str, block: usize, threads: u64, limit: Duration) {
    let file = OpenOptions::new()
        .read(true)
        .write(direction == "write")
        .custom_flags(libc::O_DIRECT)
        .open(device)
        .unwrap();
    let blocks = std::io::Seek::seek(&mut (&file), std::io::SeekFrom::End(0)).unwrap() / block as u64;
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    thread::scope(|scope| {
        for thread in 0..threads {
            let (file, next, done) = (&file, &next, &done);
            scope.spawn(move || {
                // The medium wants its buffers aligned.
                let mut space = vec![thread as u8; block + PAGE];
                let start = space.as_ptr().align_offset(PAGE);
                let buffer = &mut space[start..start + block];
                let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ (thread << 32 | 1);
                while begun.elapsed() < limit {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let at = match order {
                        "random" => random,
                        _ => next.fetch_add(1, Ordering::Relaxed),
                    } % blocks
                        * block as u64;
                    match direction {
                        "write" => file.write_all_at(buffer, at).unwrap(),
                        _ => file.read_exact_at(buffer, at).unwrap(),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let operations = done.load(Ordering::Relaxed);
    let what = format!("disk {direction} {order} {block} x{threads}");
    report(&what, operations, operations * block as u64, begun.elapsed());
}

fn stream(what: &str, address: &str, limit: Duration) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    // What the other end is to do.
    let kind = match what {
        "send" => READ,
        "receive" => WRITE,
        _ => ECHO,
    };
    stream.write_all(&[kind]).unwrap();
    let mut buffer = vec![0_u8; if what == "round-trips" { 1 } else { STREAM_BYTES }];
    let (mut operations, mut bytes) = (0, 0);
    let begun = Instant::now();
    while begun.elapsed() < limit {
        bytes += match what {
            "send" => stream.write(&buffer).unwrap(),
            "receive" => stream.read(&mut buffer).unwrap(),
            _ => {
                stream.write_all(&buffer).unwrap();
                stream.read(&mut buffer).unwrap()
            }
        } as u64;
        operations += 1;
    }
    report(&format!("net {what}"), operations, bytes, begun.elapsed());
}

/// Takes connections one after the other; the first byte says what the other end does.
fn serve(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        thread::spawn(move || -> std::io::Result<()> {
            stream.set_nodelay(true)?;
            let mut kind = [0];
            stream.read_exact(&mut kind)?;
            let mut buffer = vec![0_u8; STREAM_BYTES];
            loop {
                let count = match kind[0] {
                    READ => stream.read(&mut buffer)?,
                    WRITE => stream.write(&buffer)?,
                    _ => {
                        let count = stream.read(&mut buffer)?;
                        stream.write_all(&buffer[..count])?;
                        count
                    }
                };
                if count == 0 {
                    return Ok(());
                }
            }
        });
    }
}
