//! The cache of a test: a map without limits.

use super::state::{CacheEntry, with};
use crate::bindings::imports::wharf::cache::store::Error;
use std::time::{Duration, Instant};

pub(crate) fn get(key: &str) -> Result<Option<Vec<u8>>, Error> {
    Ok(with(|host| {
        let now = Instant::now() + host.clock;
        let is_alive = |entry: &&CacheEntry| entry.expires_at.is_none_or(|time| now < time);
        host.cache.get(key).filter(is_alive).map(|entry| entry.value.clone())
    }))
}

pub(crate) fn set(key: &str, value: &[u8], ttl_ms: Option<u64>, tags: &[String]) -> Result<(), Error> {
    with(|host| {
        let now = Instant::now() + host.clock;
        let expires_at = ttl_ms.and_then(|ttl| now.checked_add(Duration::from_millis(ttl)));
        let entry = CacheEntry { value: value.to_vec(), expires_at, tags: tags.to_vec() };
        host.cache.insert(key.to_owned(), entry);
    });
    Ok(())
}

pub(crate) fn delete(key: &str) -> Result<(), Error> {
    with(|host| host.cache.remove(key));
    Ok(())
}

pub(crate) fn increment(key: &str, delta: i64, ttl_ms: Option<u64>) -> Result<i64, Error> {
    let no_counter = || Error::Limit("counter: the value is not a 64-bit integer, or would overflow".to_owned());
    let stored = get(key)?;
    let count = match &stored {
        Some(bytes) => std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<i64>().ok()),
        None => Some(0),
    };
    let sum = count.and_then(|count| count.checked_add(delta)).ok_or_else(no_counter)?;
    let value = sum.to_string().into_bytes();
    if stored.is_none() {
        set(key, &value, ttl_ms, &[])?;
    } else {
        // It keeps its time and its tags.
        with(|host| {
            if let Some(entry) = host.cache.get_mut(key) {
                entry.value = value;
            }
        });
    }
    Ok(sum)
}

pub(crate) fn invalidate(tag: &str) -> Result<(), Error> {
    with(|host| host.cache.retain(|_, entry| !entry.tags.iter().any(|known| known == tag)));
    Ok(())
}
