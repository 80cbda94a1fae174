//! The way in: what is refused, and that a refusal changes nothing; what a deploy swaps, and that nobody notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::support::{Backend, Component, Setup, TestHost, both};

both!(a_bad_migration_leaves_the_old_release_and_its_tables);

fn liar(change: Value) -> Vec<u8> {
    let mut declaration = json!({
        "name": "liar", "version": "1.0.0", "summary": "Lies", "answer": "one",
        "routes": [{ "method": "GET", "path": "/", "access": "public", "operation": {} }],
    });
    declaration.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    Component::liar(&declaration).0
}

/// The grants that a liar needs: none of its functions are called, its migrations are.
const LIAR: &str = "grant=sql";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_plugin_is_refused_with_its_reason() {
    let host = TestHost::sqlite(Setup::default()).await;
    let root = host.superuser();
    let empty_component = Component::text("(component)").0;
    let stranger = r#"(component (import "acme:thing/x@1.0.0" (instance (export "f" (func)))))"#;
    for (bytes, reason) in [
        (b"".to_vec(), "it is empty"),
        (b"hello".to_vec(), "it is not WebAssembly"),
        (Component::text("(module)").0, "it is a core module, not a component"),
        (Component::hello().0[..2000].to_vec(), "it does not compile"),
        (empty_component, "it does not export 'wharf:plugin/descriptor@0.1.0'"),
        (Component::text(stranger).0, "does not export"),
    ] {
        let text = root.deploy(&bytes, "").await.has_code(422, "invalid_component");
        assert!(text.contains(reason), "{text}");
    }
    for (query, place) in [
        ("grant=everything", "query.grant value_error: there is no capability 'everything'; …"),
        ("mount=items", "query.mount value_error: a path begins with '/'"),
        ("name=A", "query.name string_pattern_mismatch: …"),
        ("settings=x", "query.settings value_error: not JSON: …"),
    ] {
        root.deploy(&Component::hello().0, query).await.refuses(&[place]);
    }
    for mount in
        ["/", "/api", "/api/v1", "/api/v1/users", "/api/v1/users/x", "/healthz", "/docs", "/api/v1/plugins", "/x/{id}"]
    {
        root.deploy(&Component::hello().0, &format!("mount={mount}")).await.has_code(409, "route_conflict");
    }
    host.anonymous().deploy(&Component::hello().0, "").await.has_code(401, "not_authenticated");
    let user = host.user("user@example.com").await;
    user.deploy(&Component::hello().0, "").await.has_code(403, "forbidden");
    assert_eq!(root.get("/plugins/").await.ok()["count"], 0);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_component_declares_is_checked() {
    let host = TestHost::sqlite(Setup::default()).await;
    let root = host.superuser();
    root.deploy(&liar(json!({})), LIAR).await.ok();
    let route = |change: Value| {
        let mut route = json!({ "method": "GET", "path": "/", "access": "public", "operation": {} });
        route.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({ "routes": [route] })
    };
    let body = |schema: Value| json!({ "requestBody": { "content": { "application/json": { "schema": schema } } } });
    for (change, reason) in [
        (json!({ "name": "Not A Name" }), "its name 'Not A Name' cannot be"),
        (json!({ "version": "new" }), "is not a semantic version"),
        (json!({ "summary_bytes": 100_000 }), "its summary is longer"),
        (json!({ "permissions": [["a", ""], ["a", ""]] }), "the permission 'a' twice"),
        (json!({ "permissions": [["A b", ""]] }), "is not a permission's name"),
        (json!({ "settings_schema": "{" }), "its settings schema is not JSON"),
        (json!({ "settings_schema": "{\"type\": 1}" }), "its settings schema is not a JSON Schema"),
        (json!({ "routes": [] }), "it declares no route"),
        (json!({ "route_count": 257 }), "more than 256 routes"),
        (route(json!({ "method": "TRACE" })), "the method is not one of"),
        (route(json!({ "path": "x" })), "a path begins with '/'"),
        (route(json!({ "path": "/{id}" })), "path parameter 'id' is not declared"),
        (route(json!({ "access": "undeclared" })), "permission 'undeclared' is not declared"),
        (route(json!({ "operation": "[" })), "its operation is not JSON"),
        (route(json!({ "operation": body(json!({ "type": "nonsense" })) })), "request body"),
        (route(json!({ "operation": body(json!({ "$ref": "https://example.com/x" })) })), "request body"),
        (json!({ "schemas": [["a b", "{}"]] }), "is not a schema's name"),
        (json!({ "describe": "trap" }), "it fails when it is asked what it is"),
        (json!({ "describe": "panic" }), "it fails when it is asked what it is"),
        (json!({ "list": "loop" }), "it fails when it is asked what it is"),
        (json!({ "list": "sleep" }), "it fails when it is asked what it is"),
        (json!({ "migrate": "grow" }), "it fails when it is asked what it is"),
    ] {
        let text = root.deploy(&liar(change), LIAR).await.has_code(422, "invalid_component");
        assert!(text.contains(reason), "{text}");
    }
    let twice = json!({ "routes": [
        { "method": "GET", "path": "/a", "access": "public", "operation": {} },
        { "method": "GET", "path": "/a/", "access": "public", "operation": {} },
    ] });
    root.deploy(&liar(twice), LIAR).await.has_code(409, "route_conflict");
    root.deploy(&liar(json!({ "name": "other" })), "grant=sql&mount=/api/v1/liar/below")
        .await
        .has_code(409, "route_conflict");
    let text = root.deploy(&liar(json!({ "name": "other" })), "settings={\"a\":1}&grant=sql").await;
    assert!(text.has_code(422, "invalid_component").contains("it takes no settings"));

    assert_eq!(host.anonymous().get("/liar/").await.text(), "one", "the first release still answers");
    assert_eq!(root.get("/plugins/").await.ok()["count"], 1);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imports_are_granted_or_named() {
    let host = TestHost::sqlite(Setup::default()).await;
    let root = host.superuser();
    let text = root.deploy(&Component::items().0, "grant=sql").await.has_code(403, "grant_missing");
    assert!(text.contains("not granted: auth.") && text.contains("--grant auth,sql"), "{text}");
    host.anonymous().get("/items/").await.is_problem(404, "route_not_found", "Not Found");
    let deployed = root.deploy(&Component::items().0, "grant=sql,auth&grant=cache").await.ok();
    assert_eq!(deployed["notes"], json!(["grant 'cache' is not needed: the component does not import it"]));
    assert_eq!(deployed["plugin"]["grants"], json!(["auth", "sql"]));
    assert_eq!((&deployed["replaced"], &deployed["unchanged"]), (&Value::Null, &json!(false)));
    let again = root.deploy(&Component::items().0, "").await.ok();
    assert_eq!((&again["unchanged"], &again["plugin"]["release"]["number"]), (&json!(true), &json!(1)));
    let next = root.deploy(&Component::items().rebuilt("b").0, "").await.ok();
    assert_eq!((&next["replaced"], &next["plugin"]["release"]["number"]), (&json!(1), &json!(2)));
    let other = root.deploy(&Component::hello().0, "name=other&mount=/shop").await.ok();
    assert_eq!((&other["plugin"]["name"], &other["plugin"]["mount"]), (&json!("other"), &json!("/shop")));
    let greeting = host.anonymous().plain(reqwest::Method::GET, "/shop/you").send().await.ok();
    assert_eq!(greeting, json!({ "message": "Hello you" }));
    host.stop().await;
}

async fn a_bad_migration_leaves_the_old_release_and_its_tables(host: &TestHost) {
    let root = host.superuser();
    let first = json!([["0001", "CREATE TABLE a (x TEXT)"]]);
    root.deploy(&liar(json!({ "migrations": first })), LIAR).await.ok();
    for (migrations, reason) in [
        (
            json!([["0001", "CREATE TABLE a (x TEXT)"], ["0002", "CREATE TABLE b (x TEXT); CREATE TABLE a (x TEXT)"]]),
            "0002",
        ),
        (json!([["0001", "CREATE TABLE changed (x TEXT)"]]), "0001"),
        (json!([["0001", "CREATE TABLE a (x TEXT)"], ["0002", "ATTACH 'x' AS y"]]), "0002"),
        (json!([["0001", "CREATE TABLE a (x TEXT)"], ["0002", "nonsense"]]), "0002"),
    ] {
        let change = json!({ "migrations": migrations, "answer": "two" });
        let text = root.deploy(&liar(change), LIAR).await.has_code(422, "migration_failed");
        assert!(text.contains(reason), "{text}");
        assert_eq!(host.anonymous().get("/liar/").await.text(), "one");
    }
    let good = json!([["0001", "CREATE TABLE a (x TEXT)"], ["0002", "CREATE TABLE b (x TEXT)"]]);
    root.deploy(&liar(json!({ "migrations": good, "answer": "two" })), LIAR).await.ok();
    assert_eq!(host.anonymous().get("/liar/").await.text(), "two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_everything() {
    for backend in [Backend::Sqlite, Backend::Postgres] {
        let Some(mut host) = TestHost::start(backend, Setup::default()).await else { return };
        host.deploy_chameleon().await;
        host.superuser().deploy(&Component::chameleon().0, "settings={\"word\":\"kept\"}").await.ok();
        host.superuser().deploy(&Component::hello().0, "").await.ok();
        host.superuser().delete("/plugins/hello").await.says("Plugin 'hello' removed");
        assert_eq!(host.anonymous().post("/chameleon/notes/one", &Value::Null).await.status, 204);
        let before = host.superuser().get("/plugins/").await.ok();
        assert_eq!(before["data"][0]["release"]["number"], 2);
        host.restart().await;
        assert_eq!(host.superuser().get("/plugins/").await.ok(), before);
        assert_eq!(host.anonymous().get("/chameleon/notes").await.ok(), json!(["one"]));
        assert_eq!(host.anonymous().get("/chameleon/setting").await.ok(), json!("kept"));
        host.anonymous().get("/hello/").await.is_problem(404, "plugin_removed", "Not Found");
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_deploys_fail_no_request() {
    let host = TestHost::sqlite(Setup::default()).await;
    let builds = [Component::hello().rebuilt("a").0, Component::hello().rebuilt("b").0];
    host.superuser().deploy(&builds[1], "").await.ok();
    let (done, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let (client, done, answered) = (host.anonymous(), Arc::clone(&done), Arc::clone(&answered));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let answer = client.get("/hello/").await;
                    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"message":"Hello"}"#));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for deploy in 0..200 {
        let deployed = host.superuser().deploy(&builds[deploy % 2], "").await.ok();
        assert_eq!(deployed["unchanged"], false);
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert!(answered.load(Ordering::Relaxed) > 200, "the load went on meanwhile");
    host.stop().await;
}
