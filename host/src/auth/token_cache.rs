//! Tokens verified lately, so that a request costs neither a signature check nor a query.
//!
//! An entry counts only while its user's generation is the one it was made under. Every change of a user or session of this
//! process raises the generation after it is committed, so a look-up that read the old state and stores it late stores
//! something that is never used. Changes by other nodes are seen when an entry's time is up. An expired token is never
//! served: the entry ends with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::Caller;
use crate::clock::Timestamp;
use crate::db::Db;
use crate::id::UserId;

/// How long an entry counts where other nodes may change the same users.
const SHARED_TTL: Duration = Duration::from_secs(1);
/// How long an entry counts where this process is the only one.
const SOLE_TTL: Duration = Duration::from_secs(10);
/// More tokens than this in use at once are looked up more often.
const CAPACITY: u64 = 100_000;
/// Generations are kept by a part of the user's id: changing one user makes a few others be looked up again, no more.
const STRIPES: usize = 1024;

pub(super) type Key = [u8; 32];

pub(super) struct TokenCache {
    entries: moka::sync::Cache<Key, Arc<Entry>>,
    generations: Box<[AtomicU64]>,
    ttl: Duration,
}

struct Entry {
    caller: Arc<Caller>,
    generation: u64,
    ends: Timestamp,
}

/// A token's key; the token itself is not kept.
pub(super) fn key(token: &str) -> Key {
    Sha256::digest(token.as_bytes()).into()
}

impl TokenCache {
    pub(super) fn new(db: &Db) -> Self {
        let ttl = match db {
            Db::Sqlite(_) => SOLE_TTL,
            Db::Postgres(_) => SHARED_TTL,
        };
        // moka's own clock only clears the shelves; `Entry::ends` decides.
        let entries = moka::sync::Cache::builder().max_capacity(CAPACITY).time_to_live(ttl).build();
        Self { entries, generations: (0..STRIPES).map(|_| AtomicU64::new(0)).collect(), ttl }
    }

    pub(super) fn get(&self, key: &Key, now: Timestamp) -> Option<Arc<Caller>> {
        let entry = self.entries.get(key)?;
        let current = self.generation(entry.caller.user.id) == entry.generation;
        (current && now < entry.ends).then(|| Arc::clone(&entry.caller))
    }

    /// Must be asked for before the look-up whose result is inserted under it.
    pub(super) fn generation(&self, user: UserId) -> u64 {
        self.stripe(user).map_or(0, |stripe| stripe.load(Ordering::SeqCst))
    }

    pub(super) fn insert(&self, key: Key, caller: Arc<Caller>, generation: u64, now: Timestamp, ends: Timestamp) {
        let ends = ends.min(now.plus(self.ttl));
        self.entries.insert(key, Arc::new(Entry { caller, generation, ends }));
    }

    /// Forgets the user's tokens when the guard is dropped: to be held over a change, so that also a change whose request
    /// was abandoned half-way counts.
    #[must_use]
    pub(super) fn invalidate_after(&self, user: UserId) -> InvalidateOnDrop<'_> {
        InvalidateOnDrop { cache: self, user }
    }

    fn stripe(&self, user: UserId) -> Option<&AtomicU64> {
        let (_, low) = user.0.as_u64_pair();
        self.generations.get(usize::try_from(low % STRIPES as u64).unwrap_or(0))
    }
}

/// See [`TokenCache::invalidate_after`].
pub(super) struct InvalidateOnDrop<'a> {
    cache: &'a TokenCache,
    user: UserId,
}

impl Drop for InvalidateOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(stripe) = self.cache.stripe(self.user) {
            stripe.fetch_add(1, Ordering::SeqCst);
        }
    }
}
