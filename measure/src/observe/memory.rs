//! What a waiting call's pointers point to.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::FileExt;

/// Largest path that is read (PATH_MAX).
const PATH_MAX: usize = 4096;
/// Pages are read one at a time, because the next one may not be there.
const PAGE: u64 = 4096;

/// `count` bytes or less at `address` of a process.
pub fn bytes(pid: u32, address: u64, count: usize) -> Vec<u8> {
    let mut buffer = vec![0; count];
    let file = File::open(format!("/proc/{pid}/mem"));
    let read = file.and_then(|file| file.read_at(&mut buffer, address)).unwrap_or(0);
    buffer.truncate(read);
    buffer
}

/// The zero-terminated string at `address`; `None` when it cannot be read.
pub fn string(pid: u32, address: u64) -> Option<String> {
    let mut text = vec![];
    let mut at = address;
    while text.len() < PATH_MAX {
        let chunk = bytes(pid, at, (PAGE - at % PAGE) as usize);
        if chunk.is_empty() {
            return None;
        }
        if let Some(end) = chunk.iter().position(|byte| *byte == 0) {
            text.extend_from_slice(&chunk[..end]);
            return Some(String::from_utf8_lossy(&text).into_owned());
        }
        at += chunk.len() as u64;
        text.extend(chunk);
    }
    None
}

/// What identifies the program that a process executes: its auxiliary vector has random addresses of each execve(2) in it.
pub fn program(pid: u32) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/auxv")).unwrap_or_default()
}

/// The path with which that program was executed (AT_EXECFN, getauxval(3)).
pub fn program_path(pid: u32, program: &[u8]) -> Option<String> {
    const AT_EXECFN: u64 = 31;
    let words = program.chunks_exact(8).filter_map(|word| Some(u64::from_ne_bytes(word.try_into().ok()?)));
    let words: Vec<u64> = words.collect();
    let entry = words.chunks_exact(2).find(|entry| entry[0] == AT_EXECFN)?;
    string(pid, entry[1])
}

/// A socket address (ip(7), ipv6(7), unix(7)).
pub fn address(bytes: &[u8]) -> Option<String> {
    let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    let port = || Some(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?));
    match i32::from(family) {
        nix::libc::AF_INET => {
            let octets: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(format!("{}:{}", IpAddr::V4(Ipv4Addr::from(octets)), port()?))
        }
        nix::libc::AF_INET6 => {
            let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            Some(format!("[{}]:{}", IpAddr::V6(Ipv6Addr::from(octets)), port()?))
        }
        nix::libc::AF_UNIX => {
            let path = bytes.get(2..)?;
            let (mark, path) = match path.first() {
                Some(0) => ("@", &path[1..]),
                _ => ("", path),
            };
            let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
            Some(format!("unix:{mark}{}", String::from_utf8_lossy(&path[..end])))
        }
        _ => Some(family_name(u64::from(family))),
    }
}

/// Name of an address family.
pub fn family_name(family: u64) -> String {
    match i32::try_from(family).unwrap_or(-1) {
        nix::libc::AF_UNIX => "AF_UNIX".to_owned(),
        nix::libc::AF_INET => "AF_INET".to_owned(),
        nix::libc::AF_INET6 => "AF_INET6".to_owned(),
        nix::libc::AF_NETLINK => "AF_NETLINK".to_owned(),
        nix::libc::AF_PACKET => "AF_PACKET".to_owned(),
        nix::libc::AF_VSOCK => "AF_VSOCK".to_owned(),
        nix::libc::AF_ALG => "AF_ALG".to_owned(),
        other => format!("address family {other}"),
    }
}
