//! The cache of one plugin: its values, its counters, and the invalidation of tags. Cached responses are stored here
//! too, through `response_cache`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use moka::ops::compute::Op;
use moka::sync::Cache;

use super::entry::{Entry, Key, Payload, PerEntry, weight};
use super::single_flight::Flights;
use crate::clock::{Clock, Timestamp};

/// Maximum length of a key in bytes.
pub const MAX_KEY: usize = 512;
/// Maximum size of a value in bytes.
pub const MAX_VALUE: usize = 1024 * 1024;
/// Maximum number of tags of one entry.
pub const MAX_TAGS: usize = 16;
/// Maximum length of a tag in bytes.
pub const MAX_TAG: usize = 128;
/// The maximum number of request headers that the responses of one target may depend on.
pub const MAX_VARYING: usize = 16;
/// Maximum number of marks of one plugin. Beyond it every entry with a tag becomes stale, which is always permitted.
const MAX_MARKS: usize = 10_000;

/// Why an entry is refused. The text names the limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The key is too long.
    #[error("key length: {MAX_KEY} bytes")]
    Key,
    /// The value is larger than any value may be, or is with its key and tags larger than the whole cache.
    #[error("value size: {0} bytes")]
    Value(u64),
    /// There are too many tags, or one is too long.
    #[error("tags: {MAX_TAGS} of {MAX_TAG} bytes")]
    Tags,
    /// The response depends on too many headers of the request.
    #[error("varying headers: {MAX_VARYING}")]
    Variance,
    /// The value is not a counter, or the counter would overflow.
    #[error("counter: the value is not a 64-bit integer, or would overflow")]
    Counter,
}

/// The cache of one plugin.
#[derive(Debug)]
pub struct PluginCache {
    clock: Clock,
    entries: ArcSwap<Entries>,
    marks: Mutex<Marks>,
    counter: AtomicU64,
    /// The calls that compute a response for the cache.
    pub(super) flights: Arc<Flights>,
}

/// The invalidated tags.
#[derive(Debug, Default)]
struct Marks {
    by_tag: HashMap<Box<str>, u64>,
    /// The mark of every tag that `by_tag` no longer has: responses that are computed now may carry one of them.
    forgotten: u64,
}

impl PluginCache {
    pub(super) fn new(clock: &Clock, bytes: u64) -> Self {
        let entries = ArcSwap::from_pointee(Entries::new(bytes));
        let (marks, counter) = (Mutex::default(), AtomicU64::new(0));
        Self { clock: clock.clone(), entries, marks, counter, flights: Arc::default() }
    }

    /// Changes the size in bytes. A change clears the cache.
    pub fn resize(&self, bytes: u64) {
        if self.entries.load().bytes != bytes {
            self.entries.store(Arc::new(Entries::new(bytes)));
        }
    }

    /// Returns the number of entries and their bytes.
    pub fn usage(&self) -> (u64, u64) {
        let entries = self.entries.load();
        let Some(entries) = entries.cache.get() else { return (0, 0) };
        // Without this, moka does not count recent entries yet and still counts expired ones.
        entries.run_pending_tasks();
        (entries.entry_count(), entries.weighted_size())
    }

    /// Returns a value.
    pub fn get(&self, key: &str) -> Option<Bytes> {
        match self.fresh(&Key::Value(key.into()))?.payload {
            Payload::Value(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Stores a value until `ttl` is over or until it is evicted.
    ///
    /// # Errors
    /// The key, the value or the tags exceed their limit.
    pub fn set(&self, key: &str, value: Bytes, ttl: Option<Duration>, tags: &[String]) -> Result<(), Refusal> {
        if key.len() > MAX_KEY {
            return Err(Refusal::Key);
        }
        if value.len() > MAX_VALUE {
            return Err(Refusal::Value(MAX_VALUE as u64));
        }
        let entry = self.entry(Payload::Value(value), ttl, tags, self.now_ticket())?;
        self.insert(Key::Value(key.into()), entry)
    }

    /// Stores an entry. Refuses one that is larger than the cache: it would evict everything else first.
    pub(super) fn insert(&self, key: Key, entry: Entry) -> Result<(), Refusal> {
        let entries = self.entries.load();
        if weight(&key, &entry) as u64 > entries.bytes {
            return Err(Refusal::Value(entries.bytes));
        }
        entries.cache().insert(key, entry);
        Ok(())
    }

    /// Removes a value.
    pub fn delete(&self, key: &str) {
        if let Some(entries) = self.entries.load().cache.get() {
            entries.invalidate(&Key::Value(key.into()));
        }
    }

    /// Adds to a counter atomically and returns the sum. A missing counter starts at 0 with the given `ttl`; an
    /// existing counter keeps its own.
    ///
    /// # Errors
    /// The key is too long, the value is not a counter, or the sum overflows.
    pub fn increment(&self, key: &str, delta: i64, ttl: Option<Duration>) -> Result<i64, Refusal> {
        if key.len() > MAX_KEY {
            return Err(Refusal::Key);
        }
        let mut sum = Err(Refusal::Counter);
        self.entries.load().cache().entry(Key::Value(key.into())).and_compute_with(|present| {
            let present = present.map(moka::Entry::into_value).filter(|entry| self.is_fresh(entry));
            let count = match &present {
                None => Some(0),
                Some(Entry { payload: Payload::Value(bytes), .. }) => {
                    std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<i64>().ok())
                }
                Some(_) => None,
            };
            let Some(next) = count.and_then(|count| count.checked_add(delta)) else { return Op::Nop };
            sum = Ok(next);
            let payload = Payload::Value(next.to_string().into());
            match present {
                Some(mut entry) => {
                    entry.payload = payload;
                    // moka restarts the time at an update, so the entry gets the remaining time.
                    entry.ttl = entry.expires.map(|expires| remaining(self.clock.now(), expires));
                    Op::Put(entry)
                }
                None => match self.entry(payload, ttl, &[], self.now_ticket()) {
                    Ok(entry) => Op::Put(entry),
                    Err(refusal) => {
                        sum = Err(refusal);
                        Op::Nop
                    }
                },
            }
        });
        sum
    }

    /// Makes every value and response with this tag stale.
    ///
    /// # Errors
    /// The tag is too long.
    pub fn invalidate(&self, tag: &str) -> Result<(), Refusal> {
        if tag.len() > MAX_TAG {
            return Err(Refusal::Tags);
        }
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = self.counter.fetch_add(1, Ordering::SeqCst) + 1;
        if marks.by_tag.len() >= MAX_MARKS && !marks.by_tag.contains_key(tag) {
            marks.by_tag.clear();
            marks.forgotten = mark;
        }
        marks.by_tag.insert(tag.into(), mark);
        Ok(())
    }

    /// Returns the time.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn now_ticket(&self) -> u64 {
        self.counter.load(Ordering::SeqCst)
    }

    pub(super) fn entry(
        &self,
        payload: Payload,
        ttl: Option<Duration>,
        tags: &[String],
        ticket: u64,
    ) -> Result<Entry, Refusal> {
        if tags.len() > MAX_TAGS || tags.iter().any(|tag| tag.len() > MAX_TAG) {
            return Err(Refusal::Tags);
        }
        let expires = ttl.map(|ttl| self.clock.now().plus(ttl));
        Ok(Entry { payload, tags: tags.iter().map(|tag| tag.as_str().into()).collect(), ticket, ttl, expires })
    }

    pub(super) fn fresh(&self, key: &Key) -> Option<Entry> {
        self.entries.load().cache.get()?.get(key).filter(|entry| self.is_fresh(entry))
    }

    fn is_fresh(&self, entry: &Entry) -> bool {
        // moka's clock only reclaims memory. The injected clock decides.
        if entry.expires.is_some_and(|expires| expires <= self.clock.now()) {
            return false;
        }
        // Most often nothing was invalidated since the entry was computed.
        if entry.tags.is_empty() || self.now_ticket() == entry.ticket {
            return true;
        }
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.forgotten <= entry.ticket
            && entry.tags.iter().all(|tag| marks.by_tag.get(tag).is_none_or(|mark| *mark <= entry.ticket))
    }
}

/// The entries, within a size in bytes. moka allocates tens of kilobytes for an empty cache, so it is created with the
/// first entry: most of ten thousand plugins may have none.
#[derive(Debug)]
struct Entries {
    bytes: u64,
    cache: OnceLock<Cache<Key, Entry>>,
}

impl Entries {
    fn new(bytes: u64) -> Self {
        Self { bytes, cache: OnceLock::new() }
    }

    fn cache(&self) -> &Cache<Key, Entry> {
        self.cache.get_or_init(|| {
            Cache::builder()
                .max_capacity(self.bytes)
                .weigher(|key: &Key, entry: &Entry| u32::try_from(weight(key, entry)).unwrap_or(u32::MAX))
                .expire_after(PerEntry)
                .build()
        })
    }
}

pub(super) fn remaining(now: Timestamp, expires: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(expires.0.saturating_sub(now.0)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Caches;

    fn cache(bytes: u64) -> (Clock, Arc<PluginCache>) {
        let clock = Clock::manual(Timestamp(0));
        let name = "items".parse().unwrap();
        (clock.clone(), Caches::new(clock, bytes).plugin(&name))
    }

    #[test]
    fn values_expire_by_the_injected_clock() {
        let (clock, cache) = cache(1 << 20);
        cache.set("a", Bytes::from_static(b"1"), Some(Duration::from_secs(10)), &[]).unwrap();
        clock.advance(Duration::from_secs(9));
        assert_eq!(cache.get("a").as_deref(), Some(&b"1"[..]));
        clock.advance(Duration::from_secs(1));
        assert_eq!(cache.get("a"), None);
    }

    #[test]
    fn invalidating_a_tag_removes_the_values_that_carry_it() {
        let (_, cache) = cache(1 << 20);
        cache.set("a", Bytes::from_static(b"1"), None, &["t".into()]).unwrap();
        cache.set("b", Bytes::from_static(b"2"), None, &["u".into()]).unwrap();
        cache.invalidate("t").unwrap();
        assert_eq!(cache.get("a"), None);
        assert!(cache.get("b").is_some());
        cache.set("a", Bytes::from_static(b"3"), None, &["t".into()]).unwrap();
        assert!(cache.get("a").is_some());
    }

    #[test]
    fn a_counter_keeps_its_expiry_time() {
        let (clock, cache) = cache(1 << 20);
        assert_eq!(cache.increment("n", 5, Some(Duration::from_secs(10))), Ok(5));
        clock.advance(Duration::from_secs(9));
        assert_eq!(cache.increment("n", -2, None), Ok(3));
        clock.advance(Duration::from_secs(1));
        assert_eq!(cache.increment("n", 1, None), Ok(1));
        assert_eq!(cache.increment("n", i64::MAX, None), Err(Refusal::Counter));
        cache.set("text", Bytes::from_static(b"x"), None, &[]).unwrap();
        assert_eq!(cache.increment("text", 1, None), Err(Refusal::Counter));
    }

    #[test]
    fn a_refusal_names_the_limit_and_the_cache_stays_bounded() {
        let (_, cache) = cache(100_000);
        assert_eq!(cache.set(&"k".repeat(513), Bytes::new(), None, &[]), Err(Refusal::Key));
        assert_eq!(cache.set("k", vec![0; MAX_VALUE + 1].into(), None, &[]), Err(Refusal::Value(1 << 20)));
        assert_eq!(cache.set("k", vec![0; 100_000].into(), None, &[]), Err(Refusal::Value(100_000)));
        assert_eq!(cache.set("k", Bytes::new(), None, &vec![String::new(); 17]), Err(Refusal::Tags));
        for index in 0..1_000 {
            cache.set(&index.to_string(), vec![0; 1_000].into(), None, &[]).unwrap();
        }
        assert!(cache.usage().1 <= 100_000);
    }

    #[test]
    fn a_new_size_clears_the_cache_and_the_same_size_does_not() {
        let (_, cache) = cache(100_000);
        cache.set("k", Bytes::from_static(b"1"), None, &[]).unwrap();
        cache.resize(100_000);
        assert!(cache.get("k").is_some());
        cache.resize(10_000);
        assert_eq!(cache.get("k"), None);
        for index in 0..100 {
            cache.set(&index.to_string(), vec![0; 1_000].into(), None, &[]).unwrap();
        }
        let bytes = cache.usage().1;
        assert!((1..=10_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn the_number_of_marks_is_bounded_and_no_stale_entry_returns() {
        let (_, cache) = cache(1 << 20);
        cache.set("a", Bytes::from_static(b"1"), None, &["first".into()]).unwrap();
        cache.invalidate("first").unwrap();
        for index in 0..MAX_MARKS + 10 {
            cache.invalidate(&index.to_string()).unwrap();
        }
        assert_eq!(cache.get("a"), None);
        assert!(cache.marks.lock().unwrap().by_tag.len() <= MAX_MARKS);
    }
}
