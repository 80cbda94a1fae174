//! A cache that is private to the plugin and shared by its instances. A value may be evicted at any time.
//!
//! ```
//! use std::time::Duration;
//! use wharf_sdk::cache;
//!
//! fn rates() -> wharf_sdk::Result<Vec<u32>> {
//!     cache::remember("rates", Duration::from_secs(60), &["rates"], || Ok(vec![1, 2, 3]))
//! }
//! assert_eq!(rates().unwrap(), [1, 2, 3]);
//! assert!(cache::get("rates").unwrap().is_some());
//! ```

use crate::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

use crate::host::cache as host;

pub use crate::bindings::imports::wharf::cache::store::Error;

/// Returns the value of a key, if it is still cached.
///
/// # Errors
/// [`Error::Unavailable`] while the cache cannot be reached.
pub fn get(key: &str) -> Result<Option<Vec<u8>>, Error> {
    host::get(key)
}

/// Stores a value, for a time or until it is evicted. [`invalidate`] removes it by one of its tags.
///
/// # Errors
/// [`Error::Limit`] for keys and values beyond the grant.
pub fn set(key: &str, value: &[u8], ttl: Option<Duration>, tags: &[&str]) -> Result<(), Error> {
    let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
    host::set(key, value, ttl.map(milliseconds), &tags)
}

/// Removes a key.
///
/// # Errors
/// [`Error::Unavailable`] while the cache cannot be reached.
pub fn delete(key: &str) -> Result<(), Error> {
    host::delete(key)
}

/// Adds to a number atomically and returns the sum. A missing key counts as 0. `ttl` is the time of a new key; one that
/// exists keeps its time and its tags. So a counter with a time counts the events since its first one.
///
/// # Errors
/// As [`set`], and [`Error::Limit`] if the value is no number or the sum is out of range.
pub fn increment(key: &str, delta: i64, ttl: Option<Duration>) -> Result<i64, Error> {
    host::increment(key, delta, ttl.map(milliseconds))
}

/// Removes every entry and every cached response of this plugin that has the tag.
///
/// # Errors
/// [`Error::Unavailable`] while the cache cannot be reached.
pub fn invalidate(tag: &str) -> Result<(), Error> {
    host::invalidate(tag)
}

/// Returns the cached value of a key. If there is none, calls `compute` and caches its result as JSON.
///
/// A failure of the cache is ignored: it costs only the time that the cache would have saved.
///
/// # Errors
/// The error of `compute`.
pub fn remember<T, E>(key: &str, ttl: Duration, tags: &[&str], compute: impl FnOnce() -> Result<T, E>) -> Result<T, E>
where
    T: Serialize + DeserializeOwned,
{
    let cached = get(key).ok().flatten().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(value) = cached {
        return Ok(value);
    }
    let value = compute()?;
    if let Ok(bytes) = serde_json::to_vec(&value) {
        let _ = set(key, &bytes, Some(ttl), tags);
    }
    Ok(value)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// 503 `cache_unavailable`, or 500 `plugin_error` for a limit: the author has to stay within it.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Limit(limit) => Self::internal(format_args!("cache limit: {limit}")),
            Error::Unavailable => Self::new(503, "cache_unavailable", "The cache is unavailable, try again later"),
        }
    }
}
