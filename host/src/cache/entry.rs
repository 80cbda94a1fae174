//! The entries of a cache: a value of the plugin or a cached response, with tags and expiry, or a note about the
//! responses of a target. Owns their weight.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use moka::Expiry;

use crate::clock::Timestamp;

/// The memory of an entry in addition to its bytes. Measured with 200,000 entries (resident memory, moka 0.12): 510
/// bytes each beyond key and value, 590 with a tag and an expiry time. So the size of a cache bounds its number of keys
/// too.
const OVERHEAD: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Value(Box<str>),
    Response(Box<str>),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) payload: Payload,
    pub(super) tags: Arc<[Box<str>]>,
    pub(super) ticket: u64,
    pub(super) ttl: Option<Duration>,
    pub(super) expires: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub(super) enum Payload {
    Value(Bytes),
    Response(Arc<CachedResponse>),
    /// The responses of this target are elsewhere, by the inputs that they depend on.
    Variance(Arc<Variance>),
    /// The last response could not be cached.
    Uncacheable,
}

/// The inputs that responses depend on besides the target of the request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variance {
    /// The caller.
    pub caller: bool,
    /// Headers of the request (the field `Vary`), in lower case and in order.
    pub headers: BTreeSet<Box<str>>,
}

impl Variance {
    pub(super) fn is_none(&self) -> bool {
        !self.caller && self.headers.is_empty()
    }

    /// Returns the inputs that either depends on.
    pub(super) fn and(mut self, other: &Self) -> Self {
        self.caller |= other.caller;
        self.headers.extend(other.headers.iter().cloned());
        self
    }
}

pub(super) struct PerEntry;

impl Expiry<Key, Entry> for PerEntry {
    fn expire_after_create(&self, _: &Key, entry: &Entry, _: Instant) -> Option<Duration> {
        entry.ttl
    }

    fn expire_after_update(&self, _: &Key, entry: &Entry, _: Instant, _: Option<Duration>) -> Option<Duration> {
        entry.ttl
    }
}

/// A successful response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedResponse {
    /// The status.
    pub status: u16,
    /// The headers, checked.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// When it was stored.
    pub stored: Timestamp,
    /// How old it was then.
    pub age: Duration,
}

impl CachedResponse {
    pub(super) fn weight(&self) -> usize {
        self.body.len() + self.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }
}

/// Returns the bytes of an entry for the size of the cache.
pub(super) fn weight(key: &Key, entry: &Entry) -> usize {
    let (Key::Value(key) | Key::Response(key)) = key;
    let payload = match &entry.payload {
        Payload::Value(bytes) => bytes.len(),
        Payload::Response(response) => response.weight(),
        Payload::Variance(variance) => variance.headers.iter().map(|name| OVERHEAD / 8 + name.len()).sum(),
        Payload::Uncacheable => 0,
    };
    OVERHEAD + key.len() + payload + entry.tags.iter().map(|tag| tag.len()).sum::<usize>()
}
