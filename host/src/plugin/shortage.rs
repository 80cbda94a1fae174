//! Shortages of the system: no memory, no mapping or no file descriptor is left for machine code or for an instance. The
//! plugin is not at fault then, and the same may succeed later.

use std::io;

use rustix::io::Errno;
use wasmtime::error::OutOfMemory;

/// Returns whether wasmtime failed because the system lacks memory, mappings or file descriptors.
pub(super) fn lacks_resources(error: &wasmtime::Error) -> bool {
    let is_mapping = error.downcast_ref::<Errno>().copied().is_some_and(is_shortage);
    let is_file = error.downcast_ref::<io::Error>().is_some_and(lacks_descriptors);
    is_mapping || is_file || error.is::<OutOfMemory>()
}

/// Returns whether a file was not opened or read because the system lacks file descriptors or memory.
pub(super) fn lacks_descriptors(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(is_shortage)
}

fn is_shortage(error: Errno) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM].contains(&error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_told_from_code_that_does_not_load() {
        let file = |error: Errno| wasmtime::Error::from(io::Error::from(error)).context("failed to open file");
        let mapping = |error: Errno| wasmtime::Error::from(error).context("mmap failed").context("failed to load code");
        for error in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            assert!(lacks_resources(&file(error)) && lacks_resources(&mapping(error)), "{error}");
        }
        // A file system without executable files, a disk that cannot be read.
        for error in [Errno::ACCESS, Errno::IO] {
            assert!(!lacks_resources(&file(error)) && !lacks_resources(&mapping(error)), "{error}");
        }
        assert!(!lacks_resources(&wasmtime::Error::msg("the memory of the module exceeds the limit")));
    }
}
