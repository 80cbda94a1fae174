//! The cache of verified access tokens, so that a request needs neither a signature check nor a query.
//!
//! An entry is valid only while its generation equals the generation of its user. Every change of a user or a session
//! by this process raises the generation after the commit, so a look-up that read the old state and stores it late
//! stores an invalid entry. Changes by other nodes take effect when an entry expires. An expired token is never
//! accepted, because its entry expires with it. A change of a role invalidates every entry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::caller::Caller;
use crate::clock::Timestamp;
use crate::db::Db;
use crate::id::UserId;

/// Lifetime of an entry if other nodes may change the same users.
const SHARED_TTL: Duration = Duration::from_secs(1);
/// Lifetime of an entry if this process is the only node.
const SOLE_TTL: Duration = Duration::from_secs(10);
/// Maximum number of entries. With more tokens in use, some are looked up more often.
const CAPACITY: u64 = 100_000;
/// Generations are shared by part of the user id, so a change of one user also invalidates the entries of a few others.
const STRIPES: usize = 1024;

pub(super) type Key = [u8; 32];

pub(super) struct TokenCache {
    entries: moka::sync::Cache<Key, Arc<Entry>>,
    generations: Box<[AtomicU64]>,
    /// Counts the changes of roles.
    roles: AtomicU64,
    ttl: Duration,
}

struct Entry {
    caller: Arc<Caller>,
    generation: u64,
    ends: Timestamp,
}

/// Returns the key of a token. The cache does not contain the token itself.
pub(super) fn key(token: &str) -> Key {
    Sha256::digest(token.as_bytes()).into()
}

impl TokenCache {
    pub(super) fn new(db: &Db) -> Self {
        let ttl = match db {
            Db::Sqlite(_) => SOLE_TTL,
            Db::Postgres(_) => SHARED_TTL,
        };
        // The clock of moka only evicts entries. `Entry::ends` decides whether an entry is valid.
        let entries = moka::sync::Cache::builder().max_capacity(CAPACITY).time_to_live(ttl).build();
        Self { entries, generations: (0..STRIPES).map(|_| AtomicU64::new(0)).collect(), roles: AtomicU64::new(0), ttl }
    }

    pub(super) fn get(&self, key: &Key, now: Timestamp) -> Option<Arc<Caller>> {
        let entry = self.entries.get(key)?;
        let current = self.generation(entry.caller.id()) == entry.generation;
        (current && now < entry.ends).then(|| Arc::clone(&entry.caller))
    }

    /// Returns the generation of a user. Must be read before the look-up whose result is inserted with it. Each change
    /// raises one of two counts, so their sum changes too.
    pub(super) fn generation(&self, user: Uuid) -> u64 {
        self.generation_since(self.generation_of_all(), user)
    }

    /// Returns the part of the generation that all users share. It is read before the signature of a token is checked,
    /// when the user is not known yet, because the end of a signing key invalidates the tokens of all users.
    pub(super) fn generation_of_all(&self) -> u64 {
        self.roles.load(Ordering::SeqCst)
    }

    /// Returns the generation of a user with the shared part as it was read before.
    pub(super) fn generation_since(&self, of_all: u64, user: Uuid) -> u64 {
        let own = self.stripe(user).map_or(0, |stripe| stripe.load(Ordering::SeqCst));
        own.wrapping_add(of_all)
    }

    pub(super) fn insert(&self, key: Key, caller: Arc<Caller>, generation: u64, now: Timestamp, ends: Timestamp) {
        let ends = ends.min(now.plus(self.ttl));
        self.entries.insert(key, Arc::new(Entry { caller, generation, ends }));
    }

    /// Invalidates the tokens of the user when the guard is dropped. Hold it during a change, so that the tokens are
    /// also invalidated if the request is dropped half-way.
    #[must_use]
    pub(super) fn invalidate_after(&self, user: UserId) -> InvalidateOnDrop<'_> {
        InvalidateOnDrop { cache: self, user: Some(user.0) }
    }

    /// Invalidates all tokens when the guard is dropped, after a change of a role.
    #[must_use]
    pub(super) fn invalidate_all_after(&self) -> InvalidateOnDrop<'_> {
        InvalidateOnDrop { cache: self, user: None }
    }

    fn stripe(&self, user: Uuid) -> Option<&AtomicU64> {
        let (_, low) = user.as_u64_pair();
        self.generations.get(usize::try_from(low % STRIPES as u64).unwrap_or(0))
    }
}

/// See [`TokenCache::invalidate_after`].
pub(super) struct InvalidateOnDrop<'a> {
    cache: &'a TokenCache,
    user: Option<Uuid>,
}

impl Drop for InvalidateOnDrop<'_> {
    fn drop(&mut self) {
        let count = self.user.map_or(Some(&self.cache.roles), |user| self.cache.stripe(user));
        if let Some(count) = count {
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
}
