//! Guests for tests and benchmarks: the real kernel with an init of a few machine instructions.

#![allow(dead_code, reason = "each test and benchmark uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::path::{Path, PathBuf};

use rkvm_vmm::Image;
use rkvm_vmm::initramfs::Archive;

/// Folder in which an initramfs of [`initramfs`] has its port device.
const PORT: &str = "port";

/// The kernel that `./x guest` has built for this host.
pub fn kernel() -> PathBuf {
    if let Some(path) = std::env::var_os("RKVM_TEST_KERNEL") {
        return path.into();
    }
    let cache = std::env::var_os("RKVM_CACHE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache"), PathBuf::from)
        .join("guest-kernel");
    let variant = if Path::new("/sys/module/kvm_pvm").exists() { "pvm-" } else { "plain-" };
    let built = std::fs::read_dir(&cache).into_iter().flatten().flatten();
    let newest = built
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(variant))
        .map(|entry| entry.path().join("vmlinux"))
        .filter(|path| path.exists())
        .max_by_key(|path| path.metadata().unwrap().modified().unwrap());
    newest.unwrap_or_else(|| panic!("no guest kernel {variant}* in {}: run ./x guest", cache.display()))
}

/// An initramfs whose init is `code`, with `/port` (the I/O ports) and an empty `/sys`.
pub fn initramfs(code: &[u8]) -> Vec<u8> {
    let mut archive = Archive::new(Vec::new());
    archive.folder("sys", 0o755).unwrap();
    archive.character_device(PORT, 0o600, 1, 4).unwrap();
    archive.file("init", 0o755, &program(code)).unwrap();
    archive.finish().unwrap()
}

/// `content` as an open file without a name.
pub fn image(name: &str, content: &[u8]) -> Image {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    Image { name: name.into(), file }
}

/// A static program for Linux: one segment at 4 MiB, entered at its first byte; 4 KiB of zeros lie behind the code.
fn program(code: &[u8]) -> Vec<u8> {
    elf(0x40_0000, code, 4096)
}

/// An ELF file with one segment of machine code at `address`, entered at its first byte, and `zeros` bytes behind it.
pub fn elf(address: u64, code: &[u8], zeros: u64) -> Vec<u8> {
    const HEADERS: u64 = 0x1000;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |file: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    let word = |file: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    let long = |file: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    half(&mut file, &[2, 62]); // executable, x86-64
    word(&mut file, &[1]);
    long(&mut file, &[address, 64, 0]); // entry, program headers, section headers
    word(&mut file, &[0]);
    half(&mut file, &[64, 56, 1, 0, 0, 0]);
    word(&mut file, &[1, 7]); // load; read, write, execute
    let bytes = code.len() as u64;
    long(&mut file, &[HEADERS, address, address, bytes, bytes + zeros, 0x1000]);
    file.resize(HEADERS as usize, 0);
    file.extend_from_slice(code);
    file
}

/// Code that writes marker `value` through `/port`; init begins without descriptors.
pub fn mark(value: u8) -> Vec<u8> {
    let mut code = open("/port");
    code.extend([0x6a, value]); // push the byte
    code.extend(pwrite_stack());
    code
}

/// Code that writes the marker `base` plus the number of processors that this process may use.
pub fn mark_processors(base: u8) -> Vec<u8> {
    let mut code = vec![0x48, 0x81, 0xec, 0, 1, 0, 0]; // rsp -= 256
    code.extend([0x31, 0xff, 0xbe, 128, 0, 0, 0, 0x48, 0x89, 0xe2]); // edi = 0, esi = 128, rdx = rsp
    code.extend(syscall(204)); // sched_getaffinity
    code.extend([0x48, 0x8b, 0x04, 0x24, 0x31, 0xdb]); // rax = mask, ebx = 0
    code.extend([0x89, 0xc1, 0x83, 0xe1, 1, 0x01, 0xcb, 0x48, 0xd1, 0xe8, 0x75, 0xf4]); // count its bits
    code.extend([0x80, 0xc3, base]); // bl += base
    code.extend(open("/port"));
    code.push(0x53); // push rbx
    code.extend(pwrite_stack());
    code
}

/// Code that leaves the address of `text` in rdi.
fn text(text: &str) -> Vec<u8> {
    let mut code = vec![0xe8]; // call over the text, which pushes its address
    code.extend((text.len() as u32 + 1).to_le_bytes());
    code.extend(text.as_bytes());
    code.extend([0, 0x5f]); // pop rdi
    code
}

/// Code that opens `path` for writing and leaves the descriptor in edi.
fn open(path: &str) -> Vec<u8> {
    let mut code = text(path);
    code.extend([0xbe, 1, 0, 0, 0, 0x31, 0xd2]); // esi = O_WRONLY, edx = 0
    code.extend(syscall(2));
    code.extend([0x89, 0xc7]);
    code
}

/// Code that starts processors 1 to `count` - 1, as an init does for `Processors::ByInit`.
pub fn start_processors(count: u8) -> Vec<u8> {
    let mut code = text("sysfs");
    code.extend([0x48, 0x89, 0xfa]); // rdx = the kind
    code.extend(text("/sys"));
    code.extend([0x48, 0x89, 0xfe, 0x48, 0x89, 0xd7]); // rsi = target, rdi = source, which may be any text
    code.extend([0x45, 0x31, 0xd2, 0x45, 0x31, 0xc0]); // r10 = flags, r8 = data
    code.extend(syscall(165));
    for processor in 1..count {
        code.extend(open(&format!("/sys/devices/system/cpu/cpu{processor}/online")));
        code.extend([0x6a, b'1', 0x48, 0x89, 0xe6, 0xba, 1, 0, 0, 0]); // rsi = "1" on the stack, edx = 1
        code.extend(syscall(1));
    }
    code
}

/// Code that writes one byte from the top of the stack at offset 0x5b0 of the file edi.
fn pwrite_stack() -> Vec<u8> {
    let mut code = vec![0x48, 0x89, 0xe6, 0xba, 1, 0, 0, 0, 0x41, 0xba, 0xb0, 0x05, 0, 0];
    code.extend(syscall(18));
    code
}

/// `mov eax, number; syscall`.
pub fn syscall(number: u32) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend(number.to_le_bytes());
    code.extend([0x0f, 0x05]);
    code
}

/// Code that sleeps for good.
pub fn pause() -> Vec<u8> {
    [syscall(34), vec![0xeb, 0xf7]].concat()
}

/// Code that spins for good.
pub fn spin() -> Vec<u8> {
    vec![0xeb, 0xfe]
}

/// Code that makes init end, which makes the kernel panic.
pub fn exit(code: u8) -> Vec<u8> {
    [vec![0xbf, code, 0, 0, 0], syscall(231)].concat()
}

/// Code that asks the kernel for a reboot.
pub fn reboot() -> Vec<u8> {
    let mut code =
        vec![0xbf, 0xad, 0xde, 0xe1, 0xfe, 0xbe, 0x69, 0x19, 0x12, 0x28, 0xba, 0x67, 0x45, 0x23, 0x01];
    code.extend(syscall(169));
    code
}
