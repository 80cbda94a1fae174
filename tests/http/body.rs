//! Request bodies: accepted formats and sizes, and the order of the checks.

use futures_util::stream;
use reqwest::{Body, Method};
use serde_json::json;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{metrics, not_authenticated, text};
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::polling::until;
use crate::support::{Component, Setup, TestHost, both};

const JSON_ERROR: &str = "json_invalid: JSON decode error";
const NO_OBJECT: &str =
    "body model_attributes_type: Input should be a valid dictionary or object to extract fields from";
const MISSING: &str = "body missing: Field required";
/// The routes with a JSON body, of the host and the plugin, with and without authentication.
const ROUTES: [(&str, &str); 5] = [
    ("POST", "/users/signup"),
    ("POST", "/reset-password/"),
    ("POST", "/users/"),
    ("PATCH", "/users/me"),
    ("POST", "/items/"),
];

both! {
    malformed_json_is_reported_before_missing_credentials => Setup::default().with_items(),
    missing_credentials_are_reported_before_invalid_values => Setup::default().with_items(),
    path_query_and_body_errors_are_reported_together_before_404 => Setup::default().with_items(),
    only_json_content_types_are_parsed_as_json => Setup::default().with_items(),
    a_body_that_is_not_an_object_is_422 => Setup::default().with_items(),
    text_that_no_database_can_store_is_422 => Setup::default().with_items(),
    countless_mistakes_get_a_short_response => Setup::default().with_items(),
    the_last_of_a_duplicate_member_counts,
    a_body_above_the_limit_is_413 => Setup::default().with_items().with(|config| {
        config.server.max_body_bytes = 1000;
        config.plugins.request_bytes = 1000;
    }),
    the_default_body_limit_is_two_mebibytes,
}

fn method(name: &str) -> Method {
    name.parse().unwrap()
}

async fn malformed_json_is_reported_before_missing_credentials(host: &TestHost) {
    for (name, path) in ROUTES {
        eprintln!("{name} {path}");
        let send = async |text: &'static str| host.anonymous().request(method(name), path).json_text(text).send().await;
        send("{").await.has_findings(&[&format!("body.1 {JSON_ERROR}")]);
        send("{\"a\": x}").await.has_findings(&[&format!("body.6 {JSON_ERROR}")]);
        for text in ["nonsense", "{}{}", "{'a': 1}", "{\"a\": 1,}", "[1", "\"a", "NaN", " ", "{\"a\": \"\u{1}\"}"] {
            let response = send(text).await;
            assert_eq!(response.problem()["errors"][0]["type"], "json_invalid", "{text}");
            assert!(response.json()["errors"][0]["loc"][1].is_u64(), "{text}");
        }
        let bytes = host.anonymous().request(method(name), path).json_text(b"{\"a\": \"\xff\"}".to_vec()).send().await;
        bytes.is_problem(400, "malformed_body", "There was an error parsing the body");
        // Nested far deeper than any real body.
        let deep = host.anonymous().request(method(name), path).json_text("[".repeat(100_000)).send().await;
        assert_eq!(deep.status, 422);
    }
}

async fn missing_credentials_are_reported_before_invalid_values(host: &TestHost) {
    for (name, path) in &ROUTES[2..] {
        let send = async |client: crate::support::Client, text: &'static str| {
            client.request(method(name), path).json_text(text).send().await
        };
        for text in ["[]", "null", "", "{\"email\": 1, \"title\": 1}"] {
            not_authenticated(&send(host.anonymous(), text).await);
            super::invalid_token(&send(host.anonymous().with_token("garbage"), text).await);
        }
    }
    not_authenticated(&host.anonymous().put("/items/x", &json!({ "title": 1 })).await);
    not_authenticated(&host.anonymous().delete("/items/x").await);
    not_authenticated(&host.anonymous().get("/items/?skip=x").await);
}

async fn path_query_and_body_errors_are_reported_together_before_404(host: &TestHost) {
    const ID: &str = "path.id uuid_parsing: Input should be a valid UUID, …";
    host.superuser().put("/items/x?skip=x", &json!({ "title": "", "description": 1 })).await.has_findings(&[
        ID,
        "body.title string_too_short: String should have at least 1 character",
        "body.description string_type: Input should be a valid string",
    ]);
    let unknown = "/items/5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11";
    host.superuser().put(unknown, &json!({ "title": 1 })).await.has_findings(&["body.title string_type: …"]);
    host.superuser().put("/items/x", &json!([])).await.has_findings(&[ID, NO_OBJECT]);
    host.superuser().put(unknown, &json!({ "title": "x" })).await.is_problem(404, "item_not_found", "Item not found");
}

async fn only_json_content_types_are_parsed_as_json(host: &TestHost) {
    let post = |path: &str| host.superuser().request(Method::POST, path);
    for (path, body) in [("/items/", r#"{"title":"x"}"#), ("/users/me", r#"{"full_name":"x"}"#)] {
        let name = if path == "/items/" { "POST" } else { "PATCH" };
        let send = async |kind: Option<&str>| {
            let request = host.superuser().request(method(name), path).body(body);
            match kind {
                Some(kind) => request.header("content-type", kind).send().await,
                None => request.send().await,
            }
        };
        for kind in
            ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/merge-patch+json"]
        {
            send(Some(kind)).await.ok();
        }
        for kind in
            [None, Some("text/plain"), Some("text/json"), Some("application/x-www-form-urlencoded"), Some("nonsense")]
        {
            send(kind).await.has_findings(&[NO_OBJECT]);
        }
    }
    // No body at all.
    post("/items/").send().await.has_findings(&[MISSING]);
    post("/items/").header("content-type", "text/plain").send().await.has_findings(&[MISSING]);
}

async fn a_body_that_is_not_an_object_is_422(host: &TestHost) {
    for (name, path) in ROUTES {
        let send = async |text: &'static str| host.superuser().request(method(name), path).json_text(text).send().await;
        for text in ["[]", "\"x\"", "1", "true", "[{}]"] {
            send(text).await.has_findings(&[NO_OBJECT]);
        }
        for text in ["null", "", " null "] {
            send(text).await.has_findings(&[MISSING]);
        }
    }
}

async fn text_that_no_database_can_store_is_422(host: &TestHost) {
    let send =
        async |text: &'static str| host.superuser().request(Method::POST, "/items/").json_text(text).send().await;
    send(r#"{"title": "a\u0000b"}"#).await.has_findings(&["body.title value_error: …"]);
    send(r#"{"title": "a", "description": "\u0000"}"#).await.has_findings(&["body.description value_error: …"]);
    let lone = send(r#"{"title": "\ud800"}"#).await;
    assert_eq!(lone.problem()["errors"][0]["type"], "value_error");
    let me = host.superuser().request(Method::PATCH, "/users/me").json_text(r#"{"full_name": "\udc00x"}"#).send().await;
    assert_eq!(me.problem()["errors"][0]["type"], "value_error");
    // A surrogate pair is a valid character, and ignored members may contain anything.
    assert_eq!(send(r#"{"title": "\ud83d\udc4b", "x": "\u0000"}"#).await.ok()["title"], "👋");
}

async fn countless_mistakes_get_a_short_response(host: &TestHost) {
    // With a search through the earlier findings for each finding, this took minutes.
    let list = |element: &str| format!("[{}1]", format!("{element},").repeat(60_000));
    for (name, path) in ROUTES {
        let send = |text: String| host.superuser().request(method(name), path).json_text(text).send();
        let response = send(list(r#""\u0000""#)).await;
        let problem = response.problem();
        assert_eq!((response.status, problem["errors"].as_array().unwrap().len()), (422, 100), "{path}");
        assert_eq!(problem["errors_omitted"], 60_000 + 1 - 100, "{path}");
        assert!(response.bytes.len() < 20_000, "{}", response.bytes.len());
        send(list("[]")).await.has_findings(&[NO_OBJECT]);
        let member = |element: &str| format!(r#"{{"title": {0}, "full_name": {0}}}"#, list(element));
        let response = send(member(r#""\u0000""#)).await;
        assert!(response.problem()["errors"].as_array().unwrap().len() <= 100 && response.bytes.len() < 20_000);
    }
    let query = "&skip=x".repeat(8_000);
    let response = host.superuser().get(&format!("/users/?skip=x{query}")).await;
    response.has_findings(&["query.skip int_parsing: …"]);
    // Parts of a form, almost all of them unknown.
    let parts: String = (0..20_000)
        .map(|part| format!("--X\r\ncontent-disposition: form-data; name=\"{part}\"\r\n\r\n\0\r\n"))
        .collect();
    let form = host.anonymous().request(Method::POST, "/login/access-token").body(format!("{parts}--X--\r\n"));
    let response = form.header("content-type", "multipart/form-data; boundary=X").send().await;
    response.has_findings(&["body.username missing: Field required", "body.password missing: Field required"]);
}

async fn the_last_of_a_duplicate_member_counts(host: &TestHost) {
    let text = r#"{"full_name": 1, "full_name": "first", "x": 1, "full_name": "last", "x": 2}"#;
    let me = host.superuser().request(Method::PATCH, "/users/me").json_text(text).send().await.ok();
    assert_eq!(me["full_name"], "last");
}

async fn a_body_above_the_limit_is_413(host: &TestHost) {
    let admin = host.superuser();
    let padded = |length: usize| {
        let begin = r#"{"title":"x","ignored":""#;
        format!("{begin}{}\"}}", "x".repeat(length - begin.len() - 2))
    };
    let post = |length: usize| admin.request(Method::POST, "/items/").json_text(padded(length));
    post(1000).send().await.ok();
    let too_large = |response: crate::support::TestResponse| {
        response.is_problem(413, "body_too_large", "Request body too large");
        assert!(response.bytes.len() < 1000);
    };
    too_large(post(1001).send().await);
    // Without a content length.
    let chunks = move |length: usize| {
        let pieces: Vec<std::io::Result<Vec<u8>>> =
            padded(length).as_bytes().chunks(100).map(|piece| Ok(piece.to_vec())).collect();
        Body::wrap_stream(stream::iter(pieces))
    };
    admin.request(Method::POST, "/items/").json_text(chunks(1000)).send().await.ok();
    too_large(admin.request(Method::POST, "/items/").json_text(chunks(1001)).send().await);
    let form = format!("username=a&password={}", "x".repeat(1000));
    let form = host.anonymous().request(Method::POST, "/login/access-token").body(form);
    too_large(form.header("content-type", "application/x-www-form-urlencoded").send().await);
    let sign_up = json!({ "email": "a@example.com", "password": PASSWORD, "x": "x".repeat(1000) });
    too_large(host.anonymous().post("/users/signup", &sign_up).await);
}

async fn the_default_body_limit_is_two_mebibytes(host: &TestHost) {
    let limit = 2 * 1024 * 1024;
    let frame = r#"{"full_name":"x","ignored":""}"#;
    let body = |length: usize| json!({ "full_name": "x", "ignored": "x".repeat(length - frame.len()) });
    assert_eq!(text(&host.superuser().patch("/users/me", &body(limit)).await.ok(), "full_name"), "x");
    let response = host.superuser().patch("/users/me", &body(limit + 1)).await;
    response.is_problem(413, "body_too_large", "Request body too large");
}

#[tokio::test]
async fn bodies_of_all_requests_share_one_memory_limit() {
    let host = TestHost::sqlite(Setup::default().with(|config| config.server.body_memory_bytes = 4 << 20)).await;
    host.deploy_chameleon().await;
    let post = |bytes: usize| {
        let request = host.anonymous().request(Method::POST, "/chameleon/echo").body(vec![b'x'; bytes]);
        async move { request.send().await }
    };
    let mut slow = TcpStream::connect(host.addr()).await.unwrap();
    let head = "POST /api/v1/chameleon/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 900000\r\n\r\n";
    slow.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(post(1_000_000).await.status, 200, "an announced body takes no memory");
    slow.write_all(&vec![b'x'; 800_000]).await.unwrap();
    until("the body to arrive", async || (body_memory(&host, "request").await >= 800_000.0).then_some(())).await;
    let refused = post(1_000_000).await;
    refused.is_problem(503, "overloaded", "The memory for bodies is used up, try again");
    assert_eq!(refused.header("retry-after"), Some("1"));
    post(1_700_000).await.is_problem(413, "body_too_large", "Request body too large");
    assert_eq!(post(10_000).await.status, 200, "a part is reserved for small bodies");
    drop(slow);
    until("the memory to be released", async || (body_memory(&host, "request").await == 0.0).then_some(())).await;
    assert_eq!(post(1_000_000).await.status, 200);

    // A few hundred kilobytes of text that take a hundred times as much memory when parsed.
    let (numbers, text) = (format!("[{}0]", "0,".repeat(200_000)), format!("\"{}\"", ",".repeat(400_000)));
    let json = |text: String| host.anonymous().request(Method::POST, "/chameleon/json").json_text(text).send();
    json(numbers).await.is_problem(413, "body_too_large", "Request body too large");
    assert_eq!(json(text).await.status, 200);
    // A JSON text then takes twice its size, and a form with invalid UTF-8 up to six times.
    let text = format!("\"{}\"", ",".repeat(800_000));
    json(text).await.is_problem(413, "body_too_large", "Request body too large");
    let sign_in = |kind: &'static str, body: Vec<u8>| {
        let request = host.anonymous().request(Method::POST, "/login/access-token");
        request.header("content-type", kind).body(body).send()
    };
    let urlencoded = "application/x-www-form-urlencoded";
    let form = |byte: u8| [b"username=a&x=".to_vec(), vec![byte; 500_000]].concat();
    sign_in(urlencoded, form(b'x')).await.has_code(422, "validation_error");
    sign_in(urlencoded, form(0xff)).await.is_problem(413, "body_too_large", "Request body too large");
    let part = |bytes: usize| {
        let head = b"--X\r\ncontent-disposition: form-data; name=\"x\"\r\n\r\n".to_vec();
        [head, vec![b'x'; bytes], b"\r\n--X--\r\n".to_vec()].concat()
    };
    sign_in("multipart/form-data; boundary=X", part(200_000)).await.has_code(422, "validation_error");
    let refused = sign_in("multipart/form-data; boundary=X", part(300_000)).await;
    refused.is_problem(413, "body_too_large", "Request body too large");
}

#[tokio::test]
async fn unread_responses_do_not_prevent_signing_in() {
    let host = TestHost::sqlite(Setup::default().with(|config| config.server.body_memory_bytes = 4 << 20)).await;
    host.deploy_chameleon().await;
    let mut slow = TcpStream::connect(host.addr()).await.unwrap();
    slow.write_all(b"GET /api/v1/chameleon/body/8000000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // The response has begun, and is not read further.
    slow.read_exact(&mut [0; 15]).await.unwrap();
    assert!(body_memory(&host, "response").await >= 8_000_000.0);
    host.anonymous().get("/chameleon/echo/x").await.has_code(503, "overloaded");
    host.anonymous().signed_in(SUPERUSER, PASSWORD).await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    assert_eq!(host.anonymous().get("/hello/").await.status, 200, "another plugin");
    slow.read_exact(&mut vec![0; 8_000_000]).await.unwrap();
    until("the memory to be released", async || (body_memory(&host, "response").await == 0.0).then_some(())).await;
    assert_eq!(host.anonymous().get("/chameleon/echo/x").await.status, 200);
}

async fn body_memory(host: &TestHost, kind: &str) -> f64 {
    let name = format!("wharf_http_body_bytes{{kind=\"{kind}\"}}");
    metrics::samples(host.superuser()).await.into_iter().find(|(sample, _)| *sample == name).unwrap().1
}
