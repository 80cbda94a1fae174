//! Bodies: what is read as JSON, what is refused, and how much is taken.

use futures_util::stream;
use reqwest::Method;
use serde_json::json;

use crate::support::host::PASSWORD;
use crate::support::{Answer, TestHost, both};

both!(
    malformed_json_is_told_before_missing_credentials,
    bytes_that_are_no_text_are_refused,
    json_is_read_only_where_it_is_said_to_be_json,
    a_body_is_an_object,
    of_a_repeated_member_the_last_value_counts,
    bodies_have_a_limit => Setup::default().with(|config| config.server.max_body_bytes = 64 * 1024).with_items(),
    bodies_where_none_is_expected_are_ignored => Setup::default().with_items(),
    deep_nesting_is_refused,
);

async fn send(host: &TestHost, kind: Option<&str>, body: impl Into<reqwest::Body>) -> Answer {
    let request = host.superuser().request(Method::POST, "/users/");
    let request = match kind {
        Some(kind) => request.header("content-type", kind),
        None => request,
    };
    request.body(body).send().await
}

const JSON: Option<&str> = Some("application/json");
const NO_OBJECT: &str =
    "body model_attributes_type: Input should be a valid dictionary or object to extract fields from";

async fn malformed_json_is_told_before_missing_credentials(host: &TestHost) {
    for (text, offset) in [("{", 1), ("nope", 1), ("{\"a\": 1,}", 8), ("[1, 2", 5)] {
        let answer = host.anonymous().request(Method::POST, "/users/").json_text(text).send().await;
        let problem = answer.problem();
        let finding = &problem["errors"][0];
        assert_eq!(
            (answer.status, &finding["type"], &finding["msg"]),
            (422, &json!("json_invalid"), &json!("JSON decode error"))
        );
        let place = finding["loc"][1].as_i64().unwrap();
        assert!((place - offset).abs() <= 1, "{text}: {place}");
    }
    let answer = host.anonymous().request(Method::POST, "/users/").json_text("{}").send().await;
    answer.has_code(401, "not_authenticated");
}

async fn bytes_that_are_no_text_are_refused(host: &TestHost) {
    for kind in [JSON, Some("text/plain"), None] {
        let answer = send(host, kind, vec![b'{', 0xff, b'}']).await;
        answer.is_problem(400, "malformed_body", "There was an error parsing the body");
    }
}

async fn json_is_read_only_where_it_is_said_to_be_json(host: &TestHost) {
    for (index, kind) in
        ["application/json; charset=utf-8", "application/vnd.api+json", "Application/JSON"].into_iter().enumerate()
    {
        let body = json!({ "email": format!("x{index}@example.com"), "password": PASSWORD }).to_string();
        send(host, Some(kind), body).await.ok();
    }
    let body = json!({ "email": "y@example.com", "password": PASSWORD }).to_string();
    for kind in [None, Some("text/plain"), Some("text/json"), Some("application/x-www-form-urlencoded"), Some("x")] {
        send(host, kind, body.clone()).await.refuses(&[NO_OBJECT]);
    }
}

async fn a_body_is_an_object(host: &TestHost) {
    for body in ["", "null", " null "] {
        send(host, JSON, body).await.refuses(&["body missing: Field required"]);
    }
    for body in ["[]", "1", "\"text\"", "true", "[{}]"] {
        send(host, JSON, body).await.refuses(&[NO_OBJECT]);
    }
    send(host, None, "").await.refuses(&["body missing: Field required"]);
}

async fn of_a_repeated_member_the_last_value_counts(host: &TestHost) {
    let body = format!(r#"{{"email":"first@example.com","password":"{PASSWORD}","email":"last@example.com"}}"#);
    assert_eq!(send(host, JSON, body).await.ok()["email"], "last@example.com");
}

async fn bodies_have_a_limit(host: &TestHost) {
    let too_large = |answer: Answer| answer.is_problem(413, "body_too_large", "Request body too large");
    let fits = |size: usize| {
        let frame = r#"{"title":"x","pad":""}"#.len();
        format!(r#"{{"title":"x","pad":"{}"}}"#, "y".repeat(size - frame))
    };
    let limit = 64 * 1024;
    for client in [host.superuser(), &host.anonymous()] {
        too_large(client.request(Method::POST, "/items/").json_text(fits(limit + 1)).send().await);
    }
    host.superuser().request(Method::POST, "/items/").json_text(fits(limit)).send().await.ok();
    // One that does not say how long it is.
    let chunks = stream::iter((0..100).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1024])));
    let request = host.superuser().request(Method::POST, "/users/").json_text(reqwest::Body::wrap_stream(chunks));
    too_large(request.send().await);
    let form = [("username", "x".repeat(limit)), ("password", String::new())];
    let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
    too_large(host.anonymous().request(Method::POST, "/login/access-token").form(&form).send().await);
}

async fn bodies_where_none_is_expected_are_ignored(host: &TestHost) {
    for path in ["/users/me", "/items/"] {
        host.superuser().request(Method::GET, path).json_text("{nonsense").send().await.ok();
    }
}

async fn deep_nesting_is_refused(host: &TestHost) {
    for depth in [200, 100_000] {
        let body = format!(r#"{{"full_name":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        let answer = send(host, JSON, body).await;
        assert_eq!(answer.status, 422);
        answer.problem();
    }
}
