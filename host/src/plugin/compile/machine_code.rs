//! Machine code that this host may load: it came from the compiler, or from the code cache with a valid MAC.

use wasmtime::Engine;
use wasmtime::component::Component;

/// Machine code that this host may load.
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

    #[allow(unsafe_code, reason = "wasmtime trusts machine code; this type is the proof that it may")]
    pub(super) fn load(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // SAFETY: the bytes are unmodified output of `Engine::precompile_component`. They come either from a child
        // process of this same program, through a pipe that no other process holds, or from a file whose HMAC was
        // checked over these very bytes, so that a later change of the file has no effect.
        unsafe { Component::deserialize(engine, &self.0) }
    }
}
