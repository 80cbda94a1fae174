//! What a plugin may use, seen through a guest, on both databases.

use serde_json::{Value, json};

use crate::support::host::CHAMELEON;
use crate::support::{Component, TestHost, both};

both!(
    a_transaction_that_is_left_is_undone,
    sql_keeps_to_its_border,
    callers_are_known_and_permissions_count,
    the_cache_keeps_forgets_and_counts,
    answers_are_kept_as_declared,
);

async fn a_transaction_that_is_left_is_undone(host: &TestHost) {
    host.deploy_chameleon().await;
    let client = host.anonymous();
    for (end, status) in [("trap", 502), ("return", 502), ("fail", 409), ("loop", 504)] {
        let path = format!("/chameleon/transaction?end={end}&text={end}");
        assert_eq!(client.post(&path, &Value::Null).await.status, status, "{end}");
        assert_eq!(client.post(&format!("/chameleon/notes/after-{end}"), &Value::Null).await.status, 204);
    }
    let notes = client.get("/chameleon/notes").await.ok();
    assert_eq!(notes, json!(["after-fail", "after-loop", "after-return", "after-trap"]));
    assert_eq!(client.post("/chameleon/notes", &json!(["x", "y"])).await.status, 204);
    assert_eq!(client.get("/chameleon/notes").await.ok().as_array().unwrap().len(), 6);
}

async fn sql_keeps_to_its_border(host: &TestHost) {
    host.deploy_chameleon().await;
    host.deploy_items().await;
    let client = host.anonymous();
    let run = async |text: &'static str| {
        let request = client.request(reqwest::Method::POST, "/chameleon/statement").body(text);
        request.header("content-type", "application/octet-stream").send().await.ok()
    };
    assert_eq!(run("SELECT 1").await, json!({ "rows": true, "error": null }));
    for attack in [
        "ATTACH DATABASE 'x' AS y",
        "PRAGMA journal_mode = DELETE",
        "SELECT load_extension('x')",
        "VACUUM INTO '/tmp/x'",
        "BEGIN",
        "COMMIT",
        "SELECT 1; SELECT 2",
        "CREATE TABLE x (y TEXT)",
        "DROP TABLE note",
        "SET ROLE postgres",
        "RESET ROLE",
        "SET search_path = wharf",
        "COPY note TO '/tmp/x'",
        "COPY note FROM PROGRAM 'id'",
        "DO $$ BEGIN END $$",
        "SELECT * FROM wharf.users",
        "SELECT * FROM users",
        "SELECT * FROM plugin_items.item",
        "SELECT * FROM \"plugin_items\".item",
        "SELECT * FROM item",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT rolpassword FROM pg_authid",
        "/* SELECT */ DELETE FROM wharf.users",
        "nonsense",
        "",
    ] {
        let outcome = run(attack).await;
        assert!(outcome["error"].is_string(), "{attack}: {outcome}");
        let text = outcome["error"].as_str().unwrap();
        assert!(!text.contains("/tmp/wharf-test"), "{text}");
    }
    host.superuser().get("/users/me").await.ok();
}

async fn callers_are_known_and_permissions_count(host: &TestHost) {
    host.deploy_chameleon().await;
    let user = host.user("jane@example.com").await;
    assert_eq!(host.anonymous().get("/chameleon/who").await.ok(), Value::Null);
    assert_eq!(host.anonymous().with_token("rubbish").get("/chameleon/who").await.ok(), Value::Null);
    let who = user.get("/chameleon/who").await.ok();
    assert_eq!((&who["email"], &who["superuser"]), (&json!("jane@example.com"), &json!(false)));
    assert_eq!(user.get("/chameleon/me").await.ok()["may_read_all"], false);
    assert_eq!(host.superuser().get("/chameleon/me").await.ok()["may_read_all"], true);
    for path in ["/chameleon/superuser", "/chameleon/permitted"] {
        host.anonymous().get(path).await.has_code(401, "not_authenticated");
        user.get(path).await.has_code(403, "forbidden");
        assert_eq!(host.superuser().get(path).await.status, 204);
    }
    assert_eq!(user.request(reqwest::Method::POST, "/chameleon/audited").send().await.status, 204);
}

async fn the_cache_keeps_forgets_and_counts(host: &TestHost) {
    host.deploy_chameleon().await;
    host.superuser().deploy(&Component::chameleon().0, &format!("name=twin&{CHAMELEON}")).await.ok();
    let client = host.anonymous();
    let put = client.request(reqwest::Method::PUT, "/chameleon/kept/a").header("content-type", "text/plain");
    assert_eq!(put.body("one").send().await.ok(), Value::Null);
    assert_eq!(client.get("/chameleon/kept/a").await.ok(), json!("one"));
    assert_eq!(client.get("/twin/kept/a").await.ok(), Value::Null, "a plugin's cache is its own");
    for count in 1..4 {
        assert_eq!(client.post("/chameleon/increment/n", &Value::Null).await.ok(), json!(count));
    }
}

async fn answers_are_kept_as_declared(host: &TestHost) {
    host.deploy_chameleon().await;
    let client = host.anonymous();
    let first = client.get("/chameleon/cached").await.text();
    assert_eq!(client.get("/chameleon/cached").await.text(), first);
    assert_ne!(client.get("/chameleon/cached?x").await.text(), first, "another query is another answer");
    client.post("/chameleon/invalidate/leaf", &Value::Null).await;
    let second = client.get("/chameleon/cached").await.text();
    assert_ne!(second, first);
    host.superuser().deploy(&Component::chameleon().rebuilt("b").0, "").await.ok();
    assert_ne!(client.get("/chameleon/cached").await.text(), second, "another release, another answer");
    let user = host.user("jane@example.com").await;
    let own = user.get("/chameleon/cached-per-caller").await.text();
    assert_eq!(user.get("/chameleon/cached-per-caller").await.text(), own);
    assert_ne!(host.superuser().get("/chameleon/cached-per-caller").await.text(), own);
    let problem = client.get("/chameleon/cached-problem").await.has_code(409, "never_kept");
    assert_ne!(client.get("/chameleon/cached-problem").await.has_code(409, "never_kept"), problem);
}
