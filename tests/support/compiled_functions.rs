//! The machine code of functions, by a key of Cranelift's. Hundreds of guests differ in their declaration only, which is data:
//! their functions are compiled once.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use wasmtime::CacheStore;
use wharf::plugin::Compile;

#[derive(Debug, Default)]
struct CompiledFunctions(RwLock<HashMap<Vec<u8>, Vec<u8>>>);

impl CacheStore for CompiledFunctions {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        self.0.read().unwrap().get(key).cloned().map(Cow::Owned)
    }

    fn insert(&self, key: &[u8], value: Vec<u8>) -> bool {
        self.0.write().unwrap().insert(key.to_owned(), value);
        true
    }
}

/// Returns a compiler in this process that keeps functions.
pub(crate) fn in_process() -> Compile {
    let functions = Arc::new(CompiledFunctions::default());
    let keep = |config: &mut wasmtime::Config| {
        config.enable_incremental_compilation(functions).unwrap();
    };
    Compile::in_process_with(keep).unwrap()
}
