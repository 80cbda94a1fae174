//! The `wharf` program. All of its code is in the library, where tests can reach it.

use std::process::ExitCode;

/// Every request creates and drops an instance, a store and their buffers. mimalloc is markedly faster at that than the
/// system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    wharf::cli::main()
}
