//! Init's heap: what it allocates for the set-up lies in one piece of its own image.
//!
//! That piece is made present at once ([`rkvm_linux::sys::memory::prefault`]); a heap that grows as it is used has a page fault for
//! every page, and again for every page that a child of init writes to. What does not fit goes to the C library's heap.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering};

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
            let Some(end) = start.checked_add(layout.size()).filter(|end| *end <= BYTES) else {
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
    fn what_does_not_fit_is_the_c_librarys() {
        let heap = Box::new(Heap::new());
        let layout = Layout::from_size_align(BYTES - 8, 1).unwrap();
        let small = Layout::from_size_align(64, 1).unwrap();
        // SAFETY: as above.
        unsafe {
            let inside = heap.alloc(layout);
            assert!(heap.offset(inside).is_some());
            let outside = heap.alloc(small);
            assert!(heap.offset(outside).is_none());
            outside.write_bytes(7, 64);
            let grown = heap.realloc(outside, small, 4096);
            assert_eq!(*grown.add(63), 7);
            heap.dealloc(grown, Layout::from_size_align(4096, 1).unwrap());
            // One of the piece that grows beyond it moves out.
            inside.write_bytes(9, 8);
            let moved = heap.realloc(inside, layout, BYTES + 1);
            assert!(heap.offset(moved).is_none());
            assert_eq!(*moved.add(7), 9);
            heap.dealloc(moved, Layout::from_size_align(BYTES + 1, 1).unwrap());
        }
    }
}
