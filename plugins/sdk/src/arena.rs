//! The allocator of components: a bump arena, most often inside the memory that an instance starts with.
//!
//! An instance lives for one request, so a short request never needs freed memory again. It also never calls
//! `memory.grow`, which costs the host changes of page protection. The host clears the memory that an instance starts
//! with after each request, used or not. So the arena has a small front there, and a rest for which the memory grows once,
//! when the front is full. In each part, the last block grows and shrinks in place, and freeing it makes its memory
//! available again; other blocks stay allocated. A block that fits in neither part comes from the standard library's
//! allocator. The arena is for one thread: WebAssembly components of this kind have no other.

#![allow(unsafe_code, reason = "a global allocator works with pointers; each block states its rules")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};
use std::ptr;

/// The bytes in the initial memory: enough for most requests.
const FRONT: usize = 64 * 1024;

/// The bytes for which the memory grows once: enough, with the front, for a request with some tens of kilobytes of body
/// and rows. With its header in the standard library's allocator, the rest takes three pages.
const REST: usize = 192 * 1024 - 256;

/// Two parts that are allocated from their beginnings.
#[doc(hidden)]
#[derive(Debug)]
pub struct Arena {
    front: UnsafeCell<Front>,
    /// Allocated bytes of the front.
    front_used: Cell<usize>,
    /// The first byte of the rest; null before it is needed.
    rest: Cell<*mut u8>,
    /// Allocated bytes of the rest.
    rest_used: Cell<usize>,
}

#[repr(C, align(16))]
#[derive(Debug)]
struct Front([u8; FRONT]);

/// One part of an arena: `size` bytes from `base`.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    base: *mut u8,
    size: usize,
    /// Allocated bytes.
    used: &'a Cell<usize>,
}

// SAFETY: `Arena` is only used as the global allocator of components, which have one thread, and by tests that use each
// arena from one thread.
unsafe impl Sync for Arena {}

impl Arena {
    /// Creates an arena of zeros. It takes no space in the component.
    #[allow(clippy::new_without_default, reason = "a static is built with a constant function")]
    pub const fn new() -> Self {
        Self {
            front: UnsafeCell::new(Front([0; FRONT])),
            front_used: Cell::new(0),
            rest: Cell::new(ptr::null_mut()),
            rest_used: Cell::new(0),
        }
    }

    fn front(&self) -> Part<'_> {
        Part { base: self.front.get().cast(), size: FRONT, used: &self.front_used }
    }

    /// Returns the rest if it is there.
    fn rest(&self) -> Option<Part<'_>> {
        let base = self.rest.get();
        (!base.is_null()).then_some(Part { base, size: REST, used: &self.rest_used })
    }

    /// Returns the rest, and grows the memory for it if it is not there; `None` if the memory cannot grow.
    fn grown_rest(&self) -> Option<Part<'_>> {
        if self.rest.get().is_null() {
            // SAFETY: the layout has a size.
            self.rest.set(unsafe { System.alloc(Layout::new::<[u64; REST / 8]>()) });
        }
        self.rest()
    }

    /// Returns the part and the offset in it of a block; `None` for a block of the system's allocator.
    fn find(&self, block: *mut u8) -> Option<(Part<'_>, usize)> {
        let front = self.front();
        if let Some(offset) = front.offset(block) {
            return Some((front, offset));
        }
        let rest = self.rest()?;
        rest.offset(block).map(|offset| (rest, offset))
    }
}

impl Part<'_> {
    /// Returns the offset of a block from the beginning of the part; `None` for a block outside it.
    fn offset(self, block: *mut u8) -> Option<usize> {
        let offset = block.addr().wrapping_sub(self.base.addr());
        (offset < self.size).then_some(offset)
    }

    /// Returns whether the block at `offset` is the last allocated one.
    fn is_last(self, offset: usize, size: usize) -> bool {
        offset + size == self.used.get()
    }

    /// Returns a new block; `None` if it does not fit.
    fn alloc(self, layout: Layout) -> Option<*mut u8> {
        let start = (self.base.addr() + self.used.get()).next_multiple_of(layout.align()) - self.base.addr();
        let end = start.checked_add(layout.size()).filter(|end| *end <= self.size && layout.size() > 0)?;
        self.used.set(end);
        // SAFETY: `start` lies inside the part.
        Some(unsafe { self.base.add(start) })
    }
}

// SAFETY: allocated blocks do not overlap (`used` only moves past them, or back over the last one), are aligned, and do
// not move until they are freed. The parts never move or end. A block belongs to a part exactly if its address does;
// otherwise it came from `System`.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(block) = self.front().alloc(layout) {
            return block;
        }
        let rest = if layout.size() <= REST { self.grown_rest() } else { None };
        match rest.and_then(|rest| rest.alloc(layout)) {
            Some(block) => block,
            // SAFETY: the caller's layout is passed on.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.find(block) {
            Some((part, offset)) if part.is_last(offset, layout.size()) => part.used.set(offset),
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
        let Some((part, offset)) = self.find(block) else {
            // SAFETY: see `dealloc`.
            return unsafe { System.realloc(block, layout, new_size) };
        };
        let is_last = part.is_last(offset, layout.size());
        if is_last && offset.checked_add(new_size).is_some_and(|end| end <= part.size) {
            part.used.set(offset + new_size);
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
    fn a_block_that_does_not_fit_comes_from_the_rest_or_from_the_system() {
        let arena = Box::new(Arena::new());
        // SAFETY: as above.
        unsafe {
            let large = arena.alloc(layout(REST + 1, 1));
            assert!(arena.find(large).is_none());
            let large = arena.realloc(large, layout(REST + 1, 1), REST + 2);
            arena.dealloc(large, layout(REST + 2, 1));
            let whole = arena.alloc(layout(FRONT, 1));
            assert_eq!(arena.front().offset(whole), Some(0));
            assert!(arena.rest().is_none(), "nothing needed the rest");
            whole.write_bytes(1, FRONT);
            let moved = arena.realloc(whole, layout(FRONT, 1), FRONT + 1);
            assert_eq!(arena.rest().and_then(|rest| rest.offset(moved)), Some(0), "the front is full");
            let small = arena.alloc(layout(16, 16));
            assert_eq!(arena.front().offset(small), Some(0), "the front is empty again");
            let more = arena.alloc(layout(REST, 1));
            assert!(arena.find(more).is_none(), "the rest has less room");
            arena.dealloc(more, layout(REST, 1));
            assert_eq!(
                arena.realloc(moved, layout(FRONT + 1, 1), REST),
                moved,
                "the last block of the rest grows in place"
            );
            let last = arena.realloc(moved, layout(REST, 1), REST + 1);
            assert_eq!((arena.find(last).is_none(), last.add(FRONT - 1).read()), (true, 1));
            arena.dealloc(last, layout(REST + 1, 1));
            let again = arena.alloc(layout(REST, 1));
            assert_eq!(arena.rest().and_then(|rest| rest.offset(again)), Some(0), "the rest is empty again");
        }
    }
}
