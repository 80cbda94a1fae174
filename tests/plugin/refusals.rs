//! Files that are refused, each with its reason; whatever was live goes on serving.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::host::{ITEMS, SUPERUSER, Setup};
use crate::support::{Answer, Component, TestHost, both};

both!(
    a_failed_migration_changes_nothing => Setup::default().with_items(),
    a_migration_that_was_changed_afterwards_is_refused => Setup::default().with_items(),
    a_migration_cannot_reach_beyond_its_database,
);

/// A declaration that is all right.
fn honest() -> Value {
    json!({
        "name": "liar", "version": "1.0.0", "summary": "", "answer": "ok",
        "routes": [{ "method": "GET", "path": "/", "access": "public", "operation": "{}" }],
    })
}

fn with(member: &str, value: Value) -> Value {
    let mut declaration = honest();
    declaration[member] = value;
    declaration
}

fn with_route(member: &str, value: Value) -> Value {
    let mut declaration = honest();
    declaration["routes"][0][member] = value;
    declaration
}

async fn deploy(host: &TestHost, declaration: &Value) -> Answer {
    host.superuser().deploy(&Component::liar(declaration).0, "").await
}

/// Refused with a reason that has these words, and nothing of it is there afterwards.
#[track_caller]
fn says(answer: &Answer, status: u16, code: &str, words: &[&str]) {
    let reason = answer.has_code(status, code);
    for word in words {
        assert!(reason.contains(word), "no '{word}' in: {reason}");
    }
}

#[tokio::test]
async fn what_is_no_component_is_refused() {
    let host = TestHost::sqlite(Setup::default()).await;
    let core = wat::parse_str("(module)").unwrap();
    let mut truncated = Component::hello().0;
    truncated.truncate(truncated.len() / 2);
    let mut garbled = Component::hello().0;
    garbled[8..64].fill(0xff);
    for (file, words) in [
        (b"".to_vec(), &["empty"][..]),
        (b"hello".to_vec(), &["not WebAssembly"]),
        (b"\x7fELF\x02\x01\x01\0\0\0\0\0".to_vec(), &["not WebAssembly"]),
        (b"\0asm".to_vec(), &["not WebAssembly"]),
        (core, &["core module", "wasm32-wasip2"]),
        (truncated, &["does not compile"]),
        (garbled, &["does not compile"]),
    ] {
        says(&host.superuser().deploy(&file, "").await, 422, "invalid_component", words);
    }
    assert_eq!(host.superuser().get("/plugins/").await.ok(), json!({ "data": [], "count": 0 }));
    host.stop().await;
}

#[tokio::test]
async fn a_component_that_is_no_plugin_is_refused() {
    let host = TestHost::sqlite(Setup::default()).await;
    for (text, words) in [
        ("(component)", &["wharf:plugin/descriptor@0.1.0", "nothing"][..]),
        ("(component (instance $i) (export \"acme:shop/cart@1.0.0\" (instance $i)))", &["acme:shop/cart@1.0.0"]),
        (
            "(component (instance $i) (export \"wharf:plugin/descriptor@0.1.0\" (instance $i)))",
            &["wharf:plugin/http@0.1.0"],
        ),
        (
            "(component (instance $i) (export \"wharf:plugin/descriptor@0.1.0\" (instance $i))
            (export \"wharf:plugin/http@0.1.0\" (instance $i)))",
            &["does not link"],
        ),
        ("(component (import \"run\" (func)))", &["'run'"]),
    ] {
        says(&host.superuser().deploy(&Component::text(text).0, "").await, 422, "invalid_component", words);
    }
    host.stop().await;
}

#[tokio::test]
async fn an_import_that_nobody_offers_is_named() {
    let host = TestHost::sqlite(Setup::default()).await;
    let exports = "(instance $i) (export \"wharf:plugin/descriptor@0.1.0\" (instance $i))
        (export \"wharf:plugin/http@0.1.0\" (instance $i))";
    for import in
        ["acme:shop/cart@1.0.0", "wharf:sql/database@9.0.0", "wharf:sql/secrets@0.1.0", "wasi:sockets/tcp@0.2.0"]
    {
        let component = Component::text(&format!("(component (import \"{import}\" (instance)) {exports})"));
        let answer = host.superuser().deploy(&component.0, "grant=sql").await;
        says(&answer, 422, "invalid_component", &[import]);
    }
    host.stop().await;
}

#[tokio::test]
async fn a_missing_grant_is_named_and_an_unknown_one_refused() {
    let host = TestHost::sqlite(Setup::default()).await;
    let items = Component::items();
    let answer = host.superuser().deploy(&items.0, "").await;
    says(&answer, 403, "grant_missing", &["auth, sql", "--grant auth,sql"]);
    let answer = host.superuser().deploy(&items.0, "grant=auth").await;
    says(&answer, 403, "grant_missing", &["was not granted: sql."]);
    host.superuser().get("/items/").await.has_code(404, "route_not_found");
    let answer = host.superuser().deploy(&items.0, "grant=auth&grant=root").await;
    answer.refuses(&["query.grant value_error: there is no capability 'root'…"]);
    host.stop().await;
}

#[tokio::test]
async fn declarations_that_cannot_be_are_refused() {
    let host = TestHost::sqlite(Setup::default()).await;
    deploy(&host, &honest()).await.ok();
    let operation = |operation: Value| with_route("operation", operation.to_string().into());
    let body = |schema: Value| {
        operation(json!({ "requestBody": { "content": { "application/json": { "schema": schema } } } }))
    };
    for (declaration, words) in [
        (with("name", json!("")), &["name ''"][..]),
        (with("name", json!("Not A Name")), &["'Not A Name'"]),
        (with("name", json!("x".repeat(41))), &["name"]),
        (with("name", json!("../etc")), &["name"]),
        (with("version", json!("one")), &["'one'", "semantic version"]),
        (with("version", json!("")), &["semantic version"]),
        (with("summary_bytes", json!(100_000)), &["summary"]),
        (with("permissions", json!([["Read All", ""]])), &["'Read All'"]),
        (with("permissions", json!([["read", ""], ["read", ""]])), &["'read' twice"]),
        (with("settings_schema", json!("{")), &["settings schema"]),
        (with("settings_schema", json!("{\"type\": 7}")), &["settings schema"]),
        (with("routes", json!([])), &["no route"]),
        (with("route_count", json!(1000)), &["256 routes"]),
        (with("schemas", json!([["Bad Name", "{}"]])), &["'Bad Name'"]),
        (with("schemas", json!([["A", "{"]])), &["schema 'A'", "not JSON"]),
        (with("schemas", json!([["A", "{}"], ["A", "{}"]])), &["'A' twice"]),
        (with_route("method", json!("get")), &["method"]),
        (with_route("method", json!("OPTIONS")), &["method"]),
        (with_route("path", json!("no-slash")), &["no-slash"]),
        (with_route("path", json!("/a//b")), &["empty segment"]),
        (with_route("path", json!("/../users")), &["'..'"]),
        (with_route("path", json!("/{a}/{a}")), &["twice"]),
        (with_route("path", json!("/x{a}")), &["'x{a}'"]),
        (with_route("path", json!("/{id}")), &["'id' is not declared"]),
        (with_route("access", json!("read")), &["'read' is not declared"]),
        (with_route("operation", json!("nonsense")), &["not JSON"]),
        (with_route("operation", json!("[]")), &["not a JSON object"]),
        (operation(json!({ "parameters": 7 })), &["parameters"]),
        (operation(json!({ "parameters": [{ "name": "id", "in": "path", "schema": {} }] })), &["'id'"]),
        (operation(json!({ "parameters": [{ "name": "id", "in": "moon", "schema": {} }] })), &["'in'"]),
        (body(json!({ "type": 7 })), &["route GET /"]),
        (body(json!({ "pattern": "(" })), &["route GET /"]),
        (body(json!({ "pattern": "(a{1000}){1000}" })), &["route GET /"]),
        (body(json!({ "$ref": "#/components/schemas/Missing" })), &["route GET /"]),
        (body(json!({ "$ref": "https://example.com/schema.json" })), &["route GET /"]),
        (body(json!({ "$ref": "file:///etc/passwd" })), &["route GET /"]),
        (with("migrations", json!([["0001", "CREATE TABLE t (a TEXT)"]])), &["migrations"]),
    ] {
        let mut declaration = declaration;
        declaration["answer"] = json!("lie");
        let answer = deploy(&host, &declaration).await;
        says(&answer, 422, "invalid_component", words);
        assert!(answer.text().len() < 2_000, "{}", answer.text());
        assert_eq!(host.anonymous().get("/liar/").await.text(), "ok");
    }
    // Two routes that no request could tell apart.
    let twin = json!({ "method": "GET", "path": "/", "access": "public", "operation": "{}" });
    let answer = deploy(&host, &with("routes", json!([twin, twin]))).await;
    says(&answer, 409, "route_conflict", &["GET /api/v1/liar"]);
    let cached = json!({ "method": "POST", "path": "/", "access": "public", "operation": "{}", "ttl_ms": 1000 });
    says(&deploy(&host, &with("routes", json!([cached]))).await, 422, "invalid_component", &["only answers to GET"]);
    assert_eq!(host.superuser().get("/plugins/liar").await.ok()["release"]["number"], 1);
    host.stop().await;
}

#[tokio::test]
async fn a_component_that_misbehaves_when_it_is_asked_what_it_is_is_refused() {
    let host = TestHost::sqlite(Setup::default()).await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    for member in ["describe", "list", "migrate"] {
        for (act, words) in [
            ("trap", &["asked what it is"][..]),
            ("panic", &["asked what it is"]),
            ("loop", &["CPU time"]),
            ("sleep", &["in time"]),
            ("grow", &["memory"]),
        ] {
            // A neighbour answers all the while.
            let liar = Component::liar(&with(member, json!(act)));
            let (answer, neighbour) = tokio::join!(host.superuser().deploy(&liar.0, ""), async {
                host.anonymous().get("/hello/Ann").await.status
            });
            says(&answer, 422, "invalid_component", words);
            assert_eq!(neighbour, 200);
        }
    }
    assert_eq!(host.superuser().get("/plugins/").await.ok()["count"], 1);
    host.stop().await;
}

#[tokio::test]
async fn paths_of_the_host_and_of_other_plugins_are_not_given_away() {
    let host = TestHost::sqlite(Setup::default()).await;
    let hello = Component::hello();
    for mount in [
        "/",
        "/api",
        "/api/v1",
        "/api/v1/users",
        "/api/v1/users/me",
        "/api/v1/login",
        "/api/v1/plugins/x",
        "/docs",
        "/healthz",
        "/readyz/x",
        "/api/v1/openapi.json",
        "/shop/{id}",
    ] {
        let answer = host.superuser().deploy(&hello.0, &format!("mount={mount}")).await;
        says(&answer, 409, "route_conflict", &["mount"]);
    }
    for mount in ["shop", "//", "/a//b", "/..", "/%2e%2e", "/a%20b"] {
        let answer = host.superuser().deploy(&hello.0, &format!("mount={mount}")).await;
        answer.refuses(&["query.mount value_error…"]);
    }
    host.superuser().deploy(&hello.0, "mount=/shop/greet").await.ok();
    for mount in ["/shop/greet", "/shop", "/shop/greet/more"] {
        let answer = host.superuser().deploy(&hello.0, &format!("name=second&mount={mount}")).await;
        says(&answer, 409, "route_conflict", &["'hello'"]);
    }
    host.superuser().deploy(&hello.0, "name=second&mount=/shop/greetings").await.ok();
    let name = host.superuser().deploy(&hello.0, "name=Not+A+Name").await;
    assert_eq!(name.status, 422);
    name.problem();
    host.stop().await;
}

#[tokio::test]
async fn uploads_have_a_limit_and_only_superusers_send_them() {
    let limit = 256 * 1024;
    let host = TestHost::sqlite(Setup::default().with(|config| config.plugins.upload_bytes = limit)).await;
    let answer = host.superuser().deploy(&vec![0; limit + 1], "").await;
    answer.has_code(413, "body_too_large");
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    let user = host.user("someone@example.com").await;
    let other = Component::hello().rebuilt("b");
    user.deploy(&other.0, "").await.is_problem(403, "forbidden", "The user doesn't have enough privileges");
    host.anonymous().deploy(&other.0, "").await.has_code(401, "not_authenticated");
    // Nobody sends a large file before he may.
    host.anonymous().deploy(&vec![0; limit + 1], "").await.has_code(401, "not_authenticated");
    assert_eq!(host.superuser().get("/plugins/hello").await.ok()["release"]["number"], 1);
    host.stop().await;
}

async fn still_serves(host: &TestHost) {
    let item = host.superuser().post("/items/", &json!({ "title": "still here" })).await.ok();
    host.superuser().get(&format!("/items/{}", item["id"].as_str().unwrap())).await.ok();
    assert_eq!(host.superuser().get("/plugins/items").await.ok()["release"]["number"], 1);
    let me = host.superuser().request(Method::GET, "/users/me").send().await.ok();
    assert_eq!(me["email"], SUPERUSER);
}

async fn a_failed_migration_changes_nothing(host: &TestHost) {
    // A second plugin from the same file, so that the migration is its first.
    for (old, new) in [("CREATE TABLE item", "CREATE TABLX item"), ("ON item (owner_id, ", "ON item (owner_iX, ")] {
        let broken = Component::items().with_text(old, new);
        let answer = host.superuser().deploy(&broken.0, &format!("{ITEMS}&name=second")).await;
        says(&answer, 422, "migration_failed", &["0001_item"]);
        host.superuser().get("/second/").await.has_code(404, "route_not_found");
        host.superuser().get("/plugins/second").await.has_code(404, "plugin_not_found");
    }
    still_serves(host).await;
    // Nothing of the half that worked is left in the way.
    host.superuser().deploy(&Component::items().0, &format!("{ITEMS}&name=second")).await.ok();
    assert_eq!(host.superuser().get("/second/").await.ok(), json!({ "data": [], "count": 0 }));
}

async fn a_migration_that_was_changed_afterwards_is_refused(host: &TestHost) {
    let changed = Component::items().with_text("-- The two lists there are", "-- The few lists there are");
    let answer = host.superuser().deploy(&changed.0, "").await;
    says(&answer, 422, "migration_failed", &["0001_item"]);
    still_serves(host).await;
}

async fn a_migration_cannot_reach_beyond_its_database(host: &TestHost) {
    // Written over the comment of the chameleon's sibling: the first statement of the items plugin's migration.
    let comment =
        "-- One text for SQLite and PostgreSQL: times are RFC 3339 texts of one length, which sort as they are.";
    for hostile in [
        "ATTACH DATABASE '/tmp/wharf-escape.db' AS other;",
        "PRAGMA journal_mode = DELETE;",
        "SELECT load_extension('/tmp/evil.so');",
        "CREATE ROLE evil SUPERUSER;",
        "ALTER SYSTEM SET log_statement = 'all';",
        "COPY (SELECT 1) TO PROGRAM 'touch /tmp/wharf-escape';",
        "CREATE TABLE public.evil (a TEXT);",
        "DROP TABLE public.\"user\";",
        "COMMIT; CREATE TABLE evil (a TEXT);",
    ] {
        let hostile = format!("{hostile:<width$}", width = comment.len());
        let component = Component::items().with_text(comment, &hostile);
        let answer = host.superuser().deploy(&component.0, ITEMS).await;
        says(&answer, 422, "migration_failed", &["0001_item"]);
        host.superuser().get("/plugins/items").await.has_code(404, "plugin_not_found");
    }
    host.superuser().get("/users/").await.ok();
    assert!(!std::path::Path::new("/tmp/wharf-escape.db").exists());
    host.superuser().deploy(&Component::items().0, ITEMS).await.ok();
}
