//! Values that may be forgotten at any time: private to the plugin, shared by its instances.
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

/// The value of a key, if it is still there.
///
/// # Errors
/// [`Error::Unavailable`] while the cache cannot be reached.
pub fn get(key: &str) -> Result<Option<Vec<u8>>, Error> {
    host::get(key)
}

/// Keeps a value, for a time or until it is evicted. `invalidate` drops it by one of its tags.
///
/// # Errors
/// [`Error::Limit`] for keys and values beyond the grant.
pub fn set(key: &str, value: &[u8], ttl: Option<Duration>, tags: &[&str]) -> Result<(), Error> {
    let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
    host::set(key, value, ttl.map(milliseconds), &tags)
}

/// Forgets a key.
///
/// # Errors
/// [`Error::Unavailable`] while the cache cannot be reached.
pub fn delete(key: &str) -> Result<(), Error> {
    host::delete(key)
}

/// Adds to a number, atomically; a missing key counts from 0. Returns the new number.
///
/// # Errors
/// As [`set`].
pub fn increment(key: &str, delta: i64, ttl: Option<Duration>) -> Result<i64, Error> {
    host::increment(key, delta, ttl.map(milliseconds))
}

/// Drops every entry, and every cached answer of this plugin, that carries the tag.
///
/// # Errors
/// [`Error::Unavailable`] while the cache cannot be reached.
pub fn invalidate(tag: &str) -> Result<(), Error> {
    host::invalidate(tag)
}

/// The kept value of a key, or a new one that is then kept as JSON. A cache that fails only costs the time it would
/// have saved.
///
/// # Errors
/// What `make` returns.
pub fn remember<T, E>(key: &str, ttl: Duration, tags: &[&str], make: impl FnOnce() -> Result<T, E>) -> Result<T, E>
where
    T: Serialize + DeserializeOwned,
{
    let kept = get(key).ok().flatten().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(value) = kept {
        return Ok(value);
    }
    let value = make()?;
    if let Ok(bytes) = serde_json::to_vec(&value) {
        let _ = set(key, &bytes, Some(ttl), tags);
    }
    Ok(value)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// 503 `cache_unavailable`, or 500 `plugin_error` for a limit, which the author has to keep.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Limit(limit) => Self::internal(format_args!("cache limit: {limit}")),
            Error::Unavailable => {
                Self::new(503, "cache_unavailable", "The service cannot do this now, try again later")
            }
        }
    }
}
