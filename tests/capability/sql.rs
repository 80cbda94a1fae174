//! `wharf:sql` through a guest. The databases themselves are tested in `db`.

use reqwest::Method;
use serde_json::{Value, json};

use super::deploy_twin;
use crate::support::{TestHost, both};

both!(
    a_written_row_is_visible_to_the_next_call,
    a_batch_is_all_or_nothing,
    a_constraint_is_a_typed_error_and_not_a_trap,
    an_invalid_statement_is_a_typed_error_and_not_a_trap,
    plugins_do_not_share_tables,
    concurrent_transactions_all_complete,
    a_write_outside_the_own_transaction_is_refused_at_once,
);

async fn notes(host: &TestHost, plugin: &str) -> Value {
    host.anonymous().get(&format!("/{plugin}/notes")).await.ok()
}

async fn add(host: &TestHost, plugin: &str, text: &str) -> u16 {
    host.anonymous().request(Method::POST, &format!("/{plugin}/notes/{text}")).send().await.status
}

async fn statement(host: &TestHost, plugin: &str, sql: &str) -> Value {
    let request = host.anonymous().request(Method::POST, &format!("/{plugin}/statement"));
    request.header("content-type", "application/octet-stream").body(sql.to_owned()).send().await.ok()
}

async fn a_written_row_is_visible_to_the_next_call(host: &TestHost) {
    host.deploy_chameleon().await;
    assert_eq!(notes(host, "chameleon").await, json!([]));
    assert_eq!(add(host, "chameleon", "b").await, 204);
    assert_eq!(add(host, "chameleon", "a").await, 204);
    assert_eq!(notes(host, "chameleon").await, json!(["a", "b"]));
}

async fn a_batch_is_all_or_nothing(host: &TestHost) {
    host.deploy_chameleon().await;
    assert_eq!(host.anonymous().post("/chameleon/notes", &json!(["a", "b"])).await.status, 204);
    let response = host.anonymous().post("/chameleon/notes", &json!(["c", "a", "d"])).await;
    assert!((400..500).contains(&response.status), "{}", response.text());
    response.problem();
    assert_eq!(notes(host, "chameleon").await, json!(["a", "b"]));
}

async fn a_constraint_is_a_typed_error_and_not_a_trap(host: &TestHost) {
    host.deploy_chameleon().await;
    add(host, "chameleon", "a").await;
    let outcome = statement(host, "chameleon", "INSERT INTO note (id, text) VALUES ('x', 'a')").await;
    assert_eq!(outcome["error"], r#"Error::Constraint("note_text_key")"#);
}

async fn an_invalid_statement_is_a_typed_error_and_not_a_trap(host: &TestHost) {
    host.deploy_chameleon().await;
    for sql in
        ["", "SELECT FROM WHERE", "SELECT * FROM nowhere", "ATTACH 'x' AS y", "SET ROLE postgres", "SELECT 1; SELECT 2"]
    {
        let outcome = statement(host, "chameleon", sql).await;
        assert!(
            outcome["error"].as_str().is_some_and(|error| error.starts_with("Error::Invalid(")),
            "{sql}: {outcome}"
        );
    }
    assert_eq!(add(host, "chameleon", "still-there").await, 204);
}

async fn plugins_do_not_share_tables(host: &TestHost) {
    host.deploy_chameleon().await;
    deploy_twin(host).await;
    add(host, "chameleon", "mine").await;
    assert_eq!(notes(host, "twin").await, json!([]));
    for table in ["chameleon.note", "plugin_chameleon.note", "\"user\"", "public.\"user\"", "pg_shadow", "release"] {
        let outcome = statement(host, "twin", &format!("SELECT * FROM {table}")).await;
        assert!(outcome["error"].is_string(), "{table}: {outcome}");
    }
    assert_eq!(notes(host, "chameleon").await, json!(["mine"]));
}

async fn concurrent_transactions_all_complete(host: &TestHost) {
    host.deploy_chameleon().await;
    let calls = (0..4).map(|_| {
        let client = host.anonymous();
        async move { client.request(Method::POST, "/chameleon/transactions/20").send().await.status }
    });
    assert_eq!(futures_util::future::join_all(calls).await, [204; 4]);
}

async fn a_write_outside_the_own_transaction_is_refused_at_once(host: &TestHost) {
    host.deploy_chameleon().await;
    let errors = host.anonymous().post("/chameleon/outside", &json!({})).await.ok();
    let errors: Vec<&str> = errors.as_array().unwrap().iter().map(|error| error.as_str().unwrap()).collect();
    let [execute, batch, second] = errors[..] else { panic!("{errors:?}") };
    for error in [execute, batch] {
        assert!(error.contains("this call has an open transaction"), "{error}");
    }
    // The SDK turns the error of a transaction into a problem.
    assert!(second.contains("plugin_error"), "{second}");
    assert_eq!(notes(host, "chameleon").await, json!(["inside"]));
}
