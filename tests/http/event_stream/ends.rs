//! The end of a stream of events: with the access of its caller, with its topic, and with the host.

use reqwest::Method;
use serde_json::json;

use super::{deploy, id_of, looker, open, path, publish};
use crate::http::text;
use crate::plugin::liar;
use crate::support::intake::Intake;
use crate::support::patience::{NEVER, PATIENCE};
use crate::support::{Setup, TestHost, both};

both! {
    a_stream_ends_with_the_access_of_its_caller,
    a_stream_ends_with_the_token => Setup::default().with_manual_clock(),
    a_stream_ends_with_its_topic,
    a_stream_ends_although_its_plugin_is_not_served,
}

async fn a_stream_ends_with_the_access_of_its_caller(host: &TestHost) {
    deploy(host).await;
    let root = host.superuser();
    let topics = ["shop.members"];
    // The session ends, or the account.
    for end in ["logout", "sessions", "password", "inactive", "deleted"] {
        let email = format!("{end}@example.com");
        let client = host.user(&email).await;
        let id = id_of(&client).await;
        let stream = open(&client, &topics).await;
        match end {
            "logout" => drop(client.request(Method::POST, "/login/logout").send().await.ok()),
            "sessions" => drop(root.delete(&format!("/users/{id}/sessions")).await.ok()),
            "password" => {
                drop(root.patch(&format!("/users/{id}"), &json!({ "password": "battery staple" })).await.ok())
            }
            "inactive" => drop(root.patch(&format!("/users/{id}"), &json!({ "is_active": false })).await.ok()),
            _ => drop(root.delete(&format!("/users/{id}")).await.ok()),
        }
        stream.ended().await;
    }
    // The permission ends.
    let joe = looker(host, "joe@example.com").await;
    let looks = open(&joe, &["shop.looks"]).await;
    root.put(&format!("/users/{}/roles", id_of(&joe).await), &json!({ "roles": [] })).await.ok();
    looks.ended().await;
    // The key ends.
    let key = root.post("/keys/", &json!({ "name": "k", "permissions": ["routes:call"] })).await.ok();
    let stream = open(&host.anonymous().with_token(text(&key, "key")), &topics).await;
    root.delete(&format!("/keys/{}", text(&key, "id"))).await.ok();
    stream.ended().await;
}

async fn a_stream_ends_with_the_token(host: &TestHost) {
    deploy(host).await;
    let stream = open(&host.user("jane@example.com").await, &["shop.members"]).await;
    host.clock().advance(host.config().auth.access_token_ttl);
    stream.ended().await;
}

async fn a_stream_ends_with_its_topic(host: &TestHost) {
    deploy(host).await;
    let (root, jane) = (host.superuser(), host.user("jane@example.com").await);
    let mut members = open(&jane, &["shop.members"]).await;
    // A pause ends nothing.
    root.request(Method::POST, "/plugins/shop/pause").send().await.ok();
    let intake = Intake::of(host).await;
    publish(&intake, &[("shop.members", 1)]).await;
    assert_eq!(members.message().await.1, 1);
    root.request(Method::POST, "/plugins/shop/resume").send().await.ok();
    // A release without the topic does, and so does a removal.
    let public = open(&jane, &["shop.public"]).await;
    let smaller = liar(json!({ "name": "shop", "version": "2.0.0", "topics": [["public", {}, "public"]] }));
    root.deploy(&smaller.0, "").await.ok();
    members.ended().await;
    root.delete("/plugins/shop").await.ok();
    public.ended().await;
    let refused = jane.get(&path(&["shop.public"])).await.has_code(404, "topic_not_found");
    assert_eq!(refused, "There is no topic 'shop.public' for clients");
    intake.close().await;
}

async fn a_stream_ends_although_its_plugin_is_not_served(host: &TestHost) {
    let root = host.superuser();
    let (jane, joe) = (host.user("jane@example.com").await, host.user("joe@example.com").await);
    // The subscription makes the release need the grant.
    let topics = json!([["members", {}, "authenticated"]]);
    let component = liar(json!({ "name": "shop", "topics": topics, "subscriptions": ["user.created"] }));
    root.deploy(&component.0, "grant=events").await.ok();
    let ends = open(&jane, &["shop.members"]).await;
    let mut stays = open(&joe, &["shop.members"]).await;
    root.delete("/plugins/shop/grants/events").await.ok();
    joe.get(&path(&["shop.members"])).await.has_code(503, "plugin_unavailable");
    jane.request(Method::POST, "/login/logout").send().await.ok();
    ends.ended().await;
    let intake = Intake::of(host).await;
    publish(&intake, &[("shop.members", 1)]).await;
    assert_eq!(stays.message().await.1, 1);
    intake.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_of_the_host_ends_its_streams_at_once() {
    let host = TestHost::sqlite(Setup::default().with(|config| config.server.shutdown_grace = NEVER)).await;
    deploy(&host).await;
    let client = host.anonymous();
    let streams = [open(&client, &["shop.public"]).await, open(&client.over_http2(), &["shop.public"]).await];
    host.app().shutdown().cancel();
    for stream in streams {
        stream.ended().await;
    }
    tokio::time::timeout(PATIENCE, host.stop()).await.expect("the host waits for streams");
}
