//! The rules of HTTP caching (RFC 9111) for the responses of plugins: which responses the host may keep, how long, and
//! which requests a kept response satisfies. Knows no cache.
//!
//! The host keeps responses only of routes that declare it, so the lifetime of the route replaces heuristics. A response
//! can shorten that lifetime and forbid to keep it. The host serves many clients, so it is a shared cache: it keeps no
//! `private` response. Credentials never reach a plugin; a response that depends on the caller is kept for that caller.

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use axum::http::HeaderMap;
use axum::http::header::CACHE_CONTROL;

use crate::clock::Timestamp;

/// How a response may be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storable {
    /// How long it is fresh.
    pub(super) lifetime: Duration,
    /// How old it is already.
    pub(super) age: Duration,
    /// The headers of the request that it depends on, in lower case.
    pub(super) vary: BTreeSet<Box<str>>,
}

/// Returns how a response to GET may be kept; `None` if it may not. `ttl` is the lifetime that its route declares.
pub(super) fn storable(status: u16, headers: &[(String, String)], ttl: Duration, now: Timestamp) -> Option<Storable> {
    if status != 200 {
        return None;
    }
    let values =
        |wanted: &'static str| headers.iter().filter(move |(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let mut lifetimes = Lifetimes::default();
    for value in values("cache-control") {
        for (name, argument) in directives(value) {
            match name.as_str() {
                "no-store" | "private" | "no-cache" => return None,
                "s-maxage" => lifetimes.add_shared(seconds(argument)),
                "max-age" => lifetimes.add(seconds(argument)),
                _ => {}
            }
        }
    }
    let vary: BTreeSet<Box<str>> = values("vary").flat_map(names).map(String::into_boxed_str).collect();
    if vary.contains("*") {
        return None;
    }
    let age = Duration::from_secs(values("age").next().map_or(0, |age| seconds(Some(age))));
    // An invalid date, such as 0, means that the response is already stale.
    let expires = values("expires").next().map(|date| parse_date(date).map_or(Duration::ZERO, |at| since(now, at)));
    let lifetime = match lifetimes.explicit() {
        Some(explicit) => ttl.min(Duration::from_secs(explicit).saturating_sub(age)),
        None => ttl.min(expires.unwrap_or(Duration::MAX)),
    };
    (lifetime > Duration::ZERO).then_some(Storable { lifetime, age, vary })
}

/// The lifetimes that a response names, in seconds. Of several the shortest counts; those for shared caches come first.
#[derive(Debug, Default)]
struct Lifetimes {
    any: Option<u64>,
    shared: Option<u64>,
}

impl Lifetimes {
    fn add(&mut self, seconds: u64) {
        self.any = Some(self.any.map_or(seconds, |earlier| earlier.min(seconds)));
    }

    fn add_shared(&mut self, seconds: u64) {
        self.shared = Some(self.shared.map_or(seconds, |earlier| earlier.min(seconds)));
    }

    fn explicit(&self) -> Option<u64> {
        self.shared.or(self.any)
    }
}

/// The demands of a request on a cache. RFC 9111 lets a cache ignore them; the host respects those about freshness and
/// storage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct RequestDirectives {
    /// The response must not be kept. An earlier one may be used.
    pub(super) no_store: bool,
    no_cache: bool,
    max_age: Option<Duration>,
    min_fresh: Duration,
}

impl RequestDirectives {
    /// Reads the directives of a request.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for value in headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok()) {
            for (name, argument) in directives(value) {
                match name.as_str() {
                    "no-store" => found.no_store = true,
                    "no-cache" => found.no_cache = true,
                    "max-age" => {
                        let age = Duration::from_secs(seconds(argument));
                        found.max_age = Some(found.max_age.map_or(age, |earlier| earlier.min(age)));
                    }
                    "min-fresh" => found.min_fresh = found.min_fresh.max(Duration::from_secs(seconds(argument))),
                    _ => {}
                }
            }
        }
        found
    }

    /// Returns whether a response of this age, which stays fresh for `left`, satisfies the request.
    pub(super) fn accept(&self, age: Duration, left: Duration) -> bool {
        // A client with `max-age=0` wants a new response, also in the second in which another was stored.
        let is_young = self.max_age.is_none_or(|most| !most.is_zero() && age.as_secs() <= most.as_secs());
        !self.no_cache && is_young && left >= self.min_fresh
    }

    /// Returns whether a response that another request is waiting for satisfies it.
    pub(super) fn accept_shared(&self) -> bool {
        !self.no_store && self.accept(Duration::ZERO, Duration::MAX)
    }
}

/// Returns the directives of a `cache-control`, with names in lower case and arguments without quotes.
fn directives(value: &str) -> impl Iterator<Item = (String, Option<&str>)> {
    elements(value).map(|element| {
        let (name, argument) = element.split_once('=').map_or((element, None), |(name, rest)| (name, Some(rest)));
        (name.trim().to_ascii_lowercase(), argument.map(|text| text.trim().trim_matches('"')))
    })
}

/// Splits a list at the commas outside quotes.
fn elements(value: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let pieces = value.split(move |character: char| {
        let is_escaped = std::mem::take(&mut escaped);
        match character {
            _ if is_escaped => false,
            '\\' => {
                escaped = quoted;
                false
            }
            '"' => {
                quoted = !quoted;
                false
            }
            other => other == ',' && !quoted,
        }
    });
    pieces.map(str::trim).filter(|piece| !piece.is_empty())
}

/// Returns the names of a `vary` in lower case.
fn names(value: &str) -> Vec<String> {
    value.split(',').map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty()).collect()
}

/// Reads a number of seconds. Too many are very many, and anything else is none: the response counts as stale.
fn seconds(text: Option<&str>) -> u64 {
    let text = text.unwrap_or_default();
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().unwrap_or(u64::MAX) } else { 0 }
}

fn parse_date(text: &str) -> Option<Timestamp> {
    let at = httpdate::parse_http_date(text.trim()).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp(0).plus(at))
}

/// Returns the time from `earlier` to `later`.
fn since(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(later.0.saturating_sub(earlier.0)).unwrap_or(0))
}

/// Returns a time as HTTP writes it.
pub(super) fn http_date(at: Timestamp) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + since(Timestamp(0), at))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const NOW: Timestamp = Timestamp(784_111_777_000_000);
    const TTL: u64 = 60;

    /// Returns lifetime and age in seconds.
    fn kept(headers: &[(&str, &str)]) -> Option<(u64, u64)> {
        let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let storable = storable(200, &headers, Duration::from_secs(TTL), NOW)?;
        Some((storable.lifetime.as_secs(), storable.age.as_secs()))
    }

    #[test]
    fn a_response_is_kept_as_rfc_9111_allows() {
        let control = |value| kept(&[("cache-control", value)]);
        // Section 5.2.2: directives of a response.
        for forbidden in [
            "no-store",
            "NO-STORE",
            "public, private",
            "private=\"x-colour, x-size\"",
            "no-cache",
            "no-cache=\"set-cookie\"",
            "max-age=10 , no-store",
            "s-maxage=0",
            "max-age=0",
            "max-age=x",
            "max-age=-1",
            "max-age",
        ] {
            assert_eq!(control(forbidden), None, "{forbidden}");
        }
        assert_eq!(kept(&[("cache-control", "public"), ("cache-control", "no-store")]), None);
        for (value, lifetime) in [
            ("public", 60),
            ("x=\"no-store, private\"", 60),
            ("x=\"\\\", no-store\"", 60),
            ("max-age=10", 10),
            ("max-age=\"10\"", 10),
            ("Max-Age=99999999999999999999999", 60),
            ("max-age=10, s-maxage=20", 20),
            ("max-age=30, max-age=20", 20),
            ("must-revalidate, proxy-revalidate, immutable", 60),
        ] {
            assert_eq!(control(value), Some((lifetime, 0)), "{value}");
        }
        // Section 5.3: Expires, and only without a lifetime in Cache-Control.
        for (date, lifetime) in [
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some((10, 0))),
            ("Sunday, 06-Nov-94 08:49:47 GMT", Some((10, 0))),
            ("Sun, 06 Nov 1994 08:49:37 GMT", None),
            ("0", None),
        ] {
            assert_eq!(kept(&[("expires", date)]), lifetime, "{date}");
        }
        assert_eq!(kept(&[("expires", "0"), ("cache-control", "max-age=5")]), Some((5, 0)));
        // Section 4.2.3: a response can have an age.
        assert_eq!(kept(&[("age", "7"), ("cache-control", "max-age=10")]), Some((3, 7)));
        assert_eq!(kept(&[("age", "10"), ("cache-control", "max-age=10")]), None);
        // Section 4.1: a response that matches nothing is not kept.
        assert_eq!(kept(&[("vary", "accept, *")]), None);
        assert_eq!(storable(203, &[], Duration::from_secs(TTL), NOW), None);
    }

    #[test]
    fn the_headers_that_vary_are_read_in_any_form() {
        let headers = [("vary", "Accept-Language,accept ,"), ("vary", "ACCEPT")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let vary = storable(200, &headers, Duration::from_secs(TTL), NOW).unwrap().vary;
        assert_eq!(vary.into_iter().collect::<Vec<_>>(), ["accept".into(), "accept-language".into()]);
    }

    #[test]
    fn a_request_gets_a_kept_response_if_its_directives_allow() {
        let accepts = |value: &'static str, age, left| {
            let headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static(value))]);
            RequestDirectives::of(&headers).accept(Duration::from_secs(age), Duration::from_secs(left))
        };
        for (value, age, left, accepted) in [
            ("", 50, 10, true),
            ("no-cache", 0, 60, false),
            ("No-Cache, no-store", 0, 60, false),
            ("no-store", 50, 10, true),
            ("max-age=0", 0, 60, false),
            ("max-age=50", 50, 10, true),
            ("max-age=49", 50, 10, false),
            ("max-age=99, max-age=\"1\"", 50, 10, false),
            ("min-fresh=10", 50, 10, true),
            ("min-fresh=11", 50, 10, false),
            ("max-stale, only-if-cached, x", 50, 10, true),
        ] {
            assert_eq!(accepts(value, age, left), accepted, "{value}");
        }
    }

    #[test]
    fn a_date_is_that_of_rfc_9110() {
        assert_eq!(http_date(NOW), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
