//! What a plugin's statement takes of this process: memory, and the stack of its thread. SQLite asks here whenever it
//! allocates, which it does while it compiles and within its longest instructions too, where nothing else of ours is asked.
//! Whatever the host's own database needs is never refused: there is no limit for all of SQLite.
//!
//! A statement runs on one thread from its beginning to its end, so that what the thread allocates meanwhile is the
//! statement's. SQLite unwinds from a refusal wherever it comes.

#![allow(
    unsafe_code,
    reason = "SQLite's allocator is C; what is called here is what SQLite would call, with what it gives"
)]

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ptr::{from_ref, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rusqlite::ffi;

use super::control::{Control, Denial};
use crate::db::plugin_data::value::Limits;
use crate::error::{Error, Result};

/// What all statements of plugins may take together, beyond what each is sure of.
const ALL: usize = 512 * 1024 * 1024;
/// What a statement may take whatever others have.
const SURE: usize = 4 * 1024 * 1024;
/// What a statement may take beside four times its longest value: pages that are kept, and what compiling takes.
const BESIDE: usize = 32 * 1024 * 1024;
/// How deep a statement may get: less than half of what a thread has, since SQLite's recursions are not all alike.
const STACK: usize = 768 * 1024;
/// Who asks for so much may be at something that takes long.
const LARGE: usize = 64 * 1024;
/// How many small allocations there are between two looks at the deadline.
const ALLOCATIONS_PER_LOOK: u32 = 256;

/// What running statements have.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// SQLite's own.
static ALLOCATOR: OnceLock<Allocator> = OnceLock::new();

struct Allocator {
    allocate: unsafe extern "C" fn(c_int) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    resize: unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void,
    size: unsafe extern "C" fn(*mut c_void) -> c_int,
}

thread_local! {
    /// The statement that this thread runs.
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
}

struct Running {
    control: Arc<Control>,
    taken: usize,
    most: usize,
    /// Where the stack was when it began.
    stack: usize,
    allocations: u32,
}

impl Running {
    fn admit(&mut self, bytes: usize) -> bool {
        let taken = self.taken.saturating_add(bytes);
        let all = || TAKEN.load(Ordering::Relaxed).saturating_add(bytes);
        self.allocations = self.allocations.wrapping_add(1);
        let looks = bytes >= LARGE || self.allocations.is_multiple_of(ALLOCATIONS_PER_LOOK);
        let denial = if self.stack.abs_diff(here()) > STACK {
            Denial::Depth
        } else if taken > self.most || (taken > SURE && all() > ALL) {
            Denial::Memory
        } else if looks && self.control.must_stop() {
            Denial::Time
        } else {
            self.taken = taken;
            TAKEN.fetch_add(bytes, Ordering::Relaxed);
            return true;
        };
        self.control.deny(denial);
        false
    }

    /// It may be what another statement left behind.
    fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.taken);
        self.taken = self.taken.saturating_sub(bytes);
        TAKEN.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Counts what this thread allocates as a statement's until it is dropped.
pub(super) struct Meter(PhantomData<*const ()>);

impl Meter {
    pub(super) fn start(control: &Arc<Control>, limits: &Limits) -> Self {
        control.forget_denial();
        let most = limits.bytes.saturating_mul(4).saturating_add(BESIDE);
        let running = Running { control: Arc::clone(control), taken: 0, most, stack: here(), allocations: 0 };
        RUNNING.with(|place| place.replace(Some(running)));
        Self(PhantomData)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let running = RUNNING.with(RefCell::take);
        TAKEN.fetch_sub(running.map_or(0, |running| running.taken), Ordering::Relaxed);
    }
}

/// Has SQLite ask here from now on, once for the process.
///
/// # Errors
/// Somebody used SQLite before.
pub(crate) fn install() -> Result<()> {
    static DONE: OnceLock<c_int> = OnceLock::new();
    match *DONE.get_or_init(configure) {
        ffi::SQLITE_OK => Ok(()),
        code => Err(Error::internal(format!("SQLite was in use before its memory could be counted ({code})"))),
    }
}

fn configure() -> c_int {
    let mut methods = ffi::sqlite3_mem_methods {
        xMalloc: None,
        xFree: None,
        xRealloc: None,
        xSize: None,
        xRoundup: None,
        xInit: None,
        xShutdown: None,
        pAppData: null_mut(),
    };
    // SAFETY: SQLite fills in the methods, of which this is the type; it refuses where it is in use already.
    let told = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, &raw mut methods) };
    let (Some(allocate), Some(free), Some(resize), Some(size)) =
        (methods.xMalloc, methods.xFree, methods.xRealloc, methods.xSize)
    else {
        return if told == ffi::SQLITE_OK { ffi::SQLITE_ERROR } else { told };
    };
    ALLOCATOR.get_or_init(|| Allocator { allocate, free, resize, size });
    methods.xMalloc = Some(counted_allocate);
    methods.xFree = Some(counted_free);
    methods.xRealloc = Some(counted_resize);
    // SAFETY: SQLite copies the methods: its own, some of which are asked by way of ours.
    unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw const methods) }
}

/// Where the stack is.
#[inline(never)]
fn here() -> usize {
    let place = 0_u8;
    from_ref(std::hint::black_box(&place)).addr()
}

/// What the running statement says, if one runs on this thread.
fn ask<T>(otherwise: T, question: impl FnOnce(&mut Running) -> T) -> T
where
    T: Copy,
{
    let asked = RUNNING.try_with(|place| {
        let mut place = place.try_borrow_mut().ok()?;
        place.as_mut().map(question)
    });
    asked.ok().flatten().unwrap_or(otherwise)
}

fn count(bytes: c_int) -> usize {
    usize::try_from(bytes).unwrap_or_default()
}

unsafe extern "C" fn counted_allocate(bytes: c_int) -> *mut c_void {
    let Some(own) = ALLOCATOR.get() else { return null_mut() };
    if !ask(true, |running| running.admit(count(bytes))) {
        return null_mut();
    }
    // SAFETY: what SQLite asked for, of its own allocator.
    let memory = unsafe { (own.allocate)(bytes) };
    if memory.is_null() {
        ask((), |running| running.release(count(bytes)));
    }
    memory
}

unsafe extern "C" fn counted_free(memory: *mut c_void) {
    let Some(own) = ALLOCATOR.get() else { return };
    // SAFETY: SQLite gives back what its own allocator gave.
    let bytes = unsafe { (own.size)(memory) };
    ask((), |running| running.release(count(bytes)));
    // SAFETY: the same.
    unsafe { (own.free)(memory) }
}

unsafe extern "C" fn counted_resize(memory: *mut c_void, bytes: c_int) -> *mut c_void {
    let Some(own) = ALLOCATOR.get() else { return null_mut() };
    // SAFETY: SQLite names what its own allocator gave.
    let before = count(unsafe { (own.size)(memory) });
    let more = count(bytes).saturating_sub(before);
    if more > 0 && !ask(true, |running| running.admit(more)) {
        return null_mut();
    }
    // SAFETY: the same; where it fails, what was given stays.
    let resized = unsafe { (own.resize)(memory, bytes) };
    let less = if resized.is_null() { more } else { before.saturating_sub(count(bytes)) };
    ask((), |running| running.release(less));
    resized
}
