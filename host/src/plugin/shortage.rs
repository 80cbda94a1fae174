//! Shortages of the system: no memory, no mapping, no file descriptor or no process is left for machine code, for an instance
//! or for the compiler. The plugin is not at fault then, and the same may succeed later.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use wasmtime::error::OutOfMemory;

use crate::error::{Error, Kind, code};

/// `Retry-After` during a shortage.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Returns the error for a component that was not loaded or compiled because of a shortage.
pub(super) fn unavailable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let text = "The component cannot be loaded or compiled now, try again later";
    let unavailable = Error::new(Kind::Unavailable(RETRY_AFTER), code::PLUGIN_UNAVAILABLE, text);
    unavailable.with_internal("the system lacks memory, mappings, file descriptors or processes").with_source(cause)
}

/// Returns whether wasmtime failed because the system lacks memory, mappings or file descriptors.
pub(super) fn lacks_resources(error: &wasmtime::Error) -> bool {
    let is_mapping = error.downcast_ref::<Errno>().copied().is_some_and(is_shortage);
    let is_file = error.downcast_ref::<io::Error>().is_some_and(is_io_shortage);
    is_mapping || is_file || error.is::<OutOfMemory>()
}

/// Returns whether a file was not opened or read, or a process not started, because of a shortage.
pub(super) fn is_io_shortage(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(is_shortage)
}

fn is_shortage(error: Errno) -> bool {
    // The last one means too many processes, or too much locked memory.
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN].contains(&error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_told_from_code_that_does_not_load() {
        let file = |error: Errno| wasmtime::Error::from(io::Error::from(error)).context("failed to open file");
        let mapping = |error: Errno| wasmtime::Error::from(error).context("mmap failed").context("failed to load code");
        for error in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN] {
            assert!(lacks_resources(&file(error)) && lacks_resources(&mapping(error)), "{error}");
        }
        // A file system without executable files, a disk that cannot be read.
        for error in [Errno::ACCESS, Errno::IO] {
            assert!(!lacks_resources(&file(error)) && !lacks_resources(&mapping(error)), "{error}");
        }
        assert!(!lacks_resources(&wasmtime::Error::msg("the memory of the module exceeds the limit")));
    }
}
