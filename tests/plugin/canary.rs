//! Canaries: the callers that a canary serves, and how a canary ends.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::emergencies::with_a_late_body;
use super::liar;
use super::releases::{history_entry, operate, responding_with};
use crate::support::host::{CHAMELEON, ITEMS, PASSWORD};
use crate::support::polling::until;
use crate::support::{Client, Component, Setup, TestHost, both};

both!(
    a_canary_is_requested_by_header_and_promoted,
    an_aborted_canary_leaves_the_live_release,
    a_canary_survives_a_restart,
    callers_keep_their_sides_in_a_restart,
    a_caller_whose_session_ends_during_an_upload_is_refused => Setup::default().with_items(),
    a_caller_whose_session_ends_during_a_raw_upload_is_refused,
);

async fn deploy_plan(host: &TestHost, component: &Component, plan: &str) -> Value {
    host.superuser().deploy(&component.0, plan).await.ok()
}

async fn get_with_canary_header(client: &Client, value: &str) -> String {
    client.request(reqwest::Method::GET, "/liar").header("x-wharf-canary", value).send().await.text()
}

async fn a_canary_is_requested_by_header_and_promoted(host: &mut TestHost) {
    deploy_plan(host, &responding_with("live"), "").await;
    let started = deploy_plan(host, &responding_with("candidate"), "canary=header").await;
    assert_eq!((&started["on_trial"], &started["replaced"]), (&json!(true), &json!(1)));
    let anyone = host.anonymous();
    assert_eq!(anyone.get("/liar").await.text(), "live");
    assert_eq!(get_with_canary_header(host.superuser(), "always").await, "candidate");
    assert_eq!(get_with_canary_header(host.superuser(), "never").await, "live");
    assert_eq!(get_with_canary_header(host.superuser(), "nonsense").await, "live");
    let plugin = host.superuser().get("/plugins/liar").await.ok();
    assert_eq!((&plugin["release"]["number"], &plugin["canary"]["release"]), (&json!(1), &json!(2)));
    let trial = host.superuser().get("/plugins/liar/canary").await.ok();
    assert_eq!(
        (&trial["comparison"]["candidate"]["calls"], &trial["comparison"]["live"]["calls"]),
        (&json!(1), &json!(3))
    );
    assert_eq!(operate(host, "liar/promote").await.ok()["release"]["number"], 2);
    assert_eq!(get_with_canary_header(host.superuser(), "never").await, "candidate");
    operate(host, "liar/promote").await.has_code(409, "plugin_state");
    host.superuser().get("/plugins/liar/canary").await.has_code(409, "plugin_state");
    operate(host, "liar/rollback").await.ok();
    assert_eq!(anyone.get("/liar").await.text(), "live");
}

async fn an_aborted_canary_leaves_the_live_release(host: &mut TestHost) {
    deploy_plan(host, &responding_with("live"), "").await;
    deploy_plan(host, &responding_with("candidate"), "canary=100%25").await;
    assert_eq!(host.anonymous().get("/liar").await.text(), "candidate");
    operate(host, "liar/abort").await.ok();
    assert_eq!(get_with_canary_header(host.superuser(), "always").await, "live");
    operate(host, "liar/abort").await.has_code(409, "plugin_state");
    operate(host, "nobody/abort").await.has_code(404, "plugin_not_found");
    // An aborted release is kept and can be rolled back to by its number only, because it was never live.
    operate(host, "liar/rollback").await.has_code(404, "release_not_found");
    operate(host, "liar/rollback?release=2").await.ok();
    assert_eq!(host.anonymous().get("/liar").await.text(), "candidate");
}

async fn a_canary_survives_a_restart(host: &mut TestHost) {
    deploy_plan(host, &responding_with("live"), "").await;
    deploy_plan(host, &responding_with("candidate"), "canary=header&minimum=7").await;
    host.restart().await;
    assert_eq!(get_with_canary_header(host.superuser(), "always").await, "candidate");
    assert_eq!(host.anonymous().get("/liar").await.text(), "live");
    assert_eq!(host.superuser().get("/plugins/liar").await.ok()["canary"]["minimum"], 7);
    // A deploy replaces the canary and ends it.
    deploy_plan(host, &responding_with("newer"), "").await;
    assert_eq!(get_with_canary_header(host.superuser(), "always").await, "newer");
    assert_eq!(host.superuser().get("/plugins/liar").await.ok()["canary"], json!(null));
}

async fn callers_keep_their_sides_in_a_restart(host: &mut TestHost) {
    deploy_plan(host, &responding_with("live"), "").await;
    deploy_plan(host, &responding_with("candidate"), "canary=50%25").await;
    let sides = async |host: &TestHost| {
        let mut sides = Vec::new();
        for caller in 1..=24 {
            let client = Client::from_address(host.addr(), [127, 0, 3, caller].into());
            sides.push(client.get("/liar").await.text());
        }
        sides
    };
    let before = sides(host).await;
    host.restart().await;
    assert_eq!(sides(host).await, before);
}

/// They decide about the release before the body arrives.
async fn a_caller_whose_session_ends_during_an_upload_is_refused(host: &mut TestHost) {
    deploy_plan(host, &Component::items().rebuilt("candidate"), &format!("{ITEMS}&canary=header")).await;
    let first = host.user("jane@example.com").await;
    let second = host.anonymous().signed_in("jane@example.com", PASSWORD).await;
    let head = format!("POST /api/v1/items/ HTTP/1.1\r\nauthorization: Bearer {}\r\n", first.token());
    let body = r#"{"title":"Tea"}"#;
    let stored = with_a_late_body(host, &head, body, async || ()).await;
    assert!(stored.starts_with("HTTP/1.1 20"), "{stored}");
    let refused = with_a_late_body(host, &head, body, async || {
        second.delete("/users/me/sessions").await.ok();
    })
    .await;
    assert!(refused.starts_with("HTTP/1.1 401") && refused.contains("invalid_token"), "{refused}");
    assert_eq!(second.get("/items/").await.ok()["count"], 1);
}

/// A raw body can be large, so the caller is also checked before it: the last request gets no "100 Continue".
async fn a_caller_whose_session_ends_during_a_raw_upload_is_refused(host: &mut TestHost) {
    let operation = json!({ "requestBody": { "content": { "application/octet-stream": {} } } });
    let routes = json!([{ "method": "POST", "path": "/", "access": "authenticated", "operation": operation }]);
    let release = |answer: &str| liar(json!({ "routes": routes, "answer": answer }));
    deploy_plan(host, &release("live"), "").await;
    deploy_plan(host, &release("candidate"), "canary=100%25").await;
    let first = host.user("jane@example.com").await;
    let second = host.anonymous().signed_in("jane@example.com", PASSWORD).await;
    let head = format!("POST /api/v1/liar HTTP/1.1\r\nauthorization: Bearer {}\r\n", first.token());
    let taken = with_a_late_body(host, &head, "bytes", async || ()).await;
    assert!(taken.starts_with("HTTP/1.1 200") && taken.ends_with("candidate"), "{taken}");
    let refused = with_a_late_body(host, &head, "bytes", async || {
        second.delete("/users/me/sessions").await.ok();
    })
    .await;
    assert!(refused.starts_with("HTTP/1.1 401") && refused.contains("invalid_token"), "{refused}");

    let mut stream = TcpStream::connect(host.addr()).await.unwrap();
    let head = format!(
        "{head}host: x\r\ncontent-type: application/octet-stream\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 401") && response.contains("invalid_token"), "{response}");
}

/// The calls of one caller can open the circuit breaker. The canary then ends only if other callers meet failures too.
#[tokio::test]
async fn one_caller_ends_no_canary_by_the_circuit_breaker() {
    let host = TestHost::sqlite(Setup::default().with_manual_clock()).await;
    deploy_plan(&host, &responding_with("live"), "").await;
    deploy_plan(&host, &liar(json!({ "handle": "trap" })), "canary=100%25&minimum=1000").await;
    let client = |caller: u8| Client::from_address(host.addr(), [127, 0, 2, caller].into());
    for _ in 0..10 {
        client(1).get("/liar").await.has_code(502, "plugin_trap");
    }
    for caller in [2, 3] {
        // While it is quarantined, the live release serves its callers.
        assert_eq!(client(caller).get("/liar").await.text(), "live");
        host.clock().advance(Duration::from_secs(60));
        client(caller).get("/liar").await.has_code(502, "plugin_trap");
    }
    let end = history_entry(&host, "liar", "abort").await;
    assert!(end["detail"]["reason"].as_str().unwrap().contains("quarantined"), "{end}");
    assert_eq!(end["detail"]["evidence"]["candidate"]["faults"], 12, "{end}");
    assert_eq!(client(1).get("/liar").await.text(), "live");
}

#[tokio::test]
async fn a_caller_stays_on_the_same_side_of_a_canary() {
    let host = TestHost::sqlite(Setup::default()).await;
    deploy_plan(&host, &responding_with("live"), "").await;
    deploy_plan(&host, &responding_with("candidate"), "canary=50%25").await;
    let mut chosen = 0;
    for number in 0..16 {
        let user = host.user(&format!("u{number}@example.com")).await;
        let first = user.get("/liar").await.text();
        chosen += u32::from(first == "candidate");
        // Another session of the same account.
        let again = host.anonymous().signed_in(&format!("u{number}@example.com"), crate::support::host::PASSWORD).await;
        for _ in 0..3 {
            assert_eq!(again.get("/liar").await.text(), first);
        }
    }
    assert!((1..16).contains(&chosen), "{chosen} of 16 at 50 %");
    let everywhere = host.anonymous().get("/liar").await.text();
    for _ in 0..5 {
        assert_eq!(
            host.anonymous().get("/liar").await.text(),
            everywhere,
            "one address without an account is one caller"
        );
    }
}

#[tokio::test]
async fn new_routes_of_a_canary_are_served_to_its_callers_only() {
    let host = TestHost::sqlite(Setup::default()).await;
    deploy_plan(&host, &responding_with("live"), "").await;
    let route = |path: &str| json!({ "method": "GET", "path": path, "access": "public", "operation": {} });
    let candidate = liar(json!({ "answer": "candidate", "routes": [route("/"), route("/new")] }));
    deploy_plan(&host, &candidate, "canary=header").await;
    let new = |value: &str| host.superuser().request(reqwest::Method::GET, "/liar/new").header("x-wharf-canary", value);
    assert_eq!(new("always").send().await.text(), "candidate");
    new("never").send().await.has_code(404, "route_not_found");
}

#[tokio::test]
async fn only_a_superuser_can_choose_the_side() {
    let host = TestHost::sqlite(Setup::default()).await;
    deploy_plan(&host, &responding_with("live"), "").await;
    deploy_plan(&host, &responding_with("candidate"), "canary=header").await;
    let user = host.user("user@example.com").await;
    let forged = host.superuser().clone().with_token("forged");
    for client in [&host.anonymous(), &user, &forged] {
        assert_eq!(get_with_canary_header(client, "always").await, "live");
    }
    assert_eq!(get_with_canary_header(host.superuser(), "always").await, "candidate");
    operate(&host, "liar/abort").await.ok();
    deploy_plan(&host, &responding_with("candidate"), "canary=100%25").await;
    assert_eq!(get_with_canary_header(&user, "never").await, "candidate");
    assert_eq!(get_with_canary_header(host.superuser(), "never").await, "live");
}

#[tokio::test]
async fn a_worse_canary_is_aborted_with_the_evidence() {
    // Keeps the circuit breaker from acting first: this test is about the comparison.
    let setup = Setup::default().with(|config| config.plugins.breaker_faults = 20);
    let host = TestHost::sqlite(setup).await;
    deploy_plan(&host, &responding_with("live"), "").await;
    let slow = liar(json!({ "answer": "slow", "millis": 100 }));
    deploy_plan(&host, &slow, "canary=header&minimum=30").await;
    for _ in 0..30 {
        assert_eq!(get_with_canary_header(host.superuser(), "never").await, "live");
        get_with_canary_header(host.superuser(), "always").await;
    }
    let end = history_entry(&host, "liar", "abort").await;
    let detail = &end["detail"];
    assert!(detail["reason"].as_str().unwrap().contains("a typical call took"), "{detail}");
    assert!(detail["evidence"]["candidate"]["calls"].as_u64() >= Some(30), "{detail}");
    assert_eq!((&end["actor"], &detail["release"]), (&json!(null), &json!(2)));
    assert_eq!(get_with_canary_header(host.superuser(), "always").await, "live");
}

#[tokio::test]
async fn a_canary_that_only_fails_is_aborted_by_the_circuit_breaker() {
    let host = TestHost::sqlite(Setup::default()).await;
    deploy_plan(&host, &responding_with("live"), "").await;
    deploy_plan(&host, &liar(json!({ "handle": "trap" })), "canary=header&minimum=1000").await;
    for _ in 0..10 {
        let request = host.superuser().request(reqwest::Method::GET, "/liar").header("x-wharf-canary", "always");
        request.send().await.has_code(502, "plugin_trap");
    }
    let end = history_entry(&host, "liar", "abort").await;
    assert!(end["detail"]["reason"].as_str().unwrap().contains("quarantined"), "{end}");
    assert_eq!(get_with_canary_header(host.superuser(), "always").await, "live");
}

#[tokio::test]
async fn canary_steps_lead_to_a_promotion() {
    let host = TestHost::sqlite(Setup::default()).await;
    deploy_plan(&host, &responding_with("live"), "").await;
    deploy_plan(&host, &responding_with("candidate"), "canary=header,50%25,100%25&hold=1ms&minimum=3").await;
    for step in 0..3 {
        // The minimum counts in each step anew.
        let trial = until("the step to begin", async || {
            let trial = host.superuser().get("/plugins/liar/canary").await.ok();
            (trial["step"] == step).then_some(trial)
        });
        let trial = trial.await;
        assert_eq!(
            (&trial["comparison"]["step_calls"], &trial["comparison"]["candidate"]["calls"]),
            (&json!(0), &json!(3 * step))
        );
        for _ in 0..3 {
            assert_eq!(get_with_canary_header(host.superuser(), "always").await, "candidate");
        }
    }
    let end = history_entry(&host, "liar", "promote").await;
    assert_eq!((&end["detail"]["before"], &end["detail"]["after"]), (&json!(1), &json!(2)));
    assert_eq!(get_with_canary_header(host.superuser(), "never").await, "candidate");
}

#[tokio::test]
async fn an_invalid_canary_plan_is_rejected() {
    let host = TestHost::sqlite(Setup::default()).await;
    let candidate = responding_with("candidate");
    host.superuser().deploy(&candidate.0, "canary=10%25").await.has_code(409, "plugin_state");
    deploy_plan(&host, &responding_with("live"), "").await;
    for plan in [
        "canary=10",
        "canary=",
        "canary=101%25",
        "canary=50%25,10%25",
        "canary=5%25&hold=soon",
        "canary=5%25&minimum=0",
    ] {
        host.superuser().deploy(&candidate.0, plan).await.has_code(422, "validation_error");
    }
    host.superuser().deploy(&candidate.0, "canary=5%25&mount=/elsewhere").await.has_code(409, "plugin_state");
    operate(&host, "liar/pause").await.ok();
    host.superuser().deploy(&candidate.0, "canary=10%25").await.has_code(409, "plugin_state");
}

/// The test's callers are told apart by their addresses.
#[tokio::test]
async fn a_canary_that_fails_for_several_callers_is_aborted() {
    // Keeps the circuit breaker from acting: this test is about the comparison.
    let setup = Setup::default().with(|config| config.plugins.breaker_faults = 20);
    let host = TestHost::sqlite(setup).await;
    host.deploy_chameleon().await;
    let statement = "SELECT text FROM note ORDER BY text";
    let broken = Component::chameleon().with_text(statement, "SELECT texx FROM note ORDER BY text");
    host.superuser().deploy(&broken.0, &format!("{CHAMELEON}&canary=30%25&minimum=30")).await.ok();
    for caller in 1..=60 {
        let client = Client::from_address(host.addr(), [127, 0, 1, caller].into());
        for path in ["echo/a", "echo/b", "echo/c", "notes"] {
            client.get(&format!("/chameleon/{path}")).await;
        }
    }
    let end = history_entry(&host, "chameleon", "abort").await;
    let reason = end["detail"]["reason"].as_str().unwrap();
    assert!(reason.contains("callers failed unusually often, against 0 of "), "{reason}");
}

/// Every caller of the canary leaves before it responds.
#[tokio::test]
async fn a_canary_that_hangs_is_aborted_although_no_caller_waits_for_it() {
    let host = TestHost::sqlite(Setup::default()).await;
    deploy_plan(&host, &responding_with("live"), "").await;
    deploy_plan(&host, &liar(json!({ "handle": "sleep" })), "canary=header&minimum=20").await;
    let operator = host.superuser();
    for _ in 0..40 {
        assert_eq!(get_with_canary_header(operator, "never").await, "live");
    }
    until("the canary to be aborted", async || {
        let hanging = get_with_canary_header(operator, "always");
        let served = tokio::time::timeout(Duration::from_millis(200), hanging).await;
        served.is_ok_and(|answer| answer == "live").then_some(())
    })
    .await;
    let end = history_entry(&host, "liar", "abort").await;
    let detail = &end["detail"];
    assert!(detail["reason"].as_str().unwrap().contains("a typical call took"), "{detail}");
    assert!(detail["evidence"]["candidate"]["cut_off"].as_u64() >= Some(20), "{detail}");
}
