//! Bytes that may be forgotten: one bounded cache for each plugin, holding the values it stores itself and the answers
//! the host keeps for it. Owns expiry and tags. Knows neither Wasm nor HTTP.
//!
//! A tag is invalidated by moving its mark; an entry is stale when one of its tags was marked after the entry's ticket
//! was drawn. Answers draw their ticket before the plugin runs, so a write that lands while an answer is being made
//! makes that answer stale before it is stored.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use moka::Expiry;
use moka::ops::compute::Op;
use moka::sync::Cache;

use crate::clock::{Clock, Timestamp};
use crate::id::PluginName;

/// The longest key in bytes.
pub const MAX_KEY: usize = 512;
/// The largest value in bytes.
pub const MAX_VALUE: usize = 1024 * 1024;
/// The most tags of one entry.
pub const MAX_TAGS: usize = 16;
/// The longest tag in bytes.
pub const MAX_TAG: usize = 128;
/// Marks kept for one plugin; beyond them its whole cache is forgotten, which is always allowed.
const MAX_MARKS: usize = 10_000;
/// What an entry costs beside its bytes: 200,000 of them took 510 bytes more each than their keys and values, and 590 with a
/// tag and a time (resident memory, moka 0.12). So the bytes of a cache bound its keys too.
const OVERHEAD: usize = 512;

/// Why an entry is refused; names the limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The key.
    #[error("key length: {MAX_KEY} bytes")]
    Key,
    /// The value: larger than any may be, or with its key and tags than the whole cache.
    #[error("value size: {0} bytes")]
    Value(u64),
    /// The tags.
    #[error("tags: {MAX_TAGS} of {MAX_TAG} bytes")]
    Tags,
    /// A counter that is not one, or overflows.
    #[error("counter: the value is not a 64-bit integer, or would overflow")]
    Counter,
}

/// The caches of all plugins. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caches {
    clock: Clock,
    bytes: u64,
    plugins: Arc<Mutex<HashMap<PluginName, Arc<PluginCache>>>>,
}

impl Caches {
    /// No cache yet; each plugin's will hold at most `bytes`, unless it is [resized](PluginCache::resize).
    pub fn new(clock: Clock, bytes: u64) -> Self {
        Self { clock, bytes, plugins: Arc::default() }
    }

    /// What each holds unless it is resized.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The cache of a plugin, made when it is first asked for.
    pub fn plugin(&self, name: &PluginName) -> Arc<PluginCache> {
        let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        let cache = plugins.entry(name.clone()).or_insert_with(|| Arc::new(PluginCache::new(&self.clock, self.bytes)));
        Arc::clone(cache)
    }

    /// Forgets everything of a plugin.
    pub fn remove(&self, name: &PluginName) {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// What one plugin's cache holds.
#[derive(Debug)]
pub struct PluginCache {
    clock: Clock,
    entries: ArcSwap<Cache<Key, Entry>>,
    marks: Mutex<HashMap<Box<str>, u64>>,
    counter: AtomicU64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Value(Box<str>),
    Answer(Box<str>),
}

#[derive(Debug, Clone)]
struct Entry {
    held: Held,
    tags: Arc<[Box<str>]>,
    ticket: u64,
    ttl: Option<Duration>,
    expires: Option<Timestamp>,
}

#[derive(Debug, Clone)]
enum Held {
    Value(Bytes),
    Answer(Arc<Answer>),
}

/// A successful answer that the host may give again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Checked headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// Drawn before an answer is made; see the module's text.
#[derive(Debug, Clone, Copy)]
pub struct Ticket(u64);

struct PerEntry;

impl Expiry<Key, Entry> for PerEntry {
    fn expire_after_create(&self, _: &Key, entry: &Entry, _: Instant) -> Option<Duration> {
        entry.ttl
    }

    fn expire_after_update(&self, _: &Key, entry: &Entry, _: Instant, _: Option<Duration>) -> Option<Duration> {
        entry.ttl
    }
}

impl PluginCache {
    fn new(clock: &Clock, bytes: u64) -> Self {
        let entries = ArcSwap::from_pointee(entries(bytes));
        let (marks, counter) = (Mutex::default(), AtomicU64::new(0));
        Self { clock: clock.clone(), entries, marks, counter }
    }

    /// Holds so many bytes from now on. A change forgets what is held.
    pub fn resize(&self, bytes: u64) {
        if self.entries.load().policy().max_capacity() != Some(bytes) {
            self.entries.store(Arc::new(entries(bytes)));
        }
    }

    /// Entries and bytes that it holds.
    pub fn held(&self) -> (u64, u64) {
        let entries = self.entries.load();
        // What was stored lately is not counted before, and what expired not left out.
        entries.run_pending_tasks();
        (entries.entry_count(), entries.weighted_size())
    }

    /// A ticket for an answer that is about to be made.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.counter.load(Ordering::SeqCst))
    }

    /// A value.
    pub fn get(&self, key: &str) -> Option<Bytes> {
        match self.fresh(&Key::Value(key.into()))?.held {
            Held::Value(bytes) => Some(bytes),
            Held::Answer(_) => None,
        }
    }

    /// Stores a value until `ttl` is over, or until it must make room.
    ///
    /// # Errors
    /// Key, value or tags are beyond their limit.
    pub fn set(&self, key: &str, value: Bytes, ttl: Option<Duration>, tags: &[String]) -> Result<(), Refusal> {
        if key.len() > MAX_KEY {
            return Err(Refusal::Key);
        }
        if value.len() > MAX_VALUE {
            return Err(Refusal::Value(MAX_VALUE as u64));
        }
        let entry = self.entry(Held::Value(value), ttl, tags, self.ticket())?;
        self.insert(Key::Value(key.into()), entry)
    }

    /// What could never stay is not taken in: it would push out everything else first.
    fn insert(&self, key: Key, entry: Entry) -> Result<(), Refusal> {
        let entries = self.entries.load();
        let bytes = entries.policy().max_capacity().unwrap_or(u64::MAX);
        if weight(&key, &entry) as u64 > bytes {
            return Err(Refusal::Value(bytes));
        }
        entries.insert(key, entry);
        Ok(())
    }

    /// Forgets a value.
    pub fn delete(&self, key: &str) {
        self.entries.load().invalidate(&Key::Value(key.into()));
    }

    /// Adds to a counter, atomically; a missing one counts from 0. `ttl` is for a counter that is made; one that is
    /// there keeps its own.
    ///
    /// # Errors
    /// The key is too long, the value is not a counter, or the sum overflows.
    pub fn increment(&self, key: &str, delta: i64, ttl: Option<Duration>) -> Result<i64, Refusal> {
        if key.len() > MAX_KEY {
            return Err(Refusal::Key);
        }
        let mut sum = Err(Refusal::Counter);
        self.entries.load().entry(Key::Value(key.into())).and_compute_with(|present| {
            let present = present.map(moka::Entry::into_value).filter(|entry| self.is_fresh(entry));
            let count = match &present {
                None => Some(0),
                Some(Entry { held: Held::Value(bytes), .. }) => {
                    std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<i64>().ok())
                }
                Some(_) => None,
            };
            let Some(next) = count.and_then(|count| count.checked_add(delta)) else { return Op::Nop };
            sum = Ok(next);
            let held = Held::Value(next.to_string().into());
            match present {
                Some(mut entry) => {
                    entry.held = held;
                    // moka counts the time anew at an update: what is left is what it gets.
                    entry.ttl = entry.expires.map(|expires| remaining(self.clock.now(), expires));
                    Op::Put(entry)
                }
                None => match self.entry(held, ttl, &[], self.ticket()) {
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

    /// An answer kept earlier.
    pub fn answer(&self, key: &str) -> Option<Arc<Answer>> {
        match self.fresh(&Key::Answer(key.into()))?.held {
            Held::Answer(answer) => Some(answer),
            Held::Value(_) => None,
        }
    }

    /// Keeps an answer whose ticket was drawn before it was made.
    ///
    /// # Errors
    /// The tags are beyond their limit, or the answer is larger than the cache.
    pub fn keep(
        &self,
        key: String,
        answer: Answer,
        ttl: Duration,
        tags: &[String],
        ticket: Ticket,
    ) -> Result<(), Refusal> {
        let entry = self.entry(Held::Answer(Arc::new(answer)), Some(ttl), tags, ticket)?;
        self.insert(Key::Answer(key.into()), entry)
    }

    /// Makes every value and answer with this tag stale.
    ///
    /// # Errors
    /// The tag is too long.
    pub fn invalidate(&self, tag: &str) -> Result<(), Refusal> {
        if tag.len() > MAX_TAG {
            return Err(Refusal::Tags);
        }
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = self.counter.fetch_add(1, Ordering::SeqCst) + 1;
        if marks.len() >= MAX_MARKS && !marks.contains_key(tag) {
            self.entries.load().invalidate_all();
            marks.clear();
        }
        marks.insert(tag.into(), mark);
        Ok(())
    }

    fn entry(&self, held: Held, ttl: Option<Duration>, tags: &[String], ticket: Ticket) -> Result<Entry, Refusal> {
        if tags.len() > MAX_TAGS || tags.iter().any(|tag| tag.len() > MAX_TAG) {
            return Err(Refusal::Tags);
        }
        let expires = ttl.map(|ttl| self.clock.now().plus(ttl));
        Ok(Entry { held, tags: tags.iter().map(|tag| tag.as_str().into()).collect(), ticket: ticket.0, ttl, expires })
    }

    fn fresh(&self, key: &Key) -> Option<Entry> {
        self.entries.load().get(key).filter(|entry| self.is_fresh(entry))
    }

    fn is_fresh(&self, entry: &Entry) -> bool {
        // moka's clock reclaims memory; the injected one decides.
        if entry.expires.is_some_and(|expires| expires <= self.clock.now()) {
            return false;
        }
        if entry.tags.is_empty() {
            return true;
        }
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        entry.tags.iter().all(|tag| marks.get(tag).is_none_or(|mark| *mark <= entry.ticket))
    }
}

fn entries(bytes: u64) -> Cache<Key, Entry> {
    Cache::builder()
        .max_capacity(bytes)
        .weigher(|key: &Key, entry: &Entry| u32::try_from(weight(key, entry)).unwrap_or(u32::MAX))
        .expire_after(PerEntry)
        .build()
}

fn remaining(now: Timestamp, expires: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(expires.0.saturating_sub(now.0)).unwrap_or(0))
}

fn weight(key: &Key, entry: &Entry) -> usize {
    let (Key::Value(key) | Key::Answer(key)) = key;
    let held = match &entry.held {
        Held::Value(bytes) => bytes.len(),
        Held::Answer(answer) => {
            answer.body.len() + answer.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
        }
    };
    OVERHEAD + key.len() + held + entry.tags.iter().map(|tag| tag.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_tag_forgets_values_and_answers_that_carry_it() {
        let (_, cache) = cache(1 << 20);
        let answer = Answer { status: 200, headers: vec![], body: Bytes::from_static(b"x") };
        cache.set("a", Bytes::from_static(b"1"), None, &["t".into()]).unwrap();
        cache.set("b", Bytes::from_static(b"2"), None, &["u".into()]).unwrap();
        cache.keep("r".into(), answer, Duration::from_secs(9), &["t".into()], cache.ticket()).unwrap();
        cache.invalidate("t").unwrap();
        assert_eq!(cache.get("a"), None);
        assert_eq!(cache.answer("r"), None);
        assert!(cache.get("b").is_some());
        cache.set("a", Bytes::from_static(b"3"), None, &["t".into()]).unwrap();
        assert!(cache.get("a").is_some());
    }

    #[test]
    fn an_answer_made_across_an_invalidation_is_never_given() {
        let (_, cache) = cache(1 << 20);
        let answer = Answer { status: 200, headers: vec![], body: Bytes::from_static(b"old") };
        let ticket = cache.ticket();
        cache.invalidate("t").unwrap();
        cache.keep("r".into(), answer, Duration::from_secs(9), &["t".into()], ticket).unwrap();
        assert_eq!(cache.answer("r"), None);
    }

    #[test]
    fn counters_count_and_keep_their_time() {
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
    fn limits_are_named_and_the_whole_stays_bounded() {
        let (_, cache) = cache(100_000);
        assert_eq!(cache.set(&"k".repeat(513), Bytes::new(), None, &[]), Err(Refusal::Key));
        assert_eq!(cache.set("k", vec![0; MAX_VALUE + 1].into(), None, &[]), Err(Refusal::Value(1 << 20)));
        assert_eq!(cache.set("k", vec![0; 100_000].into(), None, &[]), Err(Refusal::Value(100_000)));
        assert_eq!(cache.set("k", Bytes::new(), None, &vec![String::new(); 17]), Err(Refusal::Tags));
        for index in 0..1_000 {
            cache.set(&index.to_string(), vec![0; 1_000].into(), None, &[]).unwrap();
        }
        cache.entries.load().run_pending_tasks();
        assert!(cache.entries.load().weighted_size() <= 100_000);
    }

    #[test]
    fn another_size_forgets_and_holds_and_the_same_keeps() {
        let (_, cache) = cache(100_000);
        cache.set("k", Bytes::from_static(b"1"), None, &[]).unwrap();
        cache.resize(100_000);
        assert!(cache.get("k").is_some());
        cache.resize(10_000);
        assert_eq!(cache.get("k"), None);
        for index in 0..100 {
            cache.set(&index.to_string(), vec![0; 1_000].into(), None, &[]).unwrap();
        }
        let entries = cache.entries.load();
        entries.run_pending_tasks();
        assert!((1..=10_000).contains(&entries.weighted_size()), "{}", entries.weighted_size());
    }

    #[test]
    fn many_marks_do_not_grow_without_end_nor_revive_anything() {
        let (_, cache) = cache(1 << 20);
        cache.set("a", Bytes::from_static(b"1"), None, &["first".into()]).unwrap();
        cache.invalidate("first").unwrap();
        for index in 0..MAX_MARKS + 10 {
            cache.invalidate(&index.to_string()).unwrap();
        }
        assert_eq!(cache.get("a"), None);
        assert!(cache.marks.lock().unwrap().len() <= MAX_MARKS);
    }
}
