//! Responses that the host caches for a plugin.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::task::JoinHandle;

use super::deploy_twin;
use crate::http::metrics::samples;
use crate::support::gate::Gate;
use crate::support::host::{CHAMELEON, PASSWORD};
use crate::support::polling::until;
use crate::support::{Client, Component, Setup, TestHost, TestResponse};

async fn chameleon(setup: Setup) -> TestHost {
    let host = TestHost::sqlite(setup).await;
    host.deploy_chameleon().await;
    host
}

async fn text(client: &Client, path: &str) -> String {
    let response = client.get(path).await;
    assert_eq!(response.status, 200, "{}", response.text());
    response.text()
}

#[tokio::test]
async fn a_response_is_served_from_the_cache() {
    let host = chameleon(Setup::default()).await;
    let first = host.anonymous().get("/chameleon/cached").await;
    let second = host.superuser().get("/chameleon/cached").await;
    assert_eq!((second.status, second.text()), (200, first.text()));
    assert_eq!(second.header("content-type"), first.header("content-type"));
    assert_ne!(second.header("x-request-id"), first.header("x-request-id"));
    let samples = samples(host.superuser()).await;
    let counted = |outcome: &str| {
        let name = format!(r#"wharf_plugin_calls_total{{plugin="chameleon",release="1",outcome="{outcome}"}}"#);
        samples.iter().find(|(sample, _)| *sample == name).unwrap().1
    };
    assert_eq!(["success", "kept"].map(counted), [1.0, 1.0]);
}

#[tokio::test]
async fn another_query_is_another_cache_entry() {
    let host = chameleon(Setup::default()).await;
    let client = host.anonymous();
    assert_ne!(text(&client, "/chameleon/cached?a=1").await, text(&client, "/chameleon/cached?a=2").await);
}

#[tokio::test]
async fn a_cached_response_expires() {
    let host = chameleon(Setup::default().with_manual_clock()).await;
    let client = host.anonymous();
    let first = text(&client, "/chameleon/cached").await;
    host.clock().advance(Duration::from_secs(3599));
    assert_eq!(text(&client, "/chameleon/cached").await, first);
    host.clock().advance(Duration::from_secs(1));
    assert_ne!(text(&client, "/chameleon/cached").await, first);
}

#[tokio::test]
async fn a_cached_response_of_one_caller_is_not_served_to_another() {
    let host = chameleon(Setup::default()).await;
    let (one, two) = (host.user("one@example.com").await, host.user("two@example.com").await);
    let first = text(&one, "/chameleon/cached-per-caller").await;
    assert_ne!(text(&two, "/chameleon/cached-per-caller").await, first);
    assert_eq!(text(&one, "/chameleon/cached-per-caller").await, first);
    host.anonymous().get("/chameleon/cached-per-caller").await.has_code(401, "not_authenticated");
}

#[tokio::test]
async fn a_problem_is_not_cached() {
    let host = chameleon(Setup::default()).await;
    let first = host.anonymous().get("/chameleon/cached-problem").await.has_code(409, "never_kept");
    assert_ne!(host.anonymous().get("/chameleon/cached-problem").await.has_code(409, "never_kept"), first);
}

#[tokio::test]
async fn an_invalidated_tag_removes_its_responses() {
    let host = chameleon(Setup::default()).await;
    let client = host.anonymous();
    let first = text(&client, "/chameleon/cached").await;
    client.request(Method::POST, "/chameleon/invalidate/other").send().await;
    assert_eq!(text(&client, "/chameleon/cached").await, first);
    client.request(Method::POST, "/chameleon/invalidate/leaf").send().await;
    assert_ne!(text(&client, "/chameleon/cached").await, first);
}

#[tokio::test]
async fn a_new_release_has_its_own_cached_responses() {
    let host = chameleon(Setup::default()).await;
    let client = host.anonymous();
    let first = text(&client, "/chameleon/cached").await;
    host.superuser().deploy(&Component::chameleon().rebuilt("again").0, "").await.ok();
    assert_ne!(text(&client, "/chameleon/cached").await, first);
}

#[tokio::test]
async fn another_plugin_has_its_own_cached_responses() {
    let host = chameleon(Setup::default()).await;
    deploy_twin(&host).await;
    let client = host.anonymous();
    assert_ne!(text(&client, "/chameleon/cached").await, text(&client, "/twin/cached").await);
}

/// The text of a request's own headers, and of the parameters of `cached-as`.
async fn ask(client: &Client, path: &str, headers: &[(&str, &str)]) -> TestResponse {
    let request = client.request(Method::GET, &format!("/chameleon/cached-as/{path}"));
    headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send().await
}

/// The headers of a request.
type Headers = &'static [(&'static str, &'static str)];

/// Each case: section of RFC 9111, what the plugin responds, the headers of the first and the second request, and
/// whether the second gets the response to the first.
const CASES: &[(&str, &str, Headers, Headers, bool)] = &[
    ("3", "", &[], &[], true),
    ("3", "status=203", &[], &[], false),
    ("3", "status=404", &[], &[], false),
    ("3.5", "cache_control=public", &[("authorization", "Basic x")], &[], true),
    ("4.1", "vary=accept-language", &[("accept-language", "de")], &[("accept-language", "fr")], false),
    ("4.1", "vary=accept-language", &[("accept-language", "de")], &[], false),
    ("4.1", "vary=Accept-Language,%20accept", &[("accept-language", "de")], &[("accept-language", "de")], true),
    ("4.1", "vary=cookie", &[("cookie", "a=1")], &[("cookie", "a=2")], false),
    ("4.1", "vary=accept", &[("accept-language", "de")], &[("accept-language", "fr")], true),
    ("4.1", "vary=*", &[], &[], false),
    ("4.2.1", "expires=0", &[], &[], false),
    ("4.2.1", "expires=Fri,%2015%20Jan%202027%2009:00:00%20GMT", &[], &[], true),
    ("4.2.1", "cache_control=max-age=10,%20max-age=0", &[], &[], false),
    ("4.2.3", "age=soon", &[], &[], true),
    ("4.2.3", "age=10&cache_control=max-age=10", &[], &[], false),
    ("5.2.1.1", "", &[], &[("cache-control", "max-age=0")], false),
    ("5.2.1.1", "", &[], &[("cache-control", "max-age=5")], true),
    ("5.2.1.3", "cache_control=max-age=10", &[], &[("cache-control", "min-fresh=11")], false),
    ("5.2.1.4", "", &[], &[("cache-control", "no-cache")], false),
    ("5.2.1.5", "", &[("cache-control", "no-store")], &[], false),
    ("5.2.1.5", "", &[], &[("cache-control", "no-store")], true),
    ("5.2.2.1", "cache_control=max-age=10", &[], &[], true),
    ("5.2.2.4", "cache_control=no-cache", &[], &[], false),
    ("5.2.2.5", "cache_control=max-age=10,%20No-Store", &[], &[], false),
    ("5.2.2.7", "cache_control=private", &[], &[], false),
    ("5.2.2.7", "cache_control=private=%22x-a,%20x-b%22", &[], &[], false),
    ("5.2.2.10", "cache_control=s-maxage=0,%20max-age=10", &[], &[], false),
    ("5.2.2.10", "cache_control=s-maxage=10,%20max-age=0", &[], &[], true),
    ("5.2.3", "cache_control=x=%22no-store%22,%20y", &[], &[], true),
    ("RFC 9110, 14.2", "", &[], &[("range", "bytes=0-1")], true),
];

#[tokio::test]
async fn a_response_is_reused_as_rfc_9111_allows() {
    let host = chameleon(Setup::default().with_manual_clock()).await;
    for (version, client) in [("1.1", host.anonymous()), ("2", host.anonymous().over_http2())] {
        for (number, (section, parameters, first, second, reused)) in CASES.iter().enumerate() {
            let what = format!("HTTP/{version}, section {section}: {parameters} {first:?} {second:?}");
            let path = format!("{number}-{version}?{parameters}");
            let original = ask(&client, &path, first).await;
            let again = ask(&client, &path, second).await;
            assert_eq!(again.text() == original.text(), *reused, "{what}: {}", original.text());
            assert_eq!(again.header("age"), reused.then_some("0").or(again.header("age")), "{what}");
        }
    }
}

#[tokio::test]
async fn a_cached_response_has_its_age_and_the_date_of_its_origin() {
    let host = chameleon(Setup::default().with_manual_clock()).await;
    let client = host.anonymous();
    let first = ask(&client, "x?cache_control=max-age=30", &[]).await;
    assert_eq!(first.header("age"), None);
    host.clock().advance(Duration::from_secs(29));
    let second = ask(&client, "x?cache_control=max-age=30", &[]).await;
    assert_eq!(second.text(), first.text());
    assert_eq!(second.header("age"), Some("29"));
    assert_eq!(second.header("date"), Some("Fri, 15 Jan 2027 08:00:00 GMT"));
    host.clock().advance(Duration::from_secs(1));
    assert_ne!(ask(&client, "x?cache_control=max-age=30", &[]).await.text(), first.text());
}

#[tokio::test]
async fn a_condition_is_evaluated_by_the_host_and_not_cached() {
    let host = chameleon(Setup::default()).await;
    for (name, client) in [("one", host.anonymous()), ("two", host.anonymous().over_http2())] {
        let first = ask(&client, name, &[("if-none-match", "\"other\""), ("if-modified-since", "x")]).await;
        assert_eq!((first.status, first.header("x-seen")), (200, Some("- - -")), "the plugin gets no condition");
        let tag = first.header("etag").unwrap().to_owned();
        assert!(tag.starts_with('"') && tag.len() > 20, "{tag} is strong");
        for listed in [tag.clone(), format!("W/{tag}"), format!("\"a,b\", {tag}"), "*".to_owned()] {
            let same = ask(&client, name, &[("if-none-match", &listed)]).await;
            assert_eq!((same.status, same.text()), (304, String::new()), "{listed}");
            assert_eq!((same.header("etag"), same.header("content-type")), (Some(&*tag), None));
            assert!(same.header("age").is_some() && same.header("date").is_some());
        }
        assert_eq!(ask(&client, name, &[]).await.text(), first.text());
    }
    let client = host.anonymous();
    let [one, two] = ["a?same=true", "a?same=true&vary=accept"];
    let [one, two] = [ask(&client, one, &[]).await, ask(&client, two, &[]).await];
    assert_eq!(one.header("etag"), two.header("etag"), "equal content");
    let own = "own?etag=%22v1%22&last_modified=Fri,%2015%20Jan%202027%2008:00:00%20GMT";
    assert_eq!(ask(&client, own, &[]).await.header("etag"), Some("\"v1\""));
    assert_eq!(ask(&client, own, &[("if-none-match", "\"v1\"")]).await.status, 304);
    assert_eq!(ask(&client, own, &[("if-none-match", "\"v2\"")]).await.status, 200);
    let since = "Fri, 15 Jan 2027 08:00:00 GMT";
    assert_eq!(ask(&client, own, &[("if-modified-since", since)]).await.status, 304);
    // A response that is not cached and has a tag of its own.
    let path = "/chameleon/header?name=etag&value=%22v1%22&body=x";
    let request = client.request(Method::GET, path).header("if-none-match", "W/\"v1\"");
    assert_eq!(request.send().await.status, 304);
}

#[tokio::test]
async fn a_kept_response_never_answers_a_condition_that_the_plugin_evaluates() {
    let host = chameleon(Setup::default()).await;
    let client = host.anonymous();
    let first = ask(&client, "x", &[]).await.text();
    assert_eq!(ask(&client, "x", &[("range", "bytes=0-0")]).await.text(), first);
    for (name, value) in [("if-match", "\"v1\""), ("if-unmodified-since", "Fri, 15 Jan 2027 08:00:00 GMT")] {
        let kept = ask(&client, "x", &[]).await.text();
        let asked = ask(&client, "x", &[(name, value)]).await;
        assert_ne!(asked.text(), kept, "{name}");
        assert_eq!(asked.header("age"), None, "{name}");
    }
}

#[tokio::test]
async fn only_a_tag_of_the_host_is_weak_and_only_where_the_body_may_be_encoded() {
    let host = chameleon(Setup::default()).await;
    let client = host.anonymous();
    let get = async |length: usize, query: &str| {
        let path = format!("{}?same=true&content_type=application/json{query}", "x".repeat(length));
        // The second one is from the cache.
        let [first, second] = [(); 2].map(|()| ask(&client, &path, &[("accept-encoding", "gzip")]));
        let (first, second) = (first.await, second.await);
        assert_eq!(first.header("etag"), second.header("etag"));
        assert_eq!(first.header("content-encoding"), second.header("content-encoding"));
        let coding = second.header("content-encoding").map(ToOwned::to_owned);
        (second.header("etag").unwrap().to_owned(), coding)
    };
    let (tag, coding) = get(2000, "").await;
    assert!(tag.starts_with("W/\"") && coding.as_deref() == Some("gzip"), "{tag} {coding:?}");
    let (tag, coding) = get(100, "").await;
    assert!(tag.starts_with('"') && coding.is_none(), "{tag} {coding:?}");
    assert_eq!(get(2000, "&etag=%22v1%22").await, ("\"v1\"".to_owned(), None));
    assert_eq!(get(2000, "&etag=W/%22v1%22").await, ("W/\"v1\"".to_owned(), Some("gzip".to_owned())));
}

#[tokio::test]
async fn a_change_of_a_resource_removes_its_cached_responses() {
    let host = chameleon(Setup::default()).await;
    let client = host.anonymous();
    let put = async |name: &str| client.request(Method::PUT, &format!("/chameleon/cached-as/{name}")).send().await;
    let [first, other] = [ask(&client, "x?a=1", &[]).await.text(), ask(&client, "y", &[]).await.text()];
    assert_eq!(put("y%79").await.status, 204);
    assert_eq!(ask(&client, "x?a=1", &[]).await.text(), first);
    assert_eq!(put("x").await.status, 204);
    assert_ne!(ask(&client, "x?a=1", &[]).await.text(), first, "section 4.4");
    assert_eq!(ask(&client, "y", &[]).await.text(), other);
    let refused = ask(&client, "refused", &[]).await.text();
    assert_eq!(put("refused").await.status, 409);
    assert_eq!(ask(&client, "refused", &[]).await.text(), refused, "nothing changed");
    let trapped = ask(&client, "trapped", &[]).await.text();
    assert!(put("trapped").await.status >= 500);
    assert_ne!(ask(&client, "trapped", &[]).await.text(), trapped, "it may have changed before the trap");
}

#[tokio::test]
async fn a_response_for_another_server_name_is_another_response() {
    let host = chameleon(Setup::default()).await;
    let client = host.anonymous();
    let first = ask(&client, "x", &[]).await.text();
    assert_ne!(ask(&client, "x", &[("host", "other.example")]).await.text(), first);
    assert_eq!(ask(&client, "x", &[]).await.text(), first);
}

#[tokio::test]
async fn a_handler_that_reads_the_caller_is_cached_for_each_caller() {
    let host = chameleon(Setup::default()).await;
    let (one, two) = (host.user("one@example.com").await, host.user("two@example.com").await);
    for _ in 0..2 {
        assert_eq!(text(&one, "/chameleon/cached-for").await, "one@example.com");
        assert_eq!(text(&host.anonymous(), "/chameleon/cached-for").await, "nobody");
        assert_eq!(text(&two, "/chameleon/cached-for").await, "two@example.com");
        for client in [&one, &two] {
            assert_eq!(text(client, "/chameleon/cached-for-all").await, "one@example.com", "it says that it is shared");
        }
    }
}

#[tokio::test]
async fn a_response_from_before_a_change_of_the_account_is_not_for_its_caller() {
    let host = chameleon(Setup::default()).await;
    let client = host.user("one@example.com").await;
    assert_eq!(text(&client, "/chameleon/cached-for").await, "one@example.com");
    let per_caller = text(&client, "/chameleon/cached-per-caller").await;
    client.patch("/users/me", &json!({ "email": "new@example.com" })).await.ok();
    assert_eq!(text(&client, "/chameleon/cached-for").await, "new@example.com");
    let renamed = text(&client, "/chameleon/cached-per-caller").await;
    assert_ne!(renamed, per_caller);
    assert_eq!(text(&client, "/chameleon/cached-per-caller").await, renamed);
    // A role is given, its permissions change, and the user signs in again.
    let root = host.superuser();
    let id = client.get("/users/me").await.ok()["id"].as_str().unwrap().to_owned();
    root.post("/roles/", &json!({ "name": "readers" })).await.ok();
    root.put(&format!("/users/{id}/roles"), &json!({ "roles": ["readers"] })).await.ok();
    let with_role = text(&client, "/chameleon/cached-per-caller").await;
    assert_ne!(with_role, renamed);
    root.patch("/roles/readers", &json!({ "permissions": ["chameleon:read-all"] })).await.ok();
    let with_permission = text(&client, "/chameleon/cached-per-caller").await;
    assert_ne!(with_permission, with_role);
    let again = host.anonymous().signed_in("new@example.com", PASSWORD).await;
    assert_ne!(text(&again, "/chameleon/cached-per-caller").await, with_permission);
    assert_eq!(text(&client, "/chameleon/cached-per-caller").await, with_permission);
}

/// A host with the chameleon, which may reach the gate.
async fn gated() -> (TestHost, Gate, String) {
    let (host, gate) = (TestHost::sqlite(Setup::default()).await, Gate::start().await);
    let query = format!("{CHAMELEON}&grant=http.hosts={}&grant=http.networks=127.0.0.1", gate.origin());
    host.superuser().deploy(&Component::chameleon().0, &query).await.ok();
    let path = format!("/chameleon/cached-gate?url={}/", gate.origin());
    (host, gate, path)
}

fn calling(client: &Client, path: &str) -> JoinHandle<TestResponse> {
    let (client, path) = (client.clone(), path.to_owned());
    tokio::spawn(async move { client.get(&path).await })
}

/// Waits until this number of requests waits for the response to another one.
async fn waiting(host: &TestHost, number: usize) {
    // The first request and that of the metrics are in flight too.
    let expected = number as f64 + 2.0;
    until("the requests to wait", async || {
        let samples = samples(host.superuser()).await;
        let is_reached = |(name, value): &(String, f64)| name == "wharf_http_requests_in_flight" && *value >= expected;
        samples.iter().any(is_reached).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_fills_a_key_that_many_wait_for() {
    let (host, gate, path) = gated().await;
    let leader = calling(&host.anonymous(), &path);
    gate.arrived().await;
    let waiters: Vec<_> = (0..8).map(|_| calling(&host.anonymous(), &path)).collect();
    waiting(&host, waiters.len()).await;
    // The request that had it computed leaves, and so does one that waits. Neither takes the response from the others.
    leader.abort();
    let mut waiters = waiters.into_iter();
    waiters.next().unwrap().abort();
    gate.open();
    let mut texts = Vec::new();
    for waiter in waiters {
        let response = waiter.await.unwrap();
        assert_eq!(response.status, 200, "{}", response.text());
        texts.push(response.text());
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "all got the response of one call: {texts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_response_cannot_be_cached_holds_up_nobody_for_long() {
    let (host, gate, path) = gated().await;
    let path = format!("{path}&fail=true");
    let leader = calling(&host.anonymous(), &path);
    gate.arrived().await;
    let waiters: Vec<_> = (0..4).map(|_| calling(&host.anonymous(), &path)).collect();
    waiting(&host, waiters.len()).await;
    gate.open();
    leader.await.unwrap().has_code(409, "failed");
    // All who waited call the plugin at the same time, and so do later requests.
    let later = calling(&host.anonymous(), &path);
    for _ in 0..5 {
        gate.arrived().await;
    }
    (0..5).for_each(|_| gate.open());
    for waiter in waiters.into_iter().chain([later]) {
        waiter.await.unwrap().has_code(409, "failed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_waited_for_one_call_do_not_get_its_response_if_it_is_for_its_caller() {
    let (host, gate, path) = gated().await;
    let path = format!("{path}&ask=true");
    let (one, two) = (host.user("one@example.com").await, host.user("two@example.com").await);
    let first = calling(&one, &path);
    gate.arrived().await;
    let same = calling(&one, &path);
    let others = [calling(&two, &path), calling(&two, &path)];
    waiting(&host, 3).await;
    gate.open();
    let (first, same) = (first.await.unwrap().text(), same.await.unwrap().text());
    assert!(first.starts_with("one@example.com ") && same == first, "{first} {same}");
    // One call for the other caller is enough.
    gate.arrived().await;
    gate.open();
    let [left, right] = others;
    let (left, right) = (left.await.unwrap().text(), right.await.unwrap().text());
    assert!(left.starts_with("two@example.com ") && left == right, "{left} {right}");
}
