//! What a plugin is told of a request, and what becomes of its answer.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::host::Setup;
use crate::support::{Client, TestHost, both};

both!(
    a_plugin_sees_a_verified_caller_and_no_credential => Setup::default(),
    notes_of_a_batch_are_kept_together_or_not_at_all => Setup::default(),
);

async fn chameleon(setup: Setup) -> TestHost {
    let host = TestHost::sqlite(setup).await;
    host.deploy_chameleon().await;
    host
}

fn headers(seen: &Value) -> Vec<(String, String)> {
    let pair = |pair: &Value| (pair[0].as_str().unwrap().to_owned(), pair[1].as_str().unwrap().to_owned());
    seen["headers"].as_array().unwrap().iter().map(pair).collect()
}

#[tokio::test]
async fn a_plugin_sees_the_request_as_it_was_sent() {
    let host = chameleon(Setup::default()).await;
    let request = host.anonymous().request(Method::GET, "/chameleon/echo/a%20%C3%BC?x=1&y=%20z");
    let answer = request.header("x-mine", "yes").header("accept-language", "de").send().await;
    let seen = answer.ok();
    assert_eq!(seen["method"], "GET");
    assert_eq!(seen["path"], "/echo/a%20%C3%BC");
    assert_eq!(seen["word"], "a ü");
    assert_eq!(seen["query"], "x=1&y=%20z");
    assert_eq!(seen["id"].as_str(), answer.header("x-request-id"));
    assert!(headers(&seen).contains(&("x-mine".to_owned(), "yes".to_owned())));
    let body =
        host.anonymous().request(Method::POST, "/chameleon/echo").header("content-type", "application/octet-stream");
    assert_eq!(body.body("not {json").send().await.ok()["body"], "not {json");
    // Nothing of the machine is there.
    assert_eq!((&seen["environment"], &seen["arguments"]), (&json!([]), &json!([])));
    assert!(seen["files"].is_null(), "{seen}");
    host.stop().await;
}

#[tokio::test]
async fn credentials_and_what_only_the_host_may_claim_are_withheld() {
    let host = chameleon(Setup::default()).await;
    let withheld = [
        "authorization",
        "cookie",
        "proxy-authorization",
        "x-api-key",
        "x-forwarded-for",
        "x-real-ip",
        "forwarded",
        "x-request-id",
        "te",
    ];
    let mut request = host.superuser().request(Method::GET, "/chameleon/echo/x");
    for name in &withheld[1..] {
        request = request.header(name, "secret-value");
    }
    let answer = request.send().await;
    let seen = headers(&answer.ok());
    for name in withheld.into_iter().chain(["connection", "content-length", "transfer-encoding"]) {
        assert!(seen.iter().all(|(known, _)| known != name), "{name}");
    }
    assert!(!answer.text().contains("secret-value") && !answer.text().contains(host.superuser().token()));
    host.stop().await;
}

async fn a_plugin_sees_a_verified_caller_and_no_credential(host: &TestHost) {
    host.deploy_chameleon().await;
    let user = host.user("someone@example.com").await;
    let account = user.get("/users/me").await.ok();
    let me = user.get("/chameleon/me").await.ok();
    assert_eq!(
        me,
        json!({ "id": account["id"], "email": "someone@example.com", "superuser": false, "roles": [],
        "may_read_all": false })
    );
    assert_eq!(host.superuser().get("/chameleon/me").await.ok()["may_read_all"], true);
    host.anonymous().get("/chameleon/me").await.has_code(401, "not_authenticated");

    // On a public route a caller is known if he can be, and nobody otherwise.
    let who = async |client: &Client| client.get("/chameleon/who").await.ok();
    assert_eq!(who(&user).await["id"], account["id"]);
    assert_eq!(who(&host.anonymous()).await, Value::Null);
    assert_eq!(who(&host.anonymous().with_token("nonsense")).await, Value::Null);

    for path in ["/chameleon/superuser", "/chameleon/permitted"] {
        user.get(path).await.is_problem(403, "forbidden", "The user doesn't have enough privileges");
        host.anonymous().get(path).await.has_code(401, "not_authenticated");
        assert_eq!(host.superuser().get(path).await.status, 204);
    }
}

#[tokio::test]
async fn a_plugins_problem_is_like_the_hosts() {
    let host = chameleon(Setup::default()).await;
    let answer = host.anonymous().get("/chameleon/problem?status=418&code=tea_pot&detail=Short+and+stout").await;
    answer.is_problem(418, "tea_pot", "Short and stout");
    assert_eq!(answer.problem()["instance"], "/api/v1/chameleon/problem");
    let answer = host.anonymous().get("/chameleon/problem?status=422&code=odd&detail=x").await;
    assert_eq!(answer.problem()["errors"], json!([]));
    let answer = host.anonymous().get("/chameleon/problem?status=x").await;
    answer.refuses(&[
        "query.status int_parsing…",
        "query.code missing: Field required",
        "query.detail missing: Field required",
    ]);
    host.stop().await;
}

#[tokio::test]
async fn headers_and_statuses_of_a_plugin_reach_the_client() {
    let host = chameleon(Setup::default()).await;
    let answer = host.anonymous().get("/chameleon/header?name=etag&value=%22%C3%BC%22&times=3").await;
    assert_eq!((answer.status, answer.headers.get_all("etag").iter().count()), (200, 3));
    for status in [200, 201, 204, 304, 404, 500, 503, 599] {
        assert_eq!(host.anonymous().get(&format!("/chameleon/status/{status}")).await.status, status);
    }
    host.stop().await;
}

#[tokio::test]
async fn answers_are_kept_as_the_route_declares() {
    let host = chameleon(Setup::default()).await;
    let (user, nobody) = (host.user("someone@example.com").await, host.anonymous());
    let text = async |client: &Client, path: &str| client.get(&format!("/chameleon/{path}")).await.text();

    let kept = text(&nobody, "cached").await;
    assert_eq!(text(&nobody, "cached").await, kept);
    assert_eq!(text(&user, "cached").await, kept);
    assert_ne!(text(&nobody, "cached?x=1").await, kept);
    let invalidate = async |tag: &str| {
        let path = format!("/chameleon/invalidate/{tag}");
        assert_eq!(nobody.request(Method::POST, &path).send().await.status, 204);
    };
    invalidate("other").await;
    assert_eq!(text(&nobody, "cached").await, kept);
    invalidate("leaf").await;
    let renewed = text(&nobody, "cached").await;
    assert_ne!(renewed, kept);

    let mine = text(&user, "cached-per-caller").await;
    assert_eq!(text(&user, "cached-per-caller").await, mine);
    assert_ne!(text(host.superuser(), "cached-per-caller").await, mine);
    // A kept answer is no way around the access check.
    nobody.get("/chameleon/cached-per-caller").await.has_code(401, "not_authenticated");

    let problem = nobody.get("/chameleon/cached-problem").await.has_code(409, "never_kept");
    assert_ne!(nobody.get("/chameleon/cached-problem").await.has_code(409, "never_kept"), problem);

    // Another release may answer otherwise.
    host.superuser().deploy(&crate::support::Component::chameleon().rebuilt("b").0, "").await.ok();
    assert_ne!(text(&nobody, "cached").await, renewed);
    host.stop().await;
}

#[tokio::test]
async fn a_plugin_keeps_what_it_likes_in_its_cache() {
    let host = chameleon(Setup::default()).await;
    let client = host.anonymous();
    let octets = |request: crate::support::client::Request, body: Vec<u8>| {
        request.header("content-type", "application/octet-stream").body(body)
    };
    assert_eq!(client.get("/chameleon/kept/a").await.ok(), Value::Null);
    let put = client.request(Method::PUT, "/chameleon/kept/a");
    assert_eq!(octets(put, b"value".to_vec()).send().await.ok(), Value::Null);
    assert_eq!(client.get("/chameleon/kept/a").await.ok(), "value");
    for count in 1..=3 {
        let answer = client.request(Method::POST, "/chameleon/increment/n").send().await;
        assert_eq!(answer.ok(), count);
    }
    // A neighbour from the same file has a cache of its own.
    let neighbour = format!("{}&name=neighbour", crate::support::host::CHAMELEON);
    host.superuser().deploy(&crate::support::Component::chameleon().0, &neighbour).await.ok();
    assert_eq!(client.get("/neighbour/kept/a").await.ok(), Value::Null);
    host.stop().await;
}

async fn notes_of_a_batch_are_kept_together_or_not_at_all(host: &TestHost) {
    host.deploy_chameleon().await;
    let client = host.anonymous();
    assert_eq!(client.post("/chameleon/notes", &json!(["a", "b"])).await.status, 204);
    client.post("/chameleon/notes", &json!(["c", "a", "d"])).await.has_code(409, "constraint_violated");
    assert_eq!(client.get("/chameleon/notes").await.ok(), json!(["a", "b"]));
}
