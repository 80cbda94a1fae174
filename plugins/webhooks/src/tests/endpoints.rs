//! The endpoints of a user: their bounds, their owners, their changes.

use super::*;

fn new_endpoint() -> Value {
    json!({ "url": format!("{RECEIVER}/in"), "topics": ["items.created"] })
}

/// Returns a new endpoint with one member changed.
fn with(member: &str, value: Value) -> Value {
    let mut body = new_endpoint();
    body[member] = value;
    body
}

#[test]
fn a_secret_is_shown_at_the_creation_and_never_again() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    let response = stage.create(&alice, with("description", json!("Orders")));
    assert_eq!(response.status(), 201);
    let created = response.json();
    let secret = created["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_"), "{secret}");
    let endpoint = &created["endpoint"];
    assert_eq!((&endpoint["description"], &endpoint["scope"]), (&json!("Orders"), &json!("own")));
    assert_eq!((&endpoint["active"], &endpoint["topics"]), (&json!(true), &json!(["items.created"])));

    let path = format!("/{}", endpoint["id"].as_str().unwrap());
    assert_eq!(stage.plugin.get(&path).by(&alice).send().json(), *endpoint);
    let list = stage.plugin.get("/").by(&alice).send();
    assert_eq!(list.json()["data"], json!([endpoint]));
    assert!(!list.text().contains("whsec_"));
}

#[test]
fn nobody_but_the_owner_sees_or_changes_an_endpoint() {
    let stage = Stage::new();
    let (alice, bob) = (stage.user("alice@example.com"), stage.user("bob@example.com"));
    let Endpoint { path, .. } = stage.register(&alice, &["items.created"]);
    let root = stage.superuser("root@example.com");
    for other in [&bob, &root] {
        for response in [
            stage.plugin.get(&path).by(other).send(),
            stage.plugin.patch(&path).by(other).json(json!({ "active": false })).send(),
            stage.plugin.delete(&path).by(other).send(),
            stage.plugin.post(&format!("{path}/secret")).by(other).send(),
            stage.plugin.post(&format!("{path}/test")).by(other).send(),
            stage.plugin.get(&format!("{path}/deliveries")).by(other).send(),
            stage.plugin.post(&format!("{path}/deliveries/{}/retry", Uuid::nil())).by(other).send(),
        ] {
            assert_problem(&response, 404, "endpoint_not_found");
        }
        assert_eq!(stage.plugin.get("/").by(other).send().json()["data"], json!([]));
    }
    assert_eq!(stage.plugin.get(&path).by(&alice).send().json()["active"], true);
    assert_eq!(stage.plugin.delete(&path).by(&alice).send().status(), 204);
    assert_problem(&stage.plugin.get(&path).by(&alice).send(), 404, "endpoint_not_found");
}

#[test]
fn every_route_requires_a_caller_with_an_account() {
    let stage = Stage::new();
    for (method, path) in [("GET", "/"), ("POST", "/"), ("GET", "/1"), ("PATCH", "/1"), ("POST", "/1/test")] {
        assert_eq!(stage.plugin.request(method, path).send().status(), 401, "{method} {path}");
    }
    assert_problem(&stage.create(&user(""), new_endpoint()), 403, "needs_account");
}

#[test]
fn inputs_beyond_the_bounds_are_refused() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    let long = |length: usize| json!(format!("https://a.example/{}", "x".repeat(length - 18)));
    for (member, value) in [
        ("url", long(2_049)),
        ("url", json!("http://a.example")),
        ("url", json!("http://127.0.0.1/")),
        ("url", json!("a.example")),
        ("topics", json!([])),
        ("topics", json!(["items.stolen"])),
        ("topics", json!(["webhooks.ping"])),
        ("description", json!("x".repeat(256))),
        ("scope", json!("some")),
    ] {
        let response = stage.create(&alice, with(member, value.clone()));
        assert_eq!(response.status(), 422, "{member} {value}");
        let problem = response.problem();
        assert_eq!(problem.errors()[0].loc[..2], ["body", member], "{value}");
    }
    assert_eq!(stage.create(&alice, with("url", long(2_048))).status(), 201);
    for _ in 1..10 {
        assert_eq!(stage.create(&alice, new_endpoint()).status(), 201);
    }
    assert_problem(&stage.create(&alice, new_endpoint()), 409, "too_many_endpoints");
    assert_eq!(stage.create(&stage.user("bob@example.com"), new_endpoint()).status(), 201);
}

#[test]
fn a_setting_allows_http_on_this_machine_only() {
    let plugin = TestPlugin::new(&PLUGIN).settings(json!({ "allow_http": true }));
    let create = |url: &str| {
        let body = json!({ "url": url, "topics": ["items.created"] });
        plugin.post("/").by(&user("alice@example.com")).json(body).send().status()
    };
    assert_eq!([create("http://127.0.0.1:8080/in"), create("http://localhost/in")], [201, 201]);
    assert_eq!([create("http://10.0.0.1/in"), create("http://a.example/in")], [422, 422]);
}

#[test]
fn an_update_changes_only_the_members_sent() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    let endpoint = stage.register(&alice, &["items.created"]);
    let before = stage.show(&alice, &endpoint);
    let update = |body: Value| stage.plugin.patch(&endpoint.path).by(&alice).json(body).send();

    assert_eq!(update(json!({})).json(), before);
    let mut expected = before;
    for (member, value) in [
        ("url", json!("https://other.example/in")),
        ("topics", json!(["items.deleted", "items.updated"])),
        ("description", json!("Orders")),
        ("description", Value::Null),
        ("active", json!(false)),
        ("active", json!(true)),
    ] {
        expected[member] = value.clone();
        assert_eq!(update(json!({ member: value })).json(), expected);
        assert_eq!(stage.show(&alice, &endpoint), expected);
    }
    assert_eq!(update(json!({ "url": "ftp://a.example" })).status(), 422);
    assert_eq!(update(json!({ "topics": null })).status(), 422);
    assert_eq!(stage.show(&alice, &endpoint), expected);
}

#[test]
fn only_a_superuser_may_ask_for_the_events_of_all() {
    let stage = Stage::new();
    let (alice, root) = (stage.user("alice@example.com"), stage.superuser("root@example.com"));
    assert_problem(&stage.create(&alice, with("scope", json!("all"))), 403, "superusers_only");
    let endpoint = stage.register(&alice, &["items.created"]);
    let update = stage.plugin.patch(&endpoint.path).by(&alice).json(json!({ "scope": "all" })).send();
    assert_problem(&update, 403, "superusers_only");
    assert_eq!(stage.create(&root, new_endpoint()).json()["endpoint"]["scope"], "all");
    assert_eq!(stage.create(&root, with("scope", json!("own"))).json()["endpoint"]["scope"], "own");
}
