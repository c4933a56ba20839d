//! Init's heap: what it allocates for the set-up lies in one piece of its own image.
//!
//! That piece is made present at once ([`rkvm_linux::sys::memory::prefault`]); a heap that grows as it is used has a page fault for
//! every page, and again for every page that a child of init writes to. What does not fit goes to the C library's heap.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A block of this size and more, bytes, is the C library's: what passes through init, which its children have no use for.
const LARGE: usize = 64 << 10;
/// Bytes of the piece: twice what the set-up of a container with a hundred mounts takes.
const BYTES: usize = 512 << 10;

/// The allocator.
pub struct Heap {
    piece: UnsafeCell<[u8; BYTES]>,
    used: AtomicUsize,
}

// SAFETY: `used` only ever hands a byte of `piece` to one caller at a time.
unsafe impl Sync for Heap {}

impl Heap {
    /// An empty one.
    pub const fn new() -> Self {
        Self { piece: UnsafeCell::new([0; BYTES]), used: AtomicUsize::new(0) }
    }

    fn base(&self) -> *mut u8 {
        self.piece.get().cast()
    }

    /// Addresses of what has not been used, but for the `next` bytes.
    pub fn unused_behind(&self, next: usize) -> Range<usize> {
        let used = (self.used.load(Ordering::Relaxed) + next).min(BYTES);
        self.base().addr() + used..self.base().addr() + BYTES
    }

    /// Where `pointer` lies in the piece, if it does.
    fn offset(&self, pointer: *mut u8) -> Option<usize> {
        pointer.addr().checked_sub(self.base().addr()).filter(|offset| *offset < BYTES)
    }
}

// SAFETY: blocks of the piece are aligned, inside it, and handed out once: `used` moves forward past a block by compare-and-swap, and back
// only over the last block, by its owner. Everything else is the C library's.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let address = (self.base().addr() + used).next_multiple_of(layout.align());
            let start = address - self.base().addr();
            let fits = |end: &usize| *end <= BYTES && layout.size() < LARGE;
            let Some(end) = start.checked_add(layout.size()).filter(fits) else {
                // SAFETY: the caller's promises.
                return unsafe { System.alloc(layout) };
            };
            match self.used.compare_exchange_weak(used, end, Ordering::AcqRel, Ordering::Relaxed) {
                // SAFETY: `start` lies in the piece.
                Ok(_) => return unsafe { self.base().add(start) },
                Err(now) => used = now,
            }
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match self.offset(pointer) {
            // The last block is given back, others stay used: few are freed while the piece is being filled.
            Some(start) => {
                let end = start + layout.size();
                let _ = self.used.compare_exchange(end, start, Ordering::AcqRel, Ordering::Relaxed);
            }
            // SAFETY: it was the C library that gave it.
            None => unsafe { System.dealloc(pointer, layout) },
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(start) = self.offset(pointer) else {
            // SAFETY: it was the C library that gave it.
            return unsafe { System.realloc(pointer, layout, size) };
        };
        if let Some(end) = start.checked_add(size).filter(|end| *end <= BYTES) {
            let before = start + layout.size();
            // The last block grows and shrinks in place.
            if self.used.compare_exchange(before, end, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return pointer;
            }
        }
        // SAFETY: the caller promises a size that is not zero and does not overflow.
        let new = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !new.is_null() {
            // SAFETY: both blocks are this long at least, and do not overlap.
            unsafe {
                std::ptr::copy_nonoverlapping(pointer, new, size.min(layout.size()));
                self.dealloc(pointer, layout);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_apart_and_grow_in_place() {
        let heap = Box::new(Heap::new());
        let layout = |size, align| Layout::from_size_align(size, align).unwrap();
        // SAFETY: each block is used within its size, and given back with its layout.
        unsafe {
            let one = heap.alloc(layout(3, 1));
            let two = heap.alloc(layout(64, 64));
            assert_eq!(two.addr() % 64, 0);
            one.write_bytes(1, 3);
            two.write_bytes(2, 64);
            assert_eq!(heap.realloc(two, layout(64, 64), 128), two);
            let moved = heap.realloc(one, layout(3, 1), 100);
            assert_ne!(moved, one);
            assert_eq!((*moved, *moved.add(2), *two.add(63)), (1, 1, 2));
            heap.dealloc(moved, layout(100, 1));
            assert_eq!(heap.alloc(layout(100, 1)), moved);
        }
    }

    #[test]
    fn what_does_not_fit_or_is_large_is_the_c_librarys() {
        let heap = Box::new(Heap::new());
        let layout = |size| Layout::from_size_align(size, 1).unwrap();
        let half = layout(LARGE / 2);
        // SAFETY: as above.
        unsafe {
            let large = heap.alloc(layout(LARGE));
            assert!(heap.offset(large).is_none() && heap.unused_behind(0).len() == BYTES);
            heap.dealloc(large, layout(LARGE));
            let first = heap.alloc(half);
            let mut last = first;
            for _ in 1..BYTES / half.size() {
                last = heap.alloc(half);
            }
            assert!(heap.offset(last).is_some() && heap.unused_behind(0).is_empty());
            let outside = heap.alloc(layout(64));
            assert!(heap.offset(outside).is_none());
            outside.write_bytes(7, 64);
            let grown = heap.realloc(outside, layout(64), 4096);
            assert_eq!(*grown.add(63), 7);
            heap.dealloc(grown, layout(4096));
            // One of the piece that grows beyond it moves out.
            last.write_bytes(9, 8);
            let moved = heap.realloc(last, half, BYTES);
            assert!(heap.offset(moved).is_none());
            assert_eq!(*moved.add(7), 9);
            heap.dealloc(moved, layout(BYTES));
        }
    }

    #[test]
    fn what_is_unused_lies_behind_what_is() {
        let heap = Box::new(Heap::new());
        // SAFETY: as above.
        let block = unsafe { heap.alloc(Layout::from_size_align(100, 1).unwrap()) };
        let unused = heap.unused_behind(1000);
        assert_eq!(unused, block.addr() + 1100..block.addr() + BYTES);
        assert!(heap.unused_behind(BYTES).is_empty());
    }
}
