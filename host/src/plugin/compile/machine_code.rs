//! Machine code that this host may load: it came from the compiler, or from the code cache with a valid MAC.
//!
//! Code in memory is copied by wasmtime. Code in a file is mapped: the kernel reads a page when it is first used, and may
//! drop it again, so it takes no memory of its own. See decision 0011.

use std::fs::File;
use std::os::fd::AsRawFd as _;

use wasmtime::Engine;
use wasmtime::component::Component;

/// The directory that has a path for each open file of this process. On Linux, a path leads to the file even if its name
/// is gone.
const OPEN_FILES: &str = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };

/// Machine code in memory that this host may load.
pub(super) struct MachineCode(Vec<u8>);

impl MachineCode {
    /// Accepts bytes that are unmodified output of `Engine::precompile_component`: output of the compiler, or a file
    /// whose MAC was checked over these very bytes. [`load`](Self::load) relies on it.
    pub(super) fn trusted(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Returns the bytes.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the number of bytes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Loads a copy of the bytes.
    #[allow(unsafe_code, reason = "wasmtime trusts machine code; this type is the proof that it may")]
    pub(super) fn load(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // SAFETY: the bytes are unmodified output of `Engine::precompile_component`. They come either from a child
        // process of this same program, through a pipe that no other process holds, or from a file whose HMAC was
        // checked over these very bytes, so that a later change of the file has no effect.
        unsafe { Component::deserialize(engine, &self.0) }
    }
}

/// Machine code in an open file that this host may load.
pub(super) struct CodeFile(File);

impl CodeFile {
    /// Accepts a file of the code cache that begins with unmodified output of `Engine::precompile_component`: its MAC was
    /// checked over what this very file contains, and nobody writes to it later. [`map`](Self::map) relies on it.
    pub(super) fn trusted(file: File) -> Self {
        Self(file)
    }

    /// Maps the file. wasmtime ignores the bytes behind the machine code, and keeps the file open.
    ///
    /// # Errors
    /// The system does not allow it, for example in a file system without executable files, or the code does not load.
    #[allow(unsafe_code, reason = "wasmtime trusts machine code; this type is the proof that it may")]
    pub(super) fn map(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // wasmtime opens a path. This one leads to the checked file, and not to one that took its name meanwhile.
        let path = format!("{OPEN_FILES}/{}", self.0.as_raw_fd());
        // SAFETY: the file begins with unmodified output of `Engine::precompile_component`, because its HMAC was checked
        // over the content of this open file. The content stays the same: the host writes a file of the code cache once,
        // under another name, read-only, and afterwards only removes its name. The directory is accessible to the host's
        // user alone, who could as well read the key of the HMAC.
        unsafe { Component::deserialize_file(engine, path) }
    }
}
