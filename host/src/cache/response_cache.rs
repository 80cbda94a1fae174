//! The response cache: responses of plugins that the host may send again. It is part of the plugin's cache, so its size
//! counts against `cache.bytes`, and a plugin invalidates its responses by their tags.
//!
//! A caller takes a ticket before the plugin computes the response. If a tag is invalidated in the meantime, the
//! response is stale when it is stored, and no client ever gets it.

use std::sync::Arc;
use std::time::Duration;

pub use super::entry::CachedResponse;
use super::entry::{Key, Payload};
use super::plugin_cache::{PluginCache, Refusal};

/// Everything that a response depends on besides tags.
#[derive(Debug, Clone)]
pub struct ResponseKey<'a> {
    /// The release: another release may respond differently.
    pub release: i64,
    /// The index of the route.
    pub route: usize,
    /// The caller, if the route's responses differ by caller.
    pub caller: Option<String>,
    /// The path as received.
    pub path: &'a str,
    /// The query as received, without `?`.
    pub query: &'a str,
}

impl ResponseKey<'_> {
    fn to_key(&self) -> Key {
        let Self { release, route, caller, path, query } = self;
        // A path and a query contain no line break, and a caller is an id.
        Key::Response(format!("{release}\n{route}\n{}\n{path}\n{query}", caller.as_deref().unwrap_or_default()).into())
    }
}

/// The number of invalidations before a response was computed; see the module's text.
#[derive(Debug, Clone, Copy)]
pub struct Ticket(u64);

impl PluginCache {
    /// Returns a ticket for a response that is about to be computed.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.now_ticket())
    }

    /// Returns a cached response.
    pub fn response(&self, key: &ResponseKey<'_>) -> Option<Arc<CachedResponse>> {
        match self.fresh(&key.to_key())?.payload {
            Payload::Response(response) => Some(response),
            Payload::Value(_) => None,
        }
    }

    /// Stores a response. Its ticket was taken before the response was computed.
    ///
    /// # Errors
    /// The tags exceed their limit, or the response is larger than the cache.
    pub fn store_response(
        &self,
        key: &ResponseKey<'_>,
        response: CachedResponse,
        ttl: Duration,
        tags: &[String],
        ticket: Ticket,
    ) -> Result<(), Refusal> {
        let entry = self.entry(Payload::Response(Arc::new(response)), Some(ttl), tags, ticket.0)?;
        self.insert(key.to_key(), entry)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::cache::Caches;
    use crate::clock::{Clock, Timestamp};

    const KEY: ResponseKey<'_> = ResponseKey { release: 1, route: 0, caller: None, path: "/items", query: "" };

    fn cache() -> Arc<PluginCache> {
        Caches::new(Clock::manual(Timestamp(0)), 1 << 20).plugin(&"items".parse().unwrap())
    }

    fn response() -> CachedResponse {
        CachedResponse { status: 200, headers: vec![], body: Bytes::from_static(b"x") }
    }

    #[test]
    fn invalidating_a_tag_removes_the_responses_that_carry_it() {
        let cache = cache();
        cache.store_response(&KEY, response(), Duration::from_secs(9), &["t".into()], cache.ticket()).unwrap();
        assert_eq!(cache.response(&KEY).as_deref(), Some(&response()));
        assert_eq!(cache.response(&ResponseKey { release: 2, ..KEY }), None);
        cache.invalidate("t").unwrap();
        assert_eq!(cache.response(&KEY), None);
    }

    #[test]
    fn a_response_computed_during_an_invalidation_is_never_returned() {
        let cache = cache();
        let ticket = cache.ticket();
        cache.invalidate("t").unwrap();
        cache.store_response(&KEY, response(), Duration::from_secs(9), &["t".into()], ticket).unwrap();
        assert_eq!(cache.response(&KEY), None);
    }

    #[test]
    fn a_response_computed_during_many_invalidations_is_never_returned() {
        let cache = cache();
        cache.set("value", Bytes::from_static(b"1"), None, &[]).unwrap();
        let ticket = cache.ticket();
        cache.invalidate("t").unwrap();
        for tag in 0..10_001 {
            cache.invalidate(&tag.to_string()).unwrap();
        }
        cache.store_response(&KEY, response(), Duration::from_secs(9), &["t".into()], ticket).unwrap();
        assert_eq!(cache.response(&KEY), None, "its tag was invalidated, and the mark of the tag forgotten");
        cache.store_response(&KEY, response(), Duration::from_secs(9), &["t".into()], cache.ticket()).unwrap();
        assert_eq!(cache.response(&KEY).as_deref(), Some(&response()));
        assert!(cache.get("value").is_some(), "it has no tag");
    }
}
