//! The allocator of components: a bump arena inside the memory an instance starts with.
//!
//! An instance lives for one request, so short requests never need memory back, and never call `memory.grow`, which
//! costs the host two changes of page protection. The last block grows and shrinks in place and is given back when it is
//! freed; other blocks are not. What does not fit goes to the standard library's allocator. Single-threaded by
//! construction: WebAssembly components of this kind have one thread.

#![allow(unsafe_code, reason = "a global allocator is made of pointers; the rules it keeps are stated at each block")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};

/// Large enough for a request with some tens of kilobytes of body and rows.
const SIZE: usize = 256 * 1024;

/// `SIZE` bytes, handed out from the front.
#[doc(hidden)]
#[derive(Debug)]
pub struct Arena {
    memory: UnsafeCell<Memory>,
    /// Bytes handed out.
    used: Cell<usize>,
}

#[repr(C, align(16))]
#[derive(Debug)]
struct Memory([u8; SIZE]);

// SAFETY: `Arena` is only used as the global allocator of components, which have one thread, and by tests that keep
// theirs to one thread.
unsafe impl Sync for Arena {}

impl Arena {
    /// All zero, so that it takes no room in the component and no page in the host until it is written to.
    #[allow(clippy::new_without_default, reason = "a static is built with a constant function")]
    pub const fn new() -> Self {
        Self { memory: UnsafeCell::new(Memory([0; SIZE])), used: Cell::new(0) }
    }

    fn base(&self) -> *mut u8 {
        self.memory.get().cast()
    }

    /// Where a block of the arena starts, counted from its front; none for a block of the system's.
    fn offset(&self, block: *mut u8) -> Option<usize> {
        let offset = block.addr().wrapping_sub(self.base().addr());
        (offset < SIZE).then_some(offset)
    }

    /// Whether a block that starts at `offset` is the last one handed out.
    fn is_last(&self, offset: usize, size: usize) -> bool {
        offset + size == self.used.get()
    }
}

// SAFETY: blocks handed out do not overlap (`used` only moves past them, or back over the last one), are aligned, and
// stay where they are until freed. A block is of the arena exactly if its address is, and otherwise came from `System`.
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
            // SAFETY: the caller's layout is handed on.
            _ => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.offset(block) {
            Some(offset) if self.is_last(offset, layout.size()) => self.used.set(offset),
            Some(_) => {}
            // SAFETY: a block that is not of the arena is one of `System`, with the layout it was made with.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout is handed on; the block is `layout.size()` bytes long. Memory that was given back
        // may hold old bytes, so it is always cleared.
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
        // SAFETY: the new block is at least as long as the old one and does not overlap it; `new_size` with the old
        // alignment is a valid layout by the contract of `realloc`.
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

/// The canonical ABI's allocation function, through the global allocator. wasi-libc has one too, a weak symbol that goes
/// to its own heap and so would grow the memory for the first argument of every request.
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
/// `old` is null with `old_size` 0, or a block of this allocator with that size and alignment; `align` is a power of two.
#[doc(hidden)]
pub unsafe fn reallocate(old: *mut u8, old_size: usize, align: usize, new_size: usize) -> *mut u8 {
    if new_size == 0 {
        return std::ptr::without_provenance_mut(align);
    }
    // SAFETY: handed on from the caller; sizes of a 32-bit memory do not overflow a layout's limit.
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
    fn the_last_block_grows_shrinks_and_is_given_back() {
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
            assert!(moved > zeroed, "a block with another behind it is copied");
            assert_eq!(arena.realloc(first, layout(3, 1), 2), first, "and shrinks where it is");
        }
    }

    #[test]
    fn what_does_not_fit_comes_from_the_system() {
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
