//! The caches of plugins: one bounded cache per plugin, for the values that the plugin stores itself and for the
//! responses that the host caches for it ([`response_cache`]). Entries may be evicted at any time. Owns expiry and
//! tags. Knows neither WebAssembly nor HTTP.
//!
//! Invalidating a tag sets its mark to a new number. Each entry carries a ticket: the number at the time when its
//! content began to be computed. An entry is stale when one of its tags has a mark above the entry's ticket.

mod entry;
mod plugin_cache;
pub mod response_cache;
pub mod single_flight;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

pub use self::plugin_cache::{MAX_KEY, MAX_TAG, MAX_TAGS, MAX_VALUE, PluginCache, Refusal};
use crate::clock::Clock;
use crate::id::PluginName;

/// The caches of all plugins. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caches {
    clock: Clock,
    bytes: u64,
    plugins: Arc<Mutex<HashMap<PluginName, Arc<PluginCache>>>>,
}

impl Caches {
    /// Creates an empty set of caches. Each plugin's cache holds at most `bytes`, unless it is
    /// [resized](PluginCache::resize).
    pub fn new(clock: Clock, bytes: u64) -> Self {
        Self { clock, bytes, plugins: Arc::default() }
    }

    /// Returns the size of a cache that is not resized.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the cache of a plugin. Creates it at the first request.
    pub fn plugin(&self, name: &PluginName) -> Arc<PluginCache> {
        let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        let cache = plugins.entry(name.clone()).or_insert_with(|| Arc::new(PluginCache::new(&self.clock, self.bytes)));
        Arc::clone(cache)
    }

    /// Removes the cache of a plugin.
    pub fn remove(&self, name: &PluginName) {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}
