//! One request: from a descriptor chain to the file server and back.

use std::io::Write;
use std::mem::size_of;

use virtio_queue_fs::DescriptorChain;
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::fuse::{InHeader, Opcode, OutHeader};
use vm_memory_fs::ByteValued;

use super::confined::Served;
use super::sys::FsMemory;

/// A chain of the guest's.
pub(super) type Chain<'a> = DescriptorChain<&'a FsMemory>;

/// Most bytes in each direction of a request: the largest read or write that the server agrees to, and headers. An indirect table can
/// name the same memory 65536 times over, and the host would spend its time on it.
const MAX_BYTES: u64 = (1 << 20) + (64 << 10);
/// Most descriptors of a request: a page each of the largest read or write, headers, and room for drivers that split more finely.
/// Above 1024 the host's kernel would refuse the transfer.
const MAX_DESCRIPTORS: usize = 1024;

/// Serves the request in `chain`; the number of bytes written to the guest's memory, 0 for what is not a request.
pub(super) fn handle(server: &Served, memory: &FsMemory, chain: Chain<'_>) -> u32 {
    let Some(writable) = check(chain.clone()) else { return 0 };
    let (Ok(reader), Ok(writer)) = (Reader::new(memory, chain.clone()), Writer::new(memory, chain)) else {
        return 0;
    };
    let Ok(header) = reader.clone().read_obj::<InHeader>() else { return 0 };
    let reply = match Opcode::try_from(header.opcode) {
        Ok(Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt | Opcode::Destroy) => Reply::Never,
        _ => Reply::Always,
    };
    if matches!(reply, Reply::Always) && writable < size_of::<OutHeader>() as u64 {
        // The server takes for granted that there is room for the header of its reply.
        return 0;
    }
    let refusal = writer.clone();
    let written = match server.handle(reader, writer) {
        Ok(written) => written,
        Err(_) if matches!(reply, Reply::Never) => 0,
        Err(_) => refuse(refusal, header.unique),
    };
    u32::try_from(written).unwrap_or(u32::MAX)
}

/// Whether the guest waits for an answer.
enum Reply {
    Always,
    Never,
}

/// Counts the writable bytes of a chain that is within the limits.
fn check(chain: Chain<'_>) -> Option<u64> {
    let (mut readable, mut writable) = (0_u64, 0_u64);
    for (index, descriptor) in chain.enumerate() {
        let side = if descriptor.is_write_only() { &mut writable } else { &mut readable };
        *side += u64::from(descriptor.len());
        if index >= MAX_DESCRIPTORS || readable > MAX_BYTES || writable > MAX_BYTES {
            return None;
        }
    }
    Some(writable)
}

/// Answers a message that the server cannot make sense of with an error, so that the guest's process does not wait for ever.
fn refuse(mut writer: Writer<'_>, unique: u64) -> usize {
    let header = OutHeader { len: size_of::<OutHeader>() as u32, error: -libc::EINVAL, unique };
    writer.write_all(header.as_slice()).map_or(0, |()| size_of::<OutHeader>())
}
