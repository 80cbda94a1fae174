//! `wharf:cache`: the plugin's own cache, see `crate::cache`.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{HasSelf, Linker};

use super::parameter::parameters;
use super::{Boot, CallContext, Candidate, Capability, Guest, HostCalls, Limit};
use crate::cache::{Caches, MAX_VALUE, PluginCache, Refusal};
use crate::error::Result;
use crate::id::PluginName;

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    wasmtime::component::bindgen!({
        inline: "package wharf:host-cache; world imports { import wharf:cache/store@0.1.0; }",
        path: "../wit",
        imports: { default: trappable },
    });
}
use bindings::wharf::cache::store;

parameters! {
    /// The limits that a grant may change.
    Quota {
        bytes: u64 = cache_bytes,
    }
}

/// The capability.
pub struct Cache(Caches);

impl Capability for Cache {
    const NAME: &'static str = "cache";
    const MEANING: &'static str = "may store values for a limited time in its own cache";
    const INTERFACES: &'static [&'static str] = &["wharf:cache/store@0.1.0"];
    type Grant = Quota;
    type Release = (Arc<PluginCache>, Quota);
    type Call = Arc<PluginCache>;

    async fn open(boot: &Boot) -> Result<Self> {
        Ok(Self(boot.cache.clone()))
    }

    fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        store::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
    }

    async fn admit(&self, candidate: &Candidate<'_>, quota: Quota) -> Result<Self::Release> {
        Ok((self.0.plugin(candidate.plugin), quota))
    }

    fn max_input_bytes(_: &Self::Release) -> usize {
        MAX_VALUE
    }

    fn serve((cache, quota): &Self::Release) {
        cache.resize(quota.bytes);
    }

    fn reset_shared(&self, plugin: &PluginName) {
        // The host caches responses there, with or without the grant.
        self.0.plugin(plugin).resize(self.0.bytes());
    }

    fn enter((cache, _): &Self::Release, _: &Arc<CallContext>) -> Self::Call {
        Arc::clone(cache)
    }
}

impl Guest {
    /// Converts a refusal for the guest and counts the limit that it hit.
    fn cache_error(&self, refusal: &Refusal) -> store::Error {
        if !matches!(refusal, Refusal::Counter) {
            self.usage.hit(Limit::CacheBytes);
        }
        store::Error::Limit(refusal.to_string())
    }
}

/// The error after the grant was revoked.
const REVOKED: store::Error = store::Error::Unavailable;

type CacheResult<T> = wasmtime::Result<Result<T, store::Error>>;

impl store::Host for Guest {
    fn get(&mut self, key: String) -> CacheResult<Option<Vec<u8>>> {
        self.charge(HostCalls::cache)?;
        let Ok(cache) = self.entered.cache()? else { return Ok(Err(REVOKED)) };
        let value = cache.get(&key);
        self.hold_result(self.reserve(value.as_ref().map_or(0, bytes::Bytes::len))?);
        Ok(Ok(value.map(Vec::from)))
    }

    fn set(&mut self, key: String, value: Vec<u8>, ttl_ms: Option<u64>, tags: Vec<String>) -> CacheResult<()> {
        self.charge(HostCalls::cache)?;
        let _reservation = self.reserve(value.len())?;
        let ttl = ttl_ms.map(Duration::from_millis);
        let Ok(cache) = self.entered.cache()? else { return Ok(Err(REVOKED)) };
        let done = cache.set(&key, value.into(), ttl, &tags);
        Ok(done.map_err(|refusal| self.cache_error(&refusal)))
    }

    fn delete(&mut self, key: String) -> CacheResult<()> {
        self.charge(HostCalls::cache)?;
        let Ok(cache) = self.entered.cache()? else { return Ok(Err(REVOKED)) };
        cache.delete(&key);
        Ok(Ok(()))
    }

    fn increment(&mut self, key: String, delta: i64, ttl_ms: Option<u64>) -> CacheResult<i64> {
        self.charge(HostCalls::cache)?;
        let ttl = ttl_ms.map(Duration::from_millis);
        let Ok(cache) = self.entered.cache()? else { return Ok(Err(REVOKED)) };
        let done = cache.increment(&key, delta, ttl);
        Ok(done.map_err(|refusal| self.cache_error(&refusal)))
    }

    fn invalidate(&mut self, tag: String) -> CacheResult<()> {
        self.charge(HostCalls::cache)?;
        let Ok(cache) = self.entered.cache()? else { return Ok(Err(REVOKED)) };
        let done = cache.invalidate(&tag);
        Ok(done.map_err(|refusal| self.cache_error(&refusal)))
    }
}
