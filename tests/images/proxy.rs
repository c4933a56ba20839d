//! A line between client and registry that breaks.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Forwards connections to a registry; the first ones that carry much are cut.
pub struct Proxy {
    pub port: u16,
    seen: Arc<Mutex<String>>,
    cuts: Arc<AtomicU32>,
}

impl Proxy {
    /// Cuts `cuts` connections after they have carried `after` bytes to the client.
    pub fn start(to: u16, after: usize, cuts: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(String::new()));
        let left = Arc::new(AtomicU32::new(cuts));
        let (log, counter) = (Arc::clone(&seen), Arc::clone(&left));
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, log, counter) = (client.unwrap(), Arc::clone(&log), Arc::clone(&counter));
                thread::spawn(move || carry(client, to, after, &log, &counter));
            }
        });
        Self { port, seen, cuts: left }
    }

    /// All that clients said.
    pub fn requests(&self) -> String {
        self.seen.lock().unwrap().clone()
    }

    /// Cuts that were not made yet.
    pub fn cuts_left(&self) -> u32 {
        self.cuts.load(Ordering::SeqCst)
    }
}

fn carry(mut client: TcpStream, to: u16, after: usize, log: &Arc<Mutex<String>>, cuts: &AtomicU32) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)) else { return };
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let log = Arc::clone(log);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from_client.read(&mut buffer) {
            log.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
            if to_server.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let mut buffer = vec![0; 64 * 1024];
    let mut carried = 0;
    while let Ok(length @ 1..) = server.read(&mut buffer) {
        carried += length;
        let cut = |left: u32| left.checked_sub(1);
        if carried > after && cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, cut).is_ok() {
            break;
        }
        if client.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}
