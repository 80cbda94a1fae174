//! Numbers in every form that a client may write, as a guest reads them.

use reqwest::Method;
use serde_json::json;

use crate::support::host::CHAMELEON;
use crate::support::{Component, Setup, TestHost, TestResponse};

async fn chameleon() -> TestHost {
    let host = TestHost::sqlite(Setup::default()).await;
    host.deploy_chameleon().await;
    host
}

async fn send(host: &TestHost, body: &str) -> TestResponse {
    host.anonymous().request(Method::POST, "/chameleon/numbers").json_text(body.to_owned()).send().await
}

#[tokio::test]
async fn a_guest_reads_whole_numbers_in_any_form() {
    let host = chameleon().await;
    let body =
        r#"{"signed": -1.50e1, "unsigned": 18446744073709551615.0, "small": -0, "float": 2.0, "list": [1e2, 0.0]}"#;
    let read = send(&host, body).await.ok();
    assert_eq!(read, json!({ "signed": -15, "unsigned": u64::MAX, "small": 0, "float": 2.0, "list": [100, 0] }));
    let echoed = host.anonymous().request(Method::POST, "/chameleon/echo").json_text("{\"a\": 1.0}").send().await;
    assert_eq!(echoed.ok()["body"], "{\"a\": 1.0}", "a body without integers in its schema stays as it is");
}

#[tokio::test]
async fn a_number_beyond_the_type_of_a_member_is_refused_at_the_member() {
    let host = chameleon().await;
    let with = |member: &str, number: &str| {
        let mut body = json!({ "signed": 0, "unsigned": 0, "float": 0.5 });
        body[member] = json!("here");
        body.to_string().replace("\"here\"", number)
    };
    for (member, number) in [
        ("signed", "9223372036854775808"),
        ("signed", "-1e19"),
        ("signed", "1e30"),
        ("signed", "1.5"),
        ("unsigned", "18446744073709551616"),
        ("unsigned", "-1"),
        ("small", "2147483648"),
        ("list", "[256]"),
    ] {
        let problem = send(&host, &with(member, number)).await;
        assert_eq!(problem.status, 422, "{member} {number}");
        assert_eq!(problem.problem()["errors"][0]["loc"][1], member, "{number}: {}", problem.text());
    }
    for (member, number) in [
        ("signed", "-9223372036854775808"),
        ("signed", "9007199254740993.0"),
        ("small", "2147483647"),
        ("list", "[255]"),
    ] {
        send(&host, &with(member, number)).await.ok();
    }
}

#[tokio::test]
async fn a_parameter_can_be_any_integer_of_64_bits() {
    let host = chameleon().await;
    let get = async |path: &str| host.anonymous().get(&format!("/chameleon/number/{path}")).await;
    let max = u64::MAX;
    let response = get(&format!("{max}?unsigned={max}&signed=-9223372036854775808")).await;
    assert_eq!(response.text(), format!("{max} {max} -9223372036854775808"));
    for (path, at) in [
        ("1?unsigned=18446744073709551616&signed=0", ["query", "unsigned"]),
        ("1?unsigned=1&signed=9223372036854775808", ["query", "signed"]),
        ("1?unsigned=1.0&signed=0", ["query", "unsigned"]),
        ("1e2?unsigned=1&signed=0", ["path", "unsigned"]),
    ] {
        let problem = get(path).await;
        assert_eq!(problem.problem()["errors"][0]["loc"], json!(at), "{path}");
    }
}

#[tokio::test]
async fn settings_may_write_an_integer_as_a_float() {
    let host = TestHost::sqlite(Setup::default()).await;
    let settings = r#"{"word": "w", "times": 3.0}"#;
    host.superuser().deploy_with_settings(&Component::chameleon().0, CHAMELEON, settings).await.ok();
    assert_eq!(host.anonymous().get("/chameleon/setting").await.ok(), "w");
}
