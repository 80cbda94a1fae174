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
    let stored = get(key)?.and_then(|bytes| String::from_utf8(bytes).ok()).and_then(|text| text.parse::<i64>().ok());
    let sum = stored.unwrap_or_default().saturating_add(delta);
    set(key, sum.to_string().as_bytes(), ttl_ms, &[])?;
    Ok(sum)
}

pub(crate) fn invalidate(tag: &str) -> Result<(), Error> {
    with(|host| host.cache.retain(|_, entry| !entry.tags.iter().any(|known| known == tag)));
    Ok(())
}
