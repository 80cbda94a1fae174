//! The fingerprint of an engine: everything that its machine code depends on, as bytes that can be compared and stored.
//! That is wasmtime's version, the processor's features, and every setting that changes the generated code.

use std::fmt::Write as _;
use std::hash::{Hash, Hasher};

use sha2::{Digest as _, Sha256};

/// SHA-256 of the values that wasmtime hashes. The standard library's hashers may change from one release to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint(pub(super) [u8; 32]);

impl Fingerprint {
    /// Computes the fingerprint of `Engine::precompile_compatibility_hash`.
    pub(super) fn of(compatibility: &impl Hash) -> Self {
        let mut hasher = Collector(Sha256::new());
        compatibility.hash(&mut hasher);
        Self(hasher.0.finalize().into())
    }

    /// Returns a prefix that distinguishes file names.
    pub(super) fn short(&self) -> String {
        self.0.iter().take(8).fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

struct Collector(Sha256);

impl Hasher for Collector {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest: [u8; 32] = self.0.clone().finalize().into();
        digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::plugin::engine::{self, PluginEngine};

    #[tokio::test]
    async fn compiling_and_serving_engines_have_the_same_fingerprint_under_any_limits() {
        let compiling = engine::compiling().unwrap();
        let compiling = Fingerprint::of(&compiling.precompile_compatibility_hash());
        for size in [1, 64, 2_048] {
            let limits = config::Plugins {
                memory_bytes: size * 1024 * 1024,
                total_concurrency: size,
                ..config::Plugins::default()
            };
            let serving = PluginEngine::new(&limits).unwrap();
            assert_eq!(Fingerprint::of(&serving.wasmtime().precompile_compatibility_hash()), compiling);
        }
        assert_eq!(compiling.short().len(), 16);
    }

    #[test]
    fn other_settings_have_another_fingerprint() {
        let other = wasmtime::Engine::default();
        let compiling = engine::compiling().unwrap();
        assert_ne!(
            Fingerprint::of(&other.precompile_compatibility_hash()),
            Fingerprint::of(&compiling.precompile_compatibility_hash())
        );
    }
}
