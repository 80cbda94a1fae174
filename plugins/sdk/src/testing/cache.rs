//! The cache of a test: a map, without limits.

use super::host::with;
use crate::cache::Error;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Entry {
    value: Vec<u8>,
    until: Option<Instant>,
    tags: Vec<String>,
}

impl Entry {
    fn is_alive(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }
}

fn deadline(ttl_ms: Option<u64>) -> Option<Instant> {
    ttl_ms.and_then(|ttl| Instant::now().checked_add(Duration::from_millis(ttl)))
}

pub(crate) fn get(key: &str) -> Result<Option<Vec<u8>>, Error> {
    Ok(with(|host| host.cache.get(key).filter(|entry| entry.is_alive()).map(|entry| entry.value.clone())))
}

pub(crate) fn set(key: &str, value: &[u8], ttl_ms: Option<u64>, tags: &[String]) -> Result<(), Error> {
    let entry = Entry { value: value.to_vec(), until: deadline(ttl_ms), tags: tags.to_vec() };
    with(|host| host.cache.insert(key.to_owned(), entry));
    Ok(())
}

pub(crate) fn delete(key: &str) -> Result<(), Error> {
    with(|host| host.cache.remove(key));
    Ok(())
}

pub(crate) fn increment(key: &str, delta: i64, ttl_ms: Option<u64>) -> Result<i64, Error> {
    let kept = get(key)?.and_then(|bytes| String::from_utf8(bytes).ok()).and_then(|text| text.parse::<i64>().ok());
    let sum = kept.unwrap_or_default().saturating_add(delta);
    set(key, sum.to_string().as_bytes(), ttl_ms, &[])?;
    Ok(sum)
}

pub(crate) fn invalidate(tag: &str) -> Result<(), Error> {
    with(|host| host.cache.retain(|_, entry| !entry.tags.iter().any(|known| known == tag)));
    Ok(())
}
