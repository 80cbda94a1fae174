//! The entries of a cache: a value of the plugin or a cached response, with tags and expiry. Owns their weight.

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
    };
    OVERHEAD + key.len() + payload + entry.tags.iter().map(|tag| tag.len()).sum::<usize>()
}
