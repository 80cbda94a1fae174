//! Limits the memory and the stack that a plugin's statement takes of this process. SQLite calls this module whenever
//! it allocates: also while it compiles, and within its longest instructions, which call no other code of the host.
//! Allocations of the host's own database are never refused: there is no limit on SQLite as a whole.
//!
//! A statement runs on one thread from start to end, so everything that the thread allocates meanwhile belongs to the
//! statement. SQLite handles a refused allocation at any point. Knows nothing of plugins or their databases: a
//! statement is a [`MeteredStatement`].

#![allow(
    unsafe_code,
    reason = "SQLite's allocator is C; this module calls the functions that SQLite would call, with its arguments"
)]

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ptr::{from_ref, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rusqlite::ffi;

use crate::error::{Error, Result};

/// The maximum memory of all plugins' statements together, in addition to the guaranteed memory of each.
const MAX_TOTAL: usize = 512 * 1024 * 1024;
/// The memory that each statement may take regardless of the others.
const GUARANTEED: usize = 4 * 1024 * 1024;
/// The memory of a statement in addition to four times its longest value: cached pages, and compilation.
const OVERHEAD: usize = 32 * 1024 * 1024;
/// The maximum stack of a statement: less than half of a thread's, because SQLite's recursions differ in size.
const MAX_STACK: usize = 768 * 1024;
/// An allocation of this size may belong to a long operation, so the deadline is checked.
const LARGE: usize = 64 * 1024;
/// The number of smaller allocations between two checks of the deadline.
const ALLOCATIONS_PER_CHECK: u32 = 256;

/// The reason why a statement got no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denial {
    /// The statement uses as much memory as it may.
    Memory,
    /// The statement is nested too deep for the stack of its thread.
    Depth,
    /// The statement must stop.
    Time,
}

/// A statement whose memory is metered.
pub(super) trait MeteredStatement: Send + Sync {
    /// Returns whether the statement must stop: its deadline has passed or its caller is gone.
    fn must_stop(&self) -> bool;

    /// Records why the statement got no memory; `None` when it starts.
    fn set_denial(&self, denial: Option<Denial>);
}

/// The memory of all running statements.
static IN_USE: AtomicUsize = AtomicUsize::new(0);

/// SQLite's own allocator.
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
    statement: Arc<dyn MeteredStatement>,
    used: usize,
    max: usize,
    /// The position of the stack when the statement started.
    stack: usize,
    allocations: u32,
}

impl Running {
    fn admit(&mut self, bytes: usize) -> bool {
        let used = self.used.saturating_add(bytes);
        let total = || IN_USE.load(Ordering::Relaxed).saturating_add(bytes);
        self.allocations = self.allocations.wrapping_add(1);
        let checks = bytes >= LARGE || self.allocations.is_multiple_of(ALLOCATIONS_PER_CHECK);
        let denial = if self.stack.abs_diff(stack_position()) > MAX_STACK {
            Denial::Depth
        } else if used > self.max || (used > GUARANTEED && total() > MAX_TOTAL) {
            Denial::Memory
        } else if checks && self.statement.must_stop() {
            Denial::Time
        } else {
            self.used = used;
            IN_USE.fetch_add(bytes, Ordering::Relaxed);
            return true;
        };
        self.statement.set_denial(Some(denial));
        false
    }

    /// Counts freed memory. It may have been allocated by an earlier statement.
    fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.used);
        self.used = self.used.saturating_sub(bytes);
        IN_USE.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Until it is dropped, counts the allocations of this thread as a statement's.
pub(super) struct Meter(PhantomData<*const ()>);

impl Meter {
    /// `bytes` is the statement's limit on the length of a value.
    pub(super) fn start(statement: &Arc<impl MeteredStatement + 'static>, bytes: usize) -> Self {
        statement.set_denial(None);
        let max = bytes.saturating_mul(4).saturating_add(OVERHEAD);
        let statement = Arc::clone(statement);
        let running = Running { statement, used: 0, max, stack: stack_position(), allocations: 0 };
        RUNNING.with(|cell| cell.replace(Some(running)));
        Self(PhantomData)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let running = RUNNING.with(RefCell::take);
        IN_USE.fetch_sub(running.map_or(0, |running| running.used), Ordering::Relaxed);
    }
}

/// Replaces SQLite's allocator by the counting one, once per process.
///
/// # Errors
/// SQLite was used before.
pub(super) fn install() -> Result<()> {
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
    // SAFETY: SQLite fills in the methods, and this is their type. It refuses the call if it is in use already.
    let code = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, &raw mut methods) };
    let (Some(allocate), Some(free), Some(resize), Some(size)) =
        (methods.xMalloc, methods.xFree, methods.xRealloc, methods.xSize)
    else {
        return if code == ffi::SQLITE_OK { ffi::SQLITE_ERROR } else { code };
    };
    ALLOCATOR.get_or_init(|| Allocator { allocate, free, resize, size });
    methods.xMalloc = Some(counted_allocate);
    methods.xFree = Some(counted_free);
    methods.xRealloc = Some(counted_resize);
    // SAFETY: SQLite copies the methods: its own, some of them wrapped by ours.
    unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw const methods) }
}

/// Returns the current position of the stack.
#[inline(never)]
fn stack_position() -> usize {
    let local = 0_u8;
    from_ref(std::hint::black_box(&local)).addr()
}

/// Calls `question` with the statement that runs on this thread; returns `otherwise` if none runs.
fn with_running<T>(otherwise: T, question: impl FnOnce(&mut Running) -> T) -> T
where
    T: Copy,
{
    let result = RUNNING.try_with(|cell| {
        let mut running = cell.try_borrow_mut().ok()?;
        running.as_mut().map(question)
    });
    result.ok().flatten().unwrap_or(otherwise)
}

fn count(bytes: c_int) -> usize {
    usize::try_from(bytes).unwrap_or_default()
}

unsafe extern "C" fn counted_allocate(bytes: c_int) -> *mut c_void {
    let Some(own) = ALLOCATOR.get() else { return null_mut() };
    if !with_running(true, |running| running.admit(count(bytes))) {
        return null_mut();
    }
    // SAFETY: the call that SQLite would make to its own allocator.
    let memory = unsafe { (own.allocate)(bytes) };
    if memory.is_null() {
        with_running((), |running| running.release(count(bytes)));
    }
    memory
}

unsafe extern "C" fn counted_free(memory: *mut c_void) {
    let Some(own) = ALLOCATOR.get() else { return };
    // SAFETY: SQLite frees memory of its own allocator.
    let bytes = unsafe { (own.size)(memory) };
    with_running((), |running| running.release(count(bytes)));
    // SAFETY: as above.
    unsafe { (own.free)(memory) }
}

unsafe extern "C" fn counted_resize(memory: *mut c_void, bytes: c_int) -> *mut c_void {
    let Some(own) = ALLOCATOR.get() else { return null_mut() };
    // SAFETY: SQLite resizes memory of its own allocator.
    let before = count(unsafe { (own.size)(memory) });
    let more = count(bytes).saturating_sub(before);
    if more > 0 && !with_running(true, |running| running.admit(more)) {
        return null_mut();
    }
    // SAFETY: as above; if the call fails, the memory stays as it was.
    let resized = unsafe { (own.resize)(memory, bytes) };
    let less = if resized.is_null() { more } else { before.saturating_sub(count(bytes)) };
    with_running((), |running| running.release(less));
    resized
}
