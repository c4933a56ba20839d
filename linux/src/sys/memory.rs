//! The memory of the calling program.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of stack below the caller's that are made present: what making a container takes, and no more than fits into the stack that execve(2)
/// sets up.
const STACK_BYTES: usize = 64 << 10;
/// Bytes of stack above the caller's that a program comes back to.
const CALLERS_BYTES: usize = 48 << 10;
const PAGE_BYTES: usize = 4096;

/// A part of the program's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    start: usize,
    end: usize,
    writable: bool,
}

/// What [`spare`] has been told.
static SPARE: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// Has [`prefault`] leave out the data at these addresses: nothing is there yet, and little will be. A page that is used nevertheless takes
/// a page fault.
pub fn spare(addresses: Range<usize>) {
    SPARE[0].store(addresses.start.next_multiple_of(PAGE_BYTES), Ordering::Relaxed);
    SPARE[1].store(addresses.end & !(PAGE_BYTES - 1), Ordering::Relaxed);
}

/// Makes the program's code, data and stack present and its own (madvise(2), Linux 5.14), for a program that will use most of it: a page
/// fault in a PVM guest takes 0.15 ms, and this takes a tenth of that for everything. Also after a fork, whose child otherwise copies
/// each page when it first writes to it. What cannot be done is left to page faults.
pub fn prefault() {
    used_image().for_each(advise);
    advise_stack(STACK_BYTES, 0);
}

/// Makes the program's data and stack its own again after a fork, for a program that goes on beside its child: until then the first write to
/// each page is a page fault, even to one that the child has copied.
pub fn regain() {
    used_image().filter(|part| part.writable).for_each(advise);
    advise_stack(STACK_BYTES / 4, CALLERS_BYTES);
}

/// The program's image without what is spare.
fn used_image() -> impl Iterator<Item = Part> {
    let spare = SPARE[0].load(Ordering::Relaxed)..SPARE[1].load(Ordering::Relaxed);
    image().into_iter().flat_map(move |part| without(part, &spare))
}

/// Makes stack present, so many bytes below and above the caller's. Where it ends before, the kernel stops there.
#[inline(never)]
fn advise_stack(below: usize, above: usize) {
    let here = 0u8;
    let stack = (&raw const here).addr();
    advise(Part { start: stack - below, end: stack + above, writable: true });
}

/// `part` before and behind `spare`.
fn without(part: Part, spare: &Range<usize>) -> [Part; 2] {
    if spare.is_empty() || spare.start < part.start || spare.end > part.end {
        return [part, Part { start: part.end, ..part }];
    }
    [Part { end: spare.start, ..part }, Part { start: spare.end, ..part }]
}

fn advise(part: Part) {
    if part.start >= part.end {
        return;
    }
    let start = part.start & !(PAGE_BYTES - 1);
    let end = part.end.next_multiple_of(PAGE_BYTES);
    let advice = if part.writable { libc::MADV_POPULATE_WRITE } else { libc::MADV_POPULATE_READ };
    // SAFETY: both kinds of advice change no content.
    unsafe { libc::madvise(std::ptr::without_provenance_mut(start), end.saturating_sub(start), advice) };
}

/// The program's segments, from its headers as the kernel has left them in memory (getauxval(3)).
fn image() -> Vec<Part> {
    // SAFETY: no pointers are passed.
    let (headers, count) = unsafe { (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM)) };
    if headers == 0 {
        return vec![];
    }
    let first = std::ptr::with_exposed_provenance::<libc::Elf64_Phdr>(headers as usize);
    // SAFETY: the kernel says that this many headers are there, and they stay as long as the program.
    let headers_here = unsafe { std::slice::from_raw_parts(first, count as usize) };
    parts(headers_here, headers as usize)
}

fn parts(headers: &[libc::Elf64_Phdr], address: usize) -> Vec<Part> {
    let find = |kind: u32| headers.iter().find(|header| header.p_type == kind);
    // A program at a fixed address needs no PT_PHDR.
    let base = find(libc::PT_PHDR).map_or(0, |own| address - own.p_vaddr as usize);
    let part = |header: &libc::Elf64_Phdr| {
        let start = base + header.p_vaddr as usize;
        Part { start, end: start + header.p_memsz as usize, writable: header.p_flags & libc::PF_W != 0 }
    };
    // What the runtime has made read-only after it was relocated.
    let relocated = find(libc::PT_GNU_RELRO).map(part);
    let loaded = headers.iter().filter(|header| header.p_type == libc::PT_LOAD).map(part);
    loaded
        .map(|whole| match relocated {
            Some(fixed) if fixed.start >= whole.start && fixed.start < whole.end => {
                Part { start: fixed.end.next_multiple_of(PAGE_BYTES).min(whole.end), ..whole }
            }
            _ => whole,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Whether everything at `start` is in memory.
    fn is_resident(start: usize, bytes: usize) -> io::Result<bool> {
        let first = start & !(PAGE_BYTES - 1);
        let mut pages = vec![0u8; (start + bytes - first).div_ceil(PAGE_BYTES)];
        // SAFETY: one byte a page is written.
        let result = unsafe {
            libc::mincore(std::ptr::without_provenance_mut(first), start + bytes - first, pages.as_mut_ptr())
        };
        super::super::check(libc::c_long::from(result))?;
        Ok(pages.iter().all(|page| page & 1 == 1))
    }

    /// Zeros, which no page stands for until somebody writes to one.
    static mut UNTOUCHED: [u8; 64 * PAGE_BYTES] = [0; 64 * PAGE_BYTES];

    #[test]
    fn what_is_spare_is_left_out_of_the_part_that_has_it() {
        let part = |start, end| Part { start, end, writable: true };
        assert_eq!(
            without(part(0x1000, 0x9000), &(0x3000..0x7000)),
            [part(0x1000, 0x3000), part(0x7000, 0x9000)]
        );
        for other in [0..0, 0x3000..0xa000, 0xa000..0xb000] {
            assert_eq!(without(part(0x1000, 0x9000), &other), [part(0x1000, 0x9000), part(0x9000, 0x9000)]);
        }
    }

    #[test]
    fn data_that_nobody_has_touched_is_there_afterwards() {
        let start = (&raw const UNTOUCHED).addr();
        assert!(!is_resident(start, 64 * PAGE_BYTES).unwrap());
        prefault();
        assert!(is_resident(start, 64 * PAGE_BYTES).unwrap());
    }
}
