use bytes::Bytes;

use super::*;
use crate::cache::Caches;
use crate::clock::Clock;

const TARGET: Target<'_> = Target { release: 1, server: "x", caller: None, path: "/items", query: "" };
const TTL: Duration = Duration::from_secs(9);

/// The caller and the value of each header.
struct Request(&'static str, &'static str);

impl Selecting for Request {
    fn caller(&self) -> &str {
        self.0
    }

    fn header(&self, name: &str) -> Option<Vec<u8>> {
        Some(format!("{name} {}", self.1).into_bytes()).filter(|_| !self.1.is_empty())
    }
}

const REQUEST: Request = Request("", "");

fn cache() -> Arc<PluginCache> {
    Caches::new(Clock::manual(Timestamp(0)), 1 << 20).plugin(&"items".parse().unwrap())
}

fn response(body: &'static str) -> CachedResponse {
    let (stored, age, body) = (Timestamp(0), Duration::ZERO, Bytes::from_static(body.as_bytes()));
    CachedResponse { status: 200, headers: vec![], body, stored, age }
}

fn store(cache: &PluginCache, request: &Request, body: &'static str, variance: Variance, ticket: Ticket) {
    let storing = Storing { variance, ttl: TTL, tags: &["t".into()], ticket };
    cache.store_response(&TARGET, request, response(body), storing).unwrap();
}

fn stored(cache: &PluginCache, target: &Target<'_>, request: &Request) -> Option<String> {
    match cache.response(target, request).1 {
        Found::Response(fresh) => Some(String::from_utf8(fresh.response.body.to_vec()).unwrap()),
        Found::Uncacheable | Found::Nothing => None,
    }
}

fn varying(caller: bool, headers: &[&str]) -> Variance {
    Variance { caller, headers: headers.iter().map(|name| (*name).into()).collect() }
}

#[test]
fn invalidating_a_tag_removes_the_responses_that_carry_it() {
    let cache = cache();
    store(&cache, &REQUEST, "x", Variance::default(), cache.ticket());
    assert_eq!(stored(&cache, &TARGET, &REQUEST).as_deref(), Some("x"));
    for other in [
        Target { release: 2, ..TARGET },
        Target { server: "y", ..TARGET },
        Target { caller: Some("a"), ..TARGET },
        Target { path: "/item", ..TARGET },
        Target { query: "a", ..TARGET },
    ] {
        assert_eq!(stored(&cache, &other, &REQUEST), None, "{other:?}");
    }
    cache.invalidate("t").unwrap();
    assert_eq!(stored(&cache, &TARGET, &REQUEST), None);
}

#[test]
fn a_response_computed_during_an_invalidation_is_never_returned() {
    let cache = cache();
    let ticket = cache.ticket();
    cache.invalidate("t").unwrap();
    store(&cache, &REQUEST, "x", Variance::default(), ticket);
    assert_eq!(stored(&cache, &TARGET, &REQUEST), None);
}

#[test]
fn a_response_computed_during_many_invalidations_is_never_returned() {
    let cache = cache();
    cache.set("value", Bytes::from_static(b"1"), None, &[]).unwrap();
    let ticket = cache.ticket();
    cache.invalidate("t").unwrap();
    for tag in 0..10_001 {
        cache.invalidate(&tag.to_string()).unwrap();
    }
    store(&cache, &REQUEST, "x", Variance::default(), ticket);
    assert_eq!(stored(&cache, &TARGET, &REQUEST), None, "its tag was invalidated, and the mark of the tag forgotten");
    store(&cache, &REQUEST, "x", Variance::default(), cache.ticket());
    assert_eq!(stored(&cache, &TARGET, &REQUEST).as_deref(), Some("x"));
    assert!(cache.get("value").is_some(), "it has no tag");
}

#[test]
fn a_change_of_a_path_removes_all_its_responses() {
    let cache = cache();
    let all = [("/api/items", "/api/items/"), ("/api/items/", "/api/%69tems")];
    for (path, changed) in all {
        let target = Target { path, query: "skip=1", ..TARGET };
        let storing = || Storing { variance: varying(true, &[]), ttl: TTL, tags: &[], ticket: cache.ticket() };
        cache.store_response(&target, &Request("a", ""), response("x"), storing()).unwrap();
        assert!(stored(&cache, &target, &Request("a", "")).is_some());
        cache.invalidate_path("/api/item");
        assert!(stored(&cache, &target, &Request("a", "")).is_some());
        cache.invalidate_path(changed);
        assert_eq!(stored(&cache, &target, &Request("a", "")), None, "{changed}");
    }
}

#[test]
fn a_response_is_returned_only_for_the_values_that_it_depends_on() {
    let cache = cache();
    store(&cache, &Request("a", "de"), "german", varying(false, &["accept-language"]), cache.ticket());
    assert_eq!(stored(&cache, &TARGET, &Request("b", "de")).as_deref(), Some("german"));
    assert_eq!(stored(&cache, &TARGET, &Request("a", "fr")), None);
    assert_eq!(stored(&cache, &TARGET, &Request("a", "")), None);
    store(&cache, &Request("a", ""), "english", varying(false, &["accept-language"]), cache.ticket());
    assert_eq!(stored(&cache, &TARGET, &Request("a", "")).as_deref(), Some("english"));
    assert_eq!(stored(&cache, &TARGET, &Request("a", "de")).as_deref(), Some("german"));
}

#[test]
fn what_a_target_depends_on_only_grows() {
    let cache = cache();
    store(&cache, &Request("a", "de"), "a's", varying(true, &[]), cache.ticket());
    assert_eq!(stored(&cache, &TARGET, &Request("b", "de")), None);
    store(&cache, &Request("b", "de"), "all", Variance::default(), cache.ticket());
    assert_eq!(stored(&cache, &TARGET, &Request("b", "de")).as_deref(), Some("all"));
    assert_eq!(stored(&cache, &TARGET, &Request("a", "de")).as_deref(), Some("a's"));
    assert_eq!(stored(&cache, &TARGET, &Request("c", "de")), None);
    store(&cache, &Request("a", "de"), "both", varying(false, &["accept"]), cache.ticket());
    assert_eq!(stored(&cache, &TARGET, &Request("a", "de")).as_deref(), Some("both"));
    assert_eq!(stored(&cache, &TARGET, &Request("b", "de")), None);
    assert_eq!(stored(&cache, &TARGET, &Request("a", "fr")), None);
}

#[test]
fn too_many_headers_are_refused() {
    let cache = cache();
    let names: Vec<String> = (0..=MAX_VARYING).map(|number| format!("x-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let storing = Storing { variance: varying(false, &names), ttl: TTL, tags: &[], ticket: cache.ticket() };
    assert_eq!(cache.store_response(&TARGET, &REQUEST, response("x"), storing), Err(Refusal::Variance));
}

#[test]
fn a_target_that_cannot_be_cached_is_remembered_until_a_response_can() {
    let cache = cache();
    let (key, found) = cache.response(&TARGET, &REQUEST);
    assert!(matches!(found, Found::Nothing));
    cache.mark_uncacheable(&key);
    assert!(matches!(cache.response(&TARGET, &REQUEST).1, Found::Uncacheable));
    store(&cache, &REQUEST, "x", Variance::default(), cache.ticket());
    assert_eq!(stored(&cache, &TARGET, &REQUEST).as_deref(), Some("x"));
}
