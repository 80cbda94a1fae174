//! A release on trial: who gets it, how it ends.

use serde_json::{Value, json};

use super::liar;
use super::releases::{operate, says, told};
use crate::support::{Client, Component, Setup, TestHost, both};

both!(
    a_canary_is_requested_by_header_and_promoted,
    an_aborted_canary_leaves_the_live_release,
    a_canary_survives_a_restart,
);

async fn begin(host: &TestHost, component: &Component, plan: &str) -> Value {
    host.superuser().deploy(&component.0, plan).await.ok()
}

async fn asked(client: &Client, wish: &str) -> String {
    client.request(reqwest::Method::GET, "/liar").header("x-wharf-canary", wish).send().await.text()
}

async fn a_canary_is_requested_by_header_and_promoted(host: &mut TestHost) {
    begin(host, &says("live"), "").await;
    let begun = begin(host, &says("candidate"), "canary=header").await;
    assert_eq!((&begun["on_trial"], &begun["replaced"]), (&json!(true), &json!(1)));
    let anyone = host.anonymous();
    assert_eq!(anyone.get("/liar").await.text(), "live");
    assert_eq!(asked(&anyone, "always").await, "candidate");
    assert_eq!(asked(&anyone, "never").await, "live");
    assert_eq!(asked(&anyone, "nonsense").await, "live");
    let plugin = host.superuser().get("/plugins/liar").await.ok();
    assert_eq!((&plugin["release"]["number"], &plugin["canary"]["release"]), (&json!(1), &json!(2)));
    let trial = host.superuser().get("/plugins/liar/canary").await.ok();
    assert_eq!(
        (&trial["comparison"]["candidate"]["calls"], &trial["comparison"]["live"]["calls"]),
        (&json!(1), &json!(3))
    );
    assert_eq!(operate(host, "liar/promote").await.ok()["release"]["number"], 2);
    assert_eq!(asked(&anyone, "never").await, "candidate");
    operate(host, "liar/promote").await.has_code(409, "plugin_state");
    host.superuser().get("/plugins/liar/canary").await.has_code(409, "plugin_state");
    operate(host, "liar/rollback").await.ok();
    assert_eq!(anyone.get("/liar").await.text(), "live");
}

async fn an_aborted_canary_leaves_the_live_release(host: &mut TestHost) {
    begin(host, &says("live"), "").await;
    begin(host, &says("candidate"), "canary=100%25").await;
    assert_eq!(host.anonymous().get("/liar").await.text(), "candidate");
    operate(host, "liar/abort").await.ok();
    assert_eq!(asked(&host.anonymous(), "always").await, "live");
    operate(host, "liar/abort").await.has_code(409, "plugin_state");
    operate(host, "nobody/abort").await.has_code(404, "plugin_not_found");
    // What was tried is kept and may be gone to, by its number only: it never was what one goes back to.
    operate(host, "liar/rollback").await.has_code(404, "release_not_found");
    operate(host, "liar/rollback?release=2").await.ok();
    assert_eq!(host.anonymous().get("/liar").await.text(), "candidate");
}

async fn a_canary_survives_a_restart(host: &mut TestHost) {
    begin(host, &says("live"), "").await;
    begin(host, &says("candidate"), "canary=header&minimum=7").await;
    host.restart().await;
    assert_eq!(asked(&host.anonymous(), "always").await, "candidate");
    assert_eq!(host.anonymous().get("/liar").await.text(), "live");
    assert_eq!(host.superuser().get("/plugins/liar").await.ok()["canary"]["minimum"], 7);
    // A deploy in its place ends the trial.
    begin(host, &says("newer"), "").await;
    assert_eq!(asked(&host.anonymous(), "always").await, "newer");
    assert_eq!(host.superuser().get("/plugins/liar").await.ok()["canary"], json!(null));
}

#[tokio::test]
async fn a_caller_stays_on_the_same_side_of_a_canary() {
    let host = TestHost::sqlite(Setup::default()).await;
    begin(&host, &says("live"), "").await;
    begin(&host, &says("candidate"), "canary=50%25").await;
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
    begin(&host, &says("live"), "").await;
    let route = |path: &str| json!({ "method": "GET", "path": path, "access": "public", "operation": {} });
    let candidate = liar(json!({ "answer": "candidate", "routes": [route("/"), route("/new")] }));
    begin(&host, &candidate, "canary=header").await;
    let new = |wish: &str| host.anonymous().request(reqwest::Method::GET, "/liar/new").header("x-wharf-canary", wish);
    assert_eq!(new("always").send().await.text(), "candidate");
    new("never").send().await.has_code(404, "route_not_found");
}

#[tokio::test]
async fn a_worse_canary_is_aborted_with_the_evidence() {
    // Out of the breaker's way: what is judged here is the comparison.
    let setup = Setup::default().with(|config| config.plugins.breaker_faults = 20);
    let host = TestHost::sqlite(setup).await;
    begin(&host, &says("live"), "").await;
    let slow = liar(json!({ "answer": "slow", "millis": 30 }));
    begin(&host, &slow, "canary=header&minimum=30").await;
    let anyone = host.anonymous();
    for _ in 0..30 {
        assert_eq!(asked(&anyone, "never").await, "live");
        asked(&anyone, "always").await;
    }
    let end = told(&host, "liar", "abort").await;
    let detail = &end["detail"];
    assert!(detail["reason"].as_str().unwrap().contains("half of the calls took up to"), "{detail}");
    assert!(detail["evidence"]["candidate"]["calls"].as_u64() >= Some(30), "{detail}");
    assert_eq!((&end["actor"], &detail["release"]), (&json!(null), &json!(2)));
    assert_eq!(asked(&anyone, "always").await, "live");
}

#[tokio::test]
async fn a_canary_that_only_fails_is_aborted_by_the_circuit_breaker() {
    let host = TestHost::sqlite(Setup::default()).await;
    begin(&host, &says("live"), "").await;
    begin(&host, &liar(json!({ "handle": "trap" })), "canary=header&minimum=1000").await;
    for _ in 0..10 {
        let request = host.anonymous().request(reqwest::Method::GET, "/liar").header("x-wharf-canary", "always");
        request.send().await.has_code(502, "plugin_trap");
    }
    let end = told(&host, "liar", "abort").await;
    assert!(end["detail"]["reason"].as_str().unwrap().contains("quarantined"), "{end}");
    assert_eq!(asked(&host.anonymous(), "always").await, "live");
}

#[tokio::test]
async fn canary_steps_lead_to_a_promotion() {
    let host = TestHost::sqlite(Setup::default()).await;
    begin(&host, &says("live"), "").await;
    begin(&host, &says("candidate"), "canary=header,50%25,100%25&hold=1ms&minimum=3").await;
    let anyone = host.anonymous();
    for _ in 0..3 {
        assert_eq!(asked(&anyone, "always").await, "candidate");
    }
    told(&host, "liar", "step").await;
    let end = told(&host, "liar", "promote").await;
    assert_eq!((&end["detail"]["before"], &end["detail"]["after"]), (&json!(1), &json!(2)));
    assert_eq!(asked(&anyone, "never").await, "candidate");
}

#[tokio::test]
async fn an_invalid_canary_plan_is_rejected() {
    let host = TestHost::sqlite(Setup::default()).await;
    let candidate = says("candidate");
    host.superuser().deploy(&candidate.0, "canary=10%25").await.has_code(409, "plugin_state");
    begin(&host, &says("live"), "").await;
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
