//! The sources of time and randomness. No other module asks the system for either, so tests can replace both.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use uuid::Uuid;

/// A point in time: microseconds since 1970-01-01T00:00:00Z. Stored as an integer, shown as RFC 3339 in UTC with `Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

const WITH_FRACTION: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
const WHOLE_SECONDS: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");

impl Timestamp {
    /// Returns whole seconds since 1970, rounded down: the form of JWT claims.
    pub fn as_secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Returns the time `duration` later. It saturates instead of wrapping.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// Returns the time from `earlier` to this one; zero if this one is earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or_default())
    }

    /// Returns the time `duration` earlier. It saturates too.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }
}

impl fmt::Display for Timestamp {
    /// Writes `2026-11-23T14:35:13.768681Z`. The fraction is omitted only when it is zero, as in Pydantic.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0).saturating_mul(1_000);
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).map_err(|_| fmt::Error)?;
        let format = if self.0.rem_euclid(1_000_000) == 0 { WHOLE_SECONDS } else { WITH_FRACTION };
        f.write_str(&time.format(format).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Timestamp {
    type Err = time::error::Parse;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time = OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)?;
        Ok(Self(i64::try_from(time.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)))
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "date-time" })
    }
}

/// The state of a manual clock, in microseconds.
#[derive(Debug)]
pub struct ManualClock {
    /// The time since 1970, if it was never set back.
    elapsed: AtomicI64,
    /// How far it was set back.
    set_back: AtomicI64,
}

/// The moment from which [`Clock::monotonic`] measures.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A clock that is some milliseconds late, and several times cheaper to read than the exact one.
#[cfg(target_os = "linux")]
const COARSE: ClockId = ClockId::MonotonicCoarse;
#[cfg(not(target_os = "linux"))]
const COARSE: ClockId = ClockId::Monotonic;

/// Returns the nanoseconds of the machine's monotonic clock. [`coarse_nanos`] checks a deadline that was set with it.
pub fn monotonic_nanos() -> u64 {
    nanos(ClockId::Monotonic)
}

/// Returns the same some milliseconds late and never early, for a deadline that is checked so often that the time of the
/// checks counts.
pub fn coarse_nanos() -> u64 {
    nanos(COARSE)
}

/// Returns the nanoseconds of CPU time that this thread has used. This is a system call of some tenths of a microsecond.
pub fn thread_nanos() -> u64 {
    nanos(ClockId::ThreadCPUTime)
}

/// Returns a duration in nanoseconds; the longest ones count as 584 years.
pub fn as_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// A source of time.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// A clock for tests, which stands still until [`Clock::advance`].
    Manual(Arc<ManualClock>),
}

impl Clock {
    /// Creates a clock that stands at `start` until [`Clock::advance`].
    pub fn manual(start: Timestamp) -> Self {
        Self::Manual(Arc::new(ManualClock { elapsed: AtomicI64::new(start.0), set_back: AtomicI64::new(0) }))
    }

    /// Returns the current time.
    #[allow(clippy::disallowed_methods, reason = "this is where time comes in")]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => {
                let micros = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000;
                Timestamp(i64::try_from(micros).unwrap_or(i64::MAX))
            }
            Self::Manual(clock) => {
                Timestamp(clock.elapsed.load(Ordering::SeqCst).saturating_sub(clock.set_back.load(Ordering::SeqCst)))
            }
        }
    }

    /// Returns the time since some moment. It never goes back, even if the machine's clock is set.
    pub fn monotonic(&self) -> Duration {
        match self {
            Self::System => START.elapsed(),
            Self::Manual(clock) => {
                Duration::from_micros(u64::try_from(clock.elapsed.load(Ordering::SeqCst)).unwrap_or(0))
            }
        }
    }

    /// Moves a manual clock forward. The system's clock is left alone.
    pub fn advance(&self, duration: Duration) {
        if let Self::Manual(clock) = self {
            clock.elapsed.fetch_add(micros(duration), Ordering::SeqCst);
        }
    }

    /// Sets a manual clock back, as an operator or a time server does. The system's clock is left alone.
    pub fn set_back(&self, duration: Duration) {
        if let Self::Manual(clock) = self {
            clock.set_back.fetch_add(micros(duration), Ordering::SeqCst);
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A source of randomness for identifiers, tokens, salts and keys.
#[derive(Debug, Clone, Default)]
pub enum Random {
    /// The operating system's generator.
    #[default]
    System,
    /// A counter for tests: unique, repeatable, and worthless as a secret.
    Sequence(Arc<AtomicI64>),
}

/// The number of ids of requests for which a thread asks the operating system at once.
const REQUEST_IDS: usize = 64;

thread_local! {
    /// Random bytes for the next ids of requests.
    static SPARE: RefCell<Vec<[u8; 16]>> = const { RefCell::new(Vec::new()) };
}

#[allow(clippy::disallowed_methods, reason = "this is where randomness comes in")]
fn fill(bytes: &mut [u8]) -> crate::error::Result<()> {
    getrandom::fill(bytes).map_err(|error| {
        crate::error::Error::internal("the operating system's random generator failed").with_source(error)
    })
}

impl Random {
    /// Returns `N` random bytes.
    ///
    /// # Errors
    /// The operating system's generator failed. An operation that needs a secret must not continue then.
    pub fn bytes<const N: usize>(&self) -> crate::error::Result<[u8; N]> {
        let mut bytes = [0; N];
        match self {
            Self::System => fill(&mut bytes)?,
            Self::Sequence(next) => {
                let count = next.fetch_add(1, Ordering::SeqCst).to_be_bytes();
                for (to, from) in bytes.iter_mut().rev().zip(count.iter().rev()) {
                    *to = *from;
                }
            }
        }
        Ok(bytes)
    }

    /// Returns a random (version 4) UUID.
    ///
    /// # Errors
    /// As [`Random::bytes`].
    pub fn uuid(&self) -> crate::error::Result<Uuid> {
        Ok(uuid::Builder::from_random_bytes(self.bytes()?).into_uuid())
    }

    /// Returns a random (version 4) UUID for a request. It must not be a secret: its bytes wait in memory for their use,
    /// because asking the operating system for each request costs more than all else about the id.
    ///
    /// # Errors
    /// As [`Random::bytes`].
    pub fn request_id(&self) -> crate::error::Result<Uuid> {
        let Self::System = self else { return self.uuid() };
        let bytes = SPARE.with_borrow_mut(|spare| -> crate::error::Result<[u8; 16]> {
            if let Some(bytes) = spare.pop() {
                return Ok(bytes);
            }
            let mut fresh = [[0_u8; 16]; REQUEST_IDS];
            fill(fresh.as_flattened_mut())?;
            let [bytes, rest @ ..] = fresh;
            spare.extend(rest);
            Ok(bytes)
        });
        Ok(uuid::Builder::from_random_bytes(bytes?).into_uuid())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_timestamp_omits_only_a_fraction_of_zero() {
        assert_eq!(Timestamp(1_763_908_513_768_681).to_string(), "2025-11-23T14:35:13.768681Z");
        assert_eq!(Timestamp(1_763_908_513_000_000).to_string(), "2025-11-23T14:35:13Z");
        assert_eq!("2025-11-23T14:35:13.768681Z".parse(), Ok(Timestamp(1_763_908_513_768_681)));
    }

    #[test]
    fn a_manual_clock_moves_only_when_it_is_advanced() {
        let clock = Clock::manual(Timestamp(0));
        assert_eq!(clock.now(), clock.now());
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.now(), Timestamp(2_000_000));
        assert_eq!(clock.monotonic(), Duration::from_secs(2));
    }

    #[test]
    fn the_monotonic_time_does_not_go_back_with_the_clock() {
        let clock = Clock::manual(Timestamp(5_000_000));
        clock.set_back(Duration::from_secs(4));
        assert_eq!((clock.now(), clock.monotonic()), (Timestamp(1_000_000), Duration::from_secs(5)));
        clock.advance(Duration::from_secs(2));
        assert_eq!((clock.now(), clock.monotonic()), (Timestamp(3_000_000), Duration::from_secs(7)));
    }

    #[test]
    fn each_request_has_an_id_of_its_own() {
        for random in [Random::System, Random::Sequence(Arc::default())] {
            let id = || random.request_id().unwrap();
            let ids: HashSet<Uuid> = (0..3 * REQUEST_IDS).map(|_| id()).collect();
            assert_eq!(ids.len(), 3 * REQUEST_IDS);
            assert!(ids.iter().all(|id| id.get_version_num() == 4));
        }
    }
}
