//! The events of the host, as superusers receive them.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{invalid_token, text};
use crate::plugin::liar;
use crate::support::event_source::EventSource;
use crate::support::host::PASSWORD;
use crate::support::{Client, Component, TestHost, both};

both! {
    changes_of_accounts_are_published,
    sessions_that_end_before_their_time_are_published => Setup::default().with_manual_clock(),
    releases_that_become_live_are_published,
    an_event_names_the_request_that_caused_it,
}

/// Opens a stream of all topics of the host.
async fn open(host: &TestHost) -> EventSource {
    let topics = ["user.created", "user.updated", "user.deleted", "session.revoked", "release.activated"];
    let path = format!("/events?topic={}", topics.join("&topic="));
    EventSource::open(host.superuser().request(Method::GET, &path)).await
}

/// Expects the next event.
async fn expect(stream: &mut EventSource, topic: &str, key: &str, payload: Value) {
    let data = stream.event().await.expect("the stream ended").data.unwrap();
    assert_eq!((text(&data, "topic"), text(&data, "key"), &data["payload"]), (topic, key, &payload));
}

async fn id_of(client: &Client) -> String {
    text(&client.get("/users/me").await.ok(), "id").to_owned()
}

/// Returns the id of the session that a client uses.
async fn session_of(client: &Client) -> String {
    let list = client.get("/users/me/sessions").await.ok();
    let current = list["data"].as_array().unwrap().iter().find(|row| row["is_current"] == true).unwrap();
    text(current, "id").to_owned()
}

async fn changes_of_accounts_are_published(host: &TestHost) {
    let mut stream = open(host).await;
    let root = host.superuser();
    let signed_up = host.sign_up("jane@example.com").await.ok();
    let created = root.post("/users/", &json!({ "email": "joe@example.com", "password": PASSWORD })).await.ok();
    let invited = root.post("/users/invite", &json!({ "email": "ann@example.com", "roles": [] })).await.ok();
    for user in [&signed_up, &created, &invited] {
        let id = text(user, "id");
        expect(&mut stream, "user.created", id, json!({ "id": id })).await;
    }
    let id = text(&signed_up, "id");
    let jane = host.anonymous().signed_in("jane@example.com", PASSWORD).await;
    let changes =
        [json!({ "full_name": "Jane" }), json!({ "email": "jane@example.org" }), json!({ "is_superuser": true })];
    for change in changes {
        root.patch(&format!("/users/{id}"), &change).await.ok();
        expect(&mut stream, "user.updated", id, json!({ "id": id })).await;
        // Nothing changes.
        root.patch(&format!("/users/{id}"), &change).await.ok();
    }
    for _ in 0..2 {
        root.put(&format!("/users/{id}/roles"), &json!({ "roles": ["operator"] })).await.ok();
    }
    expect(&mut stream, "user.updated", id, json!({ "id": id })).await;
    let session = session_of(&jane).await;
    root.patch(&format!("/users/{id}"), &json!({ "is_active": false })).await.ok();
    expect(&mut stream, "session.revoked", id, json!({ "id": session, "user_id": id })).await;
    expect(&mut stream, "user.updated", id, json!({ "id": id })).await;
    // An account is deleted by an operator, or by its owner.
    root.delete(&format!("/users/{id}")).await.ok();
    expect(&mut stream, "user.deleted", id, json!({ "id": id })).await;
    let joe = host.anonymous().signed_in("joe@example.com", PASSWORD).await;
    joe.delete("/users/me").await.ok();
    let id = text(&created, "id");
    expect(&mut stream, "user.deleted", id, json!({ "id": id })).await;
    // A change that is refused is none.
    host.sign_up("ann@example.com").await.has_code(400, "email_taken");
    root.delete(&format!("/users/{id}")).await.has_code(404, "user_not_found");
    let last = host.sign_up("last@example.com").await.ok();
    expect(&mut stream, "user.created", text(&last, "id"), json!({ "id": last["id"] })).await;
}

async fn sessions_that_end_before_their_time_are_published(host: &TestHost) {
    let root = host.superuser();
    let jane = host.user("jane@example.com").await;
    let id = id_of(&jane).await;
    let sign_in = async || {
        let client = host.anonymous().signed_in("jane@example.com", PASSWORD).await;
        let session = session_of(&client).await;
        (client, session)
    };
    let mut stream = open(host).await;
    let ended = |session: &str| json!({ "id": session, "user_id": id });
    // A sign-out.
    let (client, session) = sign_in().await;
    client.request(Method::POST, "/login/logout").send().await.ok();
    expect(&mut stream, "session.revoked", &id, ended(&session)).await;
    // All other sessions of the caller.
    let (_, session) = sign_in().await;
    jane.delete("/users/me/sessions").await.ok();
    expect(&mut stream, "session.revoked", &id, ended(&session)).await;
    // A session that an operator ends.
    let (_, session) = sign_in().await;
    root.delete(&format!("/users/{id}/sessions/{session}")).await.ok();
    expect(&mut stream, "session.revoked", &id, ended(&session)).await;
    // A refresh token that is used again.
    let tokens = host.anonymous().sign_in("jane@example.com", PASSWORD).await.ok();
    let session = session_of(&host.anonymous().with_token(text(&tokens, "access_token"))).await;
    let refresh = json!({ "refresh_token": tokens["refresh_token"] });
    host.anonymous().post("/login/refresh-token", &refresh).await.ok();
    host.clock().advance(Duration::from_secs(60));
    invalid_token(&host.anonymous().post("/login/refresh-token", &refresh).await);
    expect(&mut stream, "session.revoked", &id, ended(&session)).await;
    // A new password, of the owner and of an operator.
    let (_, session) = sign_in().await;
    let password = json!({ "current_password": PASSWORD, "new_password": "battery staple" });
    jane.patch("/users/me/password", &password).await.ok();
    expect(&mut stream, "session.revoked", &id, ended(&session)).await;
    let session = session_of(&jane).await;
    root.patch(&format!("/users/{id}"), &json!({ "password": PASSWORD })).await.ok();
    expect(&mut stream, "session.revoked", &id, ended(&session)).await;
}

async fn releases_that_become_live_are_published(host: &TestHost) {
    let root = host.superuser();
    let file = |word: &str| liar(json!({ "answer": word, "version": format!("1.0.0-{word}") }));
    let operate = async |action: &str| root.request(Method::POST, &format!("/plugins/liar/{action}")).send().await.ok();
    let mut stream = open(host).await;
    let activated = |release: u32| json!({ "plugin": "liar", "release": release });
    for (word, release) in [("one", 1), ("two", 2)] {
        root.deploy(&file(word).0, "").await.ok();
        expect(&mut stream, "release.activated", "liar", activated(release)).await;
        // It is live already.
        root.deploy(&file(word).0, "").await.ok();
    }
    operate("rollback").await;
    expect(&mut stream, "release.activated", "liar", activated(1)).await;
    root.deploy(&file("three").0, "canary=header").await.ok();
    operate("promote").await;
    expect(&mut stream, "release.activated", "liar", activated(3)).await;
    operate("pause").await;
    operate("resume").await;
    root.deploy(&Component::hello().0, "").await.ok();
    expect(&mut stream, "release.activated", "hello", json!({ "plugin": "hello", "release": 1 })).await;
}

async fn an_event_names_the_request_that_caused_it(host: &TestHost) {
    let id = text(&host.sign_up("jane@example.com").await.ok(), "id").to_owned();
    let deleted = host.superuser().delete(&format!("/users/{id}")).await;
    let sql = |table: &str| format!("SELECT request_id FROM {table} WHERE topic = 'user.deleted'");
    let requests = host.texts(&sql("events"), &sql("wharf.events")).await;
    assert_eq!(requests, [deleted.header("x-request-id").unwrap()]);
    // No request created the first superuser.
    let sql = |table: &str| format!("SELECT topic FROM {table} WHERE request_id IS NULL");
    assert_eq!(host.texts(&sql("events"), &sql("wharf.events")).await, ["user.created"]);
}
