//! One limit: a token bucket for each subject. Owns the states of all buckets, and the bound of their number.
//!
//! The arithmetic is that of the crate `governor` (the generic cell rate algorithm). Its own stores keep every subject
//! until somebody cleans them up; this one forgets the rarest subjects by itself.

use std::convert::Infallible;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use sha2::{Digest as _, Sha256};

use crate::clock::{Clock, as_nanos};

/// The digest of a limit's name and of a subject.
type Key = [u8; 32];

/// The states of all buckets.
#[derive(Clone)]
pub(super) struct States(moka::sync::Cache<Key, Arc<InMemoryState>>);

impl States {
    /// Keeps at most `capacity` states. One that was not used for `unused` equals a new one, and is forgotten.
    pub(super) fn new(capacity: u64, unused: Duration) -> Self {
        Self(moka::sync::Cache::builder().max_capacity(capacity).time_to_idle(unused).build())
    }
}

impl StateStore for States {
    type Key = Key;

    fn measure_and_replace<T, F, E>(&self, key: &Key, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let state = self.0.get_with(*key, Arc::default);
        state.measure_and_replace(&NotKeyed::NonKey, decide)
    }
}

/// The host's clock, for `governor`: it never goes back.
struct Monotonic(Clock);

impl governor::clock::Clock for Monotonic {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        // The first moment would mean "never".
        Nanos::from(u64::try_from(self.0.monotonic().as_nanos()).unwrap_or(u64::MAX / 2))
    }
}

/// The buckets of one limit.
pub(super) struct Bucket {
    name: &'static str,
    quota: Quota,
    states: States,
    limiter: RateLimiter<Key, States, Monotonic, NoOpMiddleware<Nanos>>,
}

/// A token that was taken.
pub(super) struct Token {
    states: States,
    key: Key,
    interval: u64,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Returns the token to its bucket.
    pub(super) fn give_back(self) {
        let Some(state) = self.states.0.get(&self.key) else { return };
        let earlier = |until: Option<Nanos>| {
            let until = until.map_or(0, Nanos::as_u64).saturating_sub(self.interval);
            Ok::<_, Infallible>(((), Nanos::from(until)))
        };
        let Ok(()) = state.measure_and_replace(&NotKeyed::NonKey, earlier);
    }
}

impl Bucket {
    /// Holds `burst` tokens and gets a new one in each `interval`.
    pub(super) fn new(name: &'static str, burst: u32, interval: Duration, states: &States, clock: &Clock) -> Self {
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let interval = interval.max(Duration::from_millis(1));
        let quota = Quota::with_period(interval).unwrap_or(Quota::per_minute(NonZeroU32::MIN)).allow_burst(burst);
        let limiter = RateLimiter::new(quota, states.clone(), Monotonic(clock.clone()));
        Self { name, quota, states: states.clone(), limiter }
    }

    /// Takes a token of the subject, or returns the wait for the next one.
    pub(super) fn take(&self, subject: &[u8]) -> Result<Token, Duration> {
        let key: Key = Sha256::new().chain_update(self.name).chain_update([0]).chain_update(subject).finalize().into();
        match self.limiter.check_key(&key) {
            Ok(()) => {
                let interval = as_nanos(self.quota.replenish_interval());
                Ok(Token { states: self.states.clone(), key, interval })
            }
            Err(refused) => Err(refused.wait_time_from(self.limiter.clock().now())),
        }
    }

    /// Returns the name of the limit.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the number of tokens of a full bucket.
    pub(super) fn burst(&self) -> u32 {
        self.quota.burst_size().get()
    }

    /// Returns the time in which an empty bucket becomes full.
    pub(super) fn window(&self) -> Duration {
        self.quota.burst_size_replenished_in()
    }

    /// Returns the number of states, of all buckets together.
    #[cfg(test)]
    pub(super) fn states(&self) -> u64 {
        self.states.0.run_pending_tasks();
        self.states.0.entry_count()
    }
}
