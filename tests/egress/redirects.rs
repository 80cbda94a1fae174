//! Redirects.

use std::sync::{Arc, Mutex};

use super::{EgressClient, FakeDns, LOOPBACK, denied_reason, generous_limits, get, port};
use crate::support::remote::{Identity, Remote, Reply};
use wharf::egress::{Failure, LimitKind, Request, Roots};

/// Starts a server that redirects every request to a location that the test sets later.
async fn redirecting_server(status: u16) -> (Remote, Arc<Mutex<String>>) {
    let location = Arc::new(Mutex::new(String::new()));
    let current = Arc::clone(&location);
    (Remote::start(move |_| Reply::to(status, &current.lock().unwrap())).await, location)
}

#[tokio::test]
async fn a_redirect_is_checked_against_the_allowlist_and_the_ssrf_filter() {
    let (first, location) = redirecting_server(302).await;
    let second = Remote::start(|_| Reply::of(200, "there")).await;
    let client = EgressClient::to(&[&first.origin(), "http://10.0.0.1", "http://169.254.169.254"]);
    for elsewhere in [
        second.url("/"),
        format!("//{}", second.addr),
        "https://other.example".to_owned(),
        "http://127.1:1/".to_owned(),
    ] {
        *location.lock().unwrap() = elsewhere.clone();
        let reason = denied_reason(client.get(&first.url("/")).await);
        assert!(reason.contains("not among the http.hosts"), "{elsewhere}: {reason}");
    }
    for inside in
        ["http://10.0.0.1/", "http://169.254.169.254/latest", "http://0xa9fea9fe/", "http://[::ffff:169.254.169.254]/"]
    {
        *location.lock().unwrap() = inside.to_owned();
        let reason = denied_reason(client.get(&first.url("/")).await);
        assert!(reason.contains("not among the http.networks"), "{inside}: {reason}");
    }
    for nonsense in
        ["file:///etc/passwd", "http://u:p@127.0.0.1/", "http://", "\\\\127.0.0.1", "http://a b/", "gopher://127.0.0.1"]
    {
        *location.lock().unwrap() = nonsense.to_owned();
        let outcome = client.get(&first.url("/")).await;
        assert!(matches!(outcome, Err(Failure::Protocol(_))), "{nonsense}: {outcome:?}");
    }
    assert_eq!(second.accepted(), 0);
    *location.lock().unwrap() = second.url("/there");
    let response = EgressClient::to(&[&first.origin(), &second.origin()]).get(&first.url("/")).await.unwrap();
    assert_eq!((response.url, &*response.body), (second.url("/there"), &b"there"[..]));
}

#[tokio::test]
async fn a_redirect_resolves_and_checks_the_name_again() {
    let remote =
        Remote::start(|_| Reply::Close("HTTP/1.1 302 X\r\nlocation: /again\r\ncontent-length: 0\r\n\r\n".to_owned()))
            .await;
    let names = FakeDns::of(&[("api.example", &[&["127.0.0.1"], &["10.0.0.1"]])]);
    let origin = format!("http://api.example:{}", port(remote.addr));
    let client = EgressClient::new(&names, Roots::default(), &[&origin], &["127.0.0.1"], generous_limits());
    denied_reason(client.get(&origin).await);
    assert_eq!(remote.accepted(), 1);
}

#[tokio::test]
async fn a_redirect_from_https_to_http_is_denied() {
    let identity = Identity::of("api.example");
    let plain = Remote::start(|_| Reply::of(200, "")).await;
    let down = format!("http://api.example:{}/", port(plain.addr));
    let secure = Remote::start_tls(&identity, move |_| Reply::to(301, &down)).await;
    let names = FakeDns::of(&[("api.example", &[&["127.0.0.1"]])]);
    let hosts =
        [format!("https://api.example:{}", port(secure.addr)), format!("http://api.example:{}", port(plain.addr))];
    let roots = Roots::Only(vec![identity.certificate.clone()]);
    let client = EgressClient::new(&names, roots, &[&hosts[0], &hosts[1]], LOOPBACK, generous_limits());
    let reason = denied_reason(client.get(&hosts[0]).await);
    assert!(reason.contains("which is not encrypted"), "{reason}");
    assert_eq!(plain.accepted(), 0);
    assert_eq!(client.get(&hosts[1]).await.unwrap().status, 200);
}

#[tokio::test]
async fn redirects_are_limited() {
    let (remote, location) = redirecting_server(307).await;
    *location.lock().unwrap() = "/".to_owned();
    let client = EgressClient::to(&[&remote.origin()]);
    assert_eq!(
        client.get(&remote.url("/")).await,
        Err(Failure::Limit(LimitKind::Redirects, "redirects: 5".to_owned()))
    );
    assert_eq!(remote.seen().len(), 6);
    let most = |redirects| Request { redirects: Some(redirects), ..get(&remote.url("/")) };
    assert_eq!(client.send(most(1)).await, Err(Failure::Limit(LimitKind::Redirects, "redirects: 1".to_owned())));
    assert_eq!(client.send(most(1_000)).await, Err(Failure::Limit(LimitKind::Redirects, "redirects: 5".to_owned())));
    let response = client.send(most(0)).await.unwrap();
    assert_eq!((response.status, &*response.body), (307, &b"elsewhere"[..]));
}

#[tokio::test]
async fn a_redirect_to_another_server_drops_credentials() {
    let (first, location) = redirecting_server(307).await;
    let second = Remote::start(|_| Reply::of(200, "")).await;
    *location.lock().unwrap() = second.url("/");
    let client = EgressClient::to(&[&first.origin(), &second.origin()]);
    let headers =
        [("authorization", "Bearer s3cret"), ("cookie", "s3cret"), ("x-api-key", "s3cret"), ("accept", "text/plain")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    client.send(Request { headers, ..get(&first.url("/")) }).await.unwrap();
    assert!(first.seen()[0].matches("s3cret").count() == 3);
    let seen = &second.seen()[0];
    assert!(!seen.contains("s3cret") && seen.contains("accept: text/plain\r\n"), "{seen}");
    assert!(seen.contains(&format!("host: {}\r\n", second.addr)), "{seen}");
    assert!(!seen.contains("referer"), "{seen}");
}

#[tokio::test]
async fn a_redirect_changes_the_method_as_rfc_9110_says() {
    for (status, method, after, with_body) in [
        (301, "POST", "GET", false),
        (302, "POST", "GET", false),
        (303, "POST", "GET", false),
        (303, "PUT", "GET", false),
        (303, "HEAD", "HEAD", true),
        (302, "PUT", "PUT", true),
        (307, "POST", "POST", true),
        (308, "POST", "POST", true),
    ] {
        let remote = Remote::start(move |request| {
            if request.contains(" /first ") {
                Reply::to(status, "/second")
            } else {
                Reply::Close("HTTP/1.1 200 X\r\n\r\n".to_owned())
            }
        })
        .await;
        let headers =
            vec![("content-type".to_owned(), "text/plain".to_owned()), ("x-key".to_owned(), "kept".to_owned())];
        let request = Request { method: method.to_owned(), headers, body: "body".into(), ..get(&remote.url("/first")) };
        assert_eq!(EgressClient::to(&[&remote.origin()]).send(request).await.unwrap().status, 200);
        let seen = &remote.seen()[1];
        assert!(seen.starts_with(&format!("{after} /second ")), "{status} {method}: {seen}");
        assert_eq!(seen.ends_with("body"), with_body, "{status} {method}: {seen}");
        assert_eq!(seen.contains("content-type"), with_body, "{status} {method}: {seen}");
        assert!(seen.contains("x-key: kept"), "{seen}");
    }
}
