//! The response cache: responses of plugins that the host may send again. It is part of the plugin's cache, so its size
//! counts against `cache.bytes`, and a plugin invalidates its responses by their tags.
//!
//! A caller takes a ticket before the plugin computes the response. If a tag is invalidated in the meantime, the
//! response is stale when it is stored, and no client ever gets it.
//!
//! The target of a request (release, server, path, query) is the first key. If a response depends on more, its entry
//! names that ([`Variance`]): the caller, or headers of the request. The second key has their values. The variance of a
//! target only grows, so a response that depends on less never hides that another depends on more.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::percent_decode_str;
use sha2::{Digest as _, Sha256};

pub use super::entry::{CachedResponse, Variance};
use super::entry::{Entry, Key, Payload};
pub use super::plugin_cache::MAX_VARYING;
use super::plugin_cache::{PluginCache, Refusal, remaining};
pub use super::single_flight::{Lead, Turn, Wait};
use crate::clock::Timestamp;

/// How long requests for a target do not wait for each other after a response that could not be cached.
const UNCACHEABLE_TIME: Duration = Duration::from_secs(10);

/// The target of a request.
#[derive(Debug, Clone)]
pub struct Target<'a> {
    /// The release: another release may respond differently.
    pub release: i64,
    /// The server that the client named. A plugin can read it, so a response may contain it.
    pub server: &'a str,
    /// The caller, if the route declares that its responses differ by caller.
    pub caller: Option<&'a str>,
    /// The path as received.
    pub path: &'a str,
    /// The query as received, without `?`.
    pub query: &'a str,
}

/// A request, as far as a response may depend on it besides its target.
pub trait Selecting {
    /// Returns everything that a response may depend on in the caller; empty without one.
    fn caller(&self) -> &str;
    /// Returns the value of a header; `None` without it.
    fn header(&self, name: &str) -> Option<Vec<u8>>;
}

/// The key of a response: its target, and the values that responses of the target depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseKey(Box<str>);

/// The result of a look-up.
#[derive(Debug, Clone)]
pub enum Found {
    /// A fresh response.
    Response(Fresh),
    /// The last response could not be cached, so it is of no use to wait for one.
    Uncacheable,
    /// Nothing.
    Nothing,
}

/// A fresh response.
#[derive(Debug, Clone)]
pub struct Fresh {
    /// The response.
    pub response: Arc<CachedResponse>,
    /// How old it is.
    pub age: Duration,
    /// How long it is still fresh.
    pub left: Duration,
}

impl Target<'_> {
    fn key(&self) -> Box<str> {
        let Self { release, server, caller, path, query } = self;
        let (number, caller) = (release.to_string(), caller.unwrap_or_default());
        // None of them contains a line break.
        [&number, *server, caller, *path, *query].join("\n").into()
    }
}

impl ResponseKey {
    /// Returns the second key. The digest keeps it small, because a client chooses the values.
    fn of(target: &str, variance: &Variance, request: &impl Selecting) -> Self {
        let mut digest = Sha256::new();
        let mut add = |bytes: &[u8]| {
            digest.update(bytes.len().to_le_bytes());
            digest.update(bytes);
        };
        if variance.caller {
            add(b"caller");
            add(request.caller().as_bytes());
        }
        for name in &variance.headers {
            add(name.as_bytes());
            match request.header(name) {
                Some(value) => add(&[b"=", value.as_slice()].concat()),
                None => add(b""),
            }
        }
        Self(format!("{target}\n{}", URL_SAFE_NO_PAD.encode(digest.finalize())).into())
    }
}

/// The number of invalidations before a response was computed; see the module's text.
#[derive(Debug, Clone, Copy)]
pub struct Ticket(u64);

/// How a response is stored.
#[derive(Debug)]
pub struct Storing<'a> {
    /// The inputs that it depends on.
    pub variance: Variance,
    /// How long it is fresh.
    pub ttl: Duration,
    /// The tags that the route declares.
    pub tags: &'a [String],
    /// Taken before it was computed.
    pub ticket: Ticket,
}

impl PluginCache {
    /// Returns a ticket for a response that is about to be computed.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.now_ticket())
    }

    /// Returns the time by which responses age.
    pub fn time(&self) -> Timestamp {
        self.now()
    }

    /// Looks up the response to a request, and returns the key under which it is, or would be.
    pub fn response(&self, target: &Target<'_>, request: &impl Selecting) -> (ResponseKey, Found) {
        let (mut key, mut entry) = self.fresh_response(target.key());
        if let Some(Payload::Variance(variance)) = entry.as_ref().map(|entry| &entry.payload) {
            (key, entry) = self.fresh_response(ResponseKey::of(&key.0, variance, request).0);
        }
        let Some(entry) = entry else { return (key, Found::Nothing) };
        let found = match entry.payload {
            Payload::Response(response) => {
                let now = self.now();
                let age = response.age.saturating_add(remaining(response.stored, now));
                let left = entry.expires.map_or(Duration::MAX, |expires| remaining(now, expires));
                Found::Response(Fresh { response, age, left })
            }
            Payload::Uncacheable => Found::Uncacheable,
            Payload::Value(_) | Payload::Variance(_) => Found::Nothing,
        };
        (key, found)
    }

    /// Returns the key with its entry.
    fn fresh_response(&self, text: Box<str>) -> (ResponseKey, Option<Entry>) {
        let key = Key::Response(text);
        let entry = self.fresh(&key);
        let (Key::Response(text) | Key::Value(text)) = key;
        (ResponseKey(text), entry)
    }

    /// Joins the computation of a response, or begins one.
    pub fn join(&self, key: &ResponseKey) -> Turn {
        self.flights.join(&key.0)
    }

    /// Stores a response.
    ///
    /// # Errors
    /// The tags exceed their limit, the response is larger than the cache, or it depends on too many headers.
    pub fn store_response(
        &self,
        target: &Target<'_>,
        request: &impl Selecting,
        response: CachedResponse,
        storing: Storing<'_>,
    ) -> Result<(), Refusal> {
        let Storing { variance, ttl, tags, ticket } = storing;
        let first = target.key();
        let known = self.fresh(&Key::Response(first.clone()));
        let (variance, known_ttl) = match known.as_ref().map(|entry| (&entry.payload, entry.expires)) {
            Some((Payload::Variance(known), expires)) => {
                (variance.and(known), expires.map_or(ttl, |expires| remaining(self.now(), expires)))
            }
            _ => (variance, ttl),
        };
        if variance.headers.len() > MAX_VARYING {
            return Err(Refusal::Variance);
        }
        let mut entry = self.entry(Payload::Response(Arc::new(response)), Some(ttl), tags, ticket.0)?;
        entry.tags = entry.tags.iter().cloned().chain([path_tag(target.path)]).collect();
        if variance.is_none() {
            return self.insert(Key::Response(first), entry);
        }
        let second = ResponseKey::of(&first, &variance, request);
        let marker = self.entry(Payload::Variance(Arc::new(variance)), Some(ttl.max(known_ttl)), &[], ticket.0)?;
        self.insert(Key::Response(second.0), entry)?;
        self.insert(Key::Response(first), marker)
    }

    /// Remembers for a while that a response could not be cached.
    pub fn mark_uncacheable(&self, key: &ResponseKey) {
        if let Ok(entry) = self.entry(Payload::Uncacheable, Some(UNCACHEABLE_TIME), &[], self.now_ticket()) {
            let _ = self.insert(Key::Response(key.0.clone()), entry);
        }
    }

    /// Makes every response of a path stale, for every query and caller: the resource has changed (RFC 9111, section
    /// 4.4).
    pub fn invalidate_path(&self, path: &str) {
        // The tag is short.
        let _ = self.invalidate(&path_tag(path));
    }
}

/// Returns the tag of all responses of a path. A tag of a plugin can be the same; then the plugin invalidates its own
/// responses.
fn path_tag(path: &str) -> Box<str> {
    let decoded: Vec<u8> = percent_decode_str(path.trim_end_matches('/')).collect();
    format!("\0path {}", URL_SAFE_NO_PAD.encode(Sha256::digest(decoded))).into()
}

#[cfg(test)]
mod tests;
