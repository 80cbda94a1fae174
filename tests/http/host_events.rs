//! Events of the host: each change of an account, a session or a live release is published once, and nothing else is.

use reqwest::Method;
use serde_json::{Value, json};

use super::event_stream::Stream;
use super::text;
use crate::plugin::liar;
use crate::plugin::releases::operate;
use crate::support::{TestHost, both};

both!(changes_of_accounts_and_sessions_are_published, the_release_that_becomes_live_is_published);

/// Returns the topic, the key and the payload of the next event.
async fn next(stream: &mut Stream) -> (String, String, Value) {
    let data = stream.next().await.data;
    (text(&data, "topic").to_owned(), text(&data, "key").to_owned(), data["payload"].clone())
}

async fn changes_of_accounts_and_sessions_are_published(host: &TestHost) {
    let topics = "topic=user.created&topic=user.updated&topic=user.deleted&topic=session.revoked";
    let mut stream = Stream::open(host.superuser(), topics).await;
    let ann = host.user("ann@example.com").await;
    let id = text(&ann.get("/users/me").await.ok(), "id").to_owned();
    let event = |topic: &str, payload: Value| (topic.to_owned(), id.clone(), payload);
    let about = json!({ "id": id });
    assert_eq!(next(&mut stream).await, event("user.created", about.clone()));

    // A change that is refused, and one that changes nothing, are no events.
    host.sign_up("ann@example.com").await.has_code(400, "email_taken");
    let path = format!("/users/{id}");
    for name in ["Ann", "Ann", "Ann B"] {
        host.superuser().patch(&path, &json!({ "full_name": name })).await.ok();
    }
    for _ in ["Ann", "Ann B"] {
        assert_eq!(next(&mut stream).await, event("user.updated", about.clone()));
    }

    let sessions = ann.get("/users/me/sessions").await.ok();
    let session = text(&sessions["data"][0], "id");
    ann.request(Method::POST, "/login/logout").send().await.has_message("Logged out successfully");
    let revoked = json!({ "id": session, "user_id": id });
    assert_eq!(next(&mut stream).await, event("session.revoked", revoked));
    host.superuser().delete(&path).await.has_message("User deleted successfully");
    assert_eq!(next(&mut stream).await, event("user.deleted", about));
}

async fn the_release_that_becomes_live_is_published(host: &TestHost) {
    let mut stream = Stream::open(host.superuser(), "topic=release.activated").await;
    for version in ["1.0.0", "2.0.0"] {
        let component = liar(json!({ "version": version, "answer": version }));
        host.superuser().deploy(&component.0, "").await.ok();
    }
    operate(host, "liar/rollback").await.ok();
    for release in [1, 2, 1] {
        let payload = json!({ "plugin": "liar", "release": release });
        assert_eq!(next(&mut stream).await, ("release.activated".to_owned(), "liar".to_owned(), payload));
    }
}
