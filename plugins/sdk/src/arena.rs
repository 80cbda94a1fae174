//! The allocator of components: a bump arena inside the memory that an instance starts with.
//!
//! An instance lives for one request, so a short request never needs freed memory again. It also never calls
//! `memory.grow`, which costs the host two changes of page protection. The last block grows and shrinks in place, and
//! freeing it makes its memory available again; other blocks stay allocated. A block that does not fit comes from the
//! standard library's allocator. The arena is for one thread: WebAssembly components of this kind have no other.

#![allow(unsafe_code, reason = "a global allocator works with pointers; each block states its rules")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};

/// Enough for a request with some tens of kilobytes of body and rows.
const SIZE: usize = 256 * 1024;

/// `SIZE` bytes, allocated from the front.
#[doc(hidden)]
#[derive(Debug)]
pub struct Arena {
    memory: UnsafeCell<Memory>,
    /// Allocated bytes.
    used: Cell<usize>,
}

#[repr(C, align(16))]
#[derive(Debug)]
struct Memory([u8; SIZE]);

// SAFETY: `Arena` is only used as the global allocator of components, which have one thread, and by tests that use each
// arena from one thread.
unsafe impl Sync for Arena {}

impl Arena {
    /// Creates an arena of zeros. It takes no space in the component, and no page in the host until it is written to.
    #[allow(clippy::new_without_default, reason = "a static is built with a constant function")]
    pub const fn new() -> Self {
        Self { memory: UnsafeCell::new(Memory([0; SIZE])), used: Cell::new(0) }
    }

    fn base(&self) -> *mut u8 {
        self.memory.get().cast()
    }

    /// Returns the offset of a block from the front of the arena; `None` for a block of the system's allocator.
    fn offset(&self, block: *mut u8) -> Option<usize> {
        let offset = block.addr().wrapping_sub(self.base().addr());
        (offset < SIZE).then_some(offset)
    }

    /// Returns whether the block at `offset` is the last allocated one.
    fn is_last(&self, offset: usize, size: usize) -> bool {
        offset + size == self.used.get()
    }
}

// SAFETY: allocated blocks do not overlap (`used` only moves past them, or back over the last one), are aligned, and do
// not move until they are freed. A block belongs to the arena exactly if its address does; otherwise it came from
// `System`.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = self.base();
        let start = (base.addr() + self.used.get()).next_multiple_of(layout.align()) - base.addr();
        match start.checked_add(layout.size()) {
            Some(end) if end <= SIZE && layout.size() > 0 => {
                self.used.set(end);
                // SAFETY: `start` lies inside the arena.
                unsafe { base.add(start) }
            }
            // SAFETY: the caller's layout is passed on.
            _ => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.offset(block) {
            Some(offset) if self.is_last(offset, layout.size()) => self.used.set(offset),
            Some(_) => {}
            // SAFETY: a block outside the arena came from `System`, with this layout.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout is passed on; the block is `layout.size()` bytes long. Freed memory may hold old
        // bytes, so the block is always cleared.
        unsafe {
            let block = self.alloc(layout);
            if !block.is_null() {
                block.write_bytes(0, layout.size());
            }
            block
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(offset) = self.offset(block) else {
            // SAFETY: see `dealloc`.
            return unsafe { System.realloc(block, layout, new_size) };
        };
        let is_last = self.is_last(offset, layout.size());
        if is_last && offset.checked_add(new_size).is_some_and(|end| end <= SIZE) {
            self.used.set(offset + new_size);
            return block;
        }
        if new_size <= layout.size() {
            return block;
        }
        // SAFETY: the new block is at least as long as the old one and does not overlap it. By the contract of
        // `realloc`, `new_size` with the old alignment is a valid layout.
        unsafe {
            let moved = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, layout.size());
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

/// Exports the canonical ABI's allocation function, which uses the global allocator. wasi-libc has one as a weak
/// symbol; that one uses its own heap, so the first argument of every request would grow the memory.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_cabi_realloc {
    () => {
        #[unsafe(export_name = "cabi_realloc")]
        unsafe extern "C" fn cabi_realloc(old: *mut u8, old_size: usize, align: usize, new_size: usize) -> *mut u8 {
            // SAFETY: the component model's contract for this function is that of `reallocate`.
            unsafe { $crate::__private::reallocate(old, old_size, align, new_size) }
        }
    };
}

/// # Safety
/// `old` is null with `old_size` 0, or a block of this allocator with that size and alignment; `align` is a power of
/// two.
#[doc(hidden)]
pub unsafe fn reallocate(old: *mut u8, old_size: usize, align: usize, new_size: usize) -> *mut u8 {
    if new_size == 0 {
        return std::ptr::without_provenance_mut(align);
    }
    // SAFETY: the caller keeps the contract; sizes in a 32-bit memory do not overflow the limit of a layout.
    let block = unsafe {
        match old_size {
            0 => std::alloc::alloc(Layout::from_size_align_unchecked(new_size, align)),
            _ => std::alloc::realloc(old, Layout::from_size_align_unchecked(old_size, align), new_size),
        }
    };
    if block.is_null() {
        std::process::abort();
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap_or(Layout::new::<u8>())
    }

    #[test]
    fn only_the_last_block_is_resized_and_freed_in_place() {
        let arena = Box::new(Arena::new());
        // SAFETY: blocks are used within their sizes and freed with the layouts they have.
        unsafe {
            let first = arena.alloc(layout(3, 1));
            let last = arena.alloc(layout(8, 8));
            assert_eq!(last.addr() % 8, 0);
            last.write_bytes(7, 8);
            assert_eq!(arena.realloc(last, layout(8, 8), 1000), last);
            assert_eq!(arena.realloc(last, layout(1000, 8), 8), last);
            arena.dealloc(last, layout(8, 8));
            let zeroed = arena.alloc_zeroed(layout(8, 8));
            assert_eq!((zeroed, zeroed.cast::<u64>().read()), (last, 0));
            let moved = arena.realloc(first, layout(3, 1), 9);
            assert!(moved > zeroed, "a block that is not the last is copied to grow");
            assert_eq!(arena.realloc(first, layout(3, 1), 2), first, "and shrinks in place");
        }
    }

    #[test]
    fn a_block_that_does_not_fit_comes_from_the_system() {
        let arena = Box::new(Arena::new());
        // SAFETY: as above.
        unsafe {
            let large = arena.alloc(layout(SIZE + 1, 1));
            assert_eq!(arena.offset(large), None);
            let large = arena.realloc(large, layout(SIZE + 1, 1), SIZE + 2);
            arena.dealloc(large, layout(SIZE + 2, 1));
            let whole = arena.alloc(layout(SIZE, 1));
            assert_eq!(arena.offset(whole), Some(0));
            let more = arena.alloc(layout(1, 1));
            assert_eq!(arena.offset(more), None, "the arena is full");
            arena.dealloc(more, layout(1, 1));
            whole.write_bytes(1, SIZE);
            let moved = arena.realloc(whole, layout(SIZE, 1), SIZE + 1);
            assert_eq!((arena.offset(moved), moved.add(SIZE - 1).read()), (None, 1));
            arena.dealloc(moved, layout(SIZE + 1, 1));
            assert_eq!(arena.offset(arena.alloc(layout(16, 16))), Some(0), "the arena is empty again");
        }
    }
}
