//! Streams of events: their access, their order and their resumption.

mod bounds;
mod ends;

use reqwest::Method;
use serde_json::{Value, json};

use super::metrics::samples;
use super::{PRIVILEGES, invalid_token, members, text};
use crate::plugin::liar;
use crate::support::event_source::EventSource;
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::intake::Intake;
use crate::support::polling::until;
use crate::support::{Client, Request, Setup, TestHost, both};

both! {
    a_client_gets_the_events_of_the_topics_that_it_may_read,
    a_stream_goes_on_after_the_event_that_the_client_names,
    a_client_gets_everything_that_it_missed_once_and_in_order,
    a_client_that_missed_deleted_events_is_told,
    an_event_for_one_account_reaches_its_clients_and_superusers,
    an_event_for_one_account_reaches_no_key_that_may_not_call_plugins,
    a_burst_reaches_every_client_whole_and_in_order,
}

/// Deploys a plugin with a topic of each access.
async fn deploy(host: &TestHost) {
    let component = liar(json!({
        "name": "shop",
        "permissions": [["look", "Look"]],
        "topics": [
            ["public", {}, "public"],
            ["members", {}, "authenticated"],
            ["looks", {}, "look"],
            ["root", {}, "superuser"],
            ["silent", {}, null],
        ],
    }));
    host.superuser().deploy(&component.0, "grant=events").await.ok();
}

fn path(topics: &[&str]) -> String {
    format!("/events?topic={}", topics.join("&topic="))
}

fn request(client: &Client, topics: &[&str]) -> Request {
    client.request(Method::GET, &path(topics))
}

async fn open(client: &Client, topics: &[&str]) -> EventSource {
    EventSource::open(request(client, topics)).await
}

async fn id_of(client: &Client) -> String {
    text(&client.get("/users/me").await.ok(), "id").to_owned()
}

/// Gives an account of its own the permission of the topic `shop.looks`.
async fn looker(host: &TestHost, email: &str) -> Client {
    let role = json!({ "name": "looker", "permissions": ["shop:look"] });
    host.superuser().post("/roles/", &role).await.ok();
    let client = host.user(email).await;
    let path = format!("/users/{}/roles", id_of(&client).await);
    host.superuser().put(&path, &json!({ "roles": ["looker"] })).await.ok();
    client
}

/// Publishes numbered events on topics of the shop.
async fn publish(intake: &Intake, events: &[(&str, u32)]) {
    let events: Vec<_> = events.iter().map(|(topic, number)| (*topic, number.to_string(), None)).collect();
    intake.announce("shop", &events).await;
}

/// Returns the payloads of the next events.
async fn payloads(stream: &mut EventSource, count: usize) -> Vec<Value> {
    let mut payloads = Vec::new();
    for _ in 0..count {
        payloads.push(stream.message().await.1);
    }
    payloads
}

async fn sample(host: &TestHost, name: &str) -> f64 {
    samples(host.superuser()).await.into_iter().find(|(sample, _)| sample == name).unwrap().1
}

/// Waits until this number of streams is open.
async fn streams_are(host: &TestHost, count: f64) {
    let is_so = async || (sample(host, "wharf_event_streams").await == count).then_some(());
    until("the other streams to end", is_so).await;
}

async fn a_client_gets_the_events_of_the_topics_that_it_may_read(host: &TestHost) {
    deploy(host).await;
    let (root, anonymous) = (host.superuser(), host.anonymous());
    let (jane, joe) = (host.user("jane@example.com").await, looker(host, "joe@example.com").await);
    let key = root.post("/users/me/keys", &json!({ "name": "k", "permissions": ["users:read"] })).await.ok();
    let key = anonymous.with_token(text(&key, "key"));

    // A stream can have many topics, so a refusal names the one that it is about.
    for topic in ["shop.members", "shop.looks", "shop.root", "user.deleted"] {
        let refused = anonymous.get(&path(&["shop.public", topic])).await;
        refused.is_problem(401, "not_authenticated", &format!("Not authenticated (topic '{topic}')"));
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        invalid_token(&anonymous.with_token("forged").get(&path(&["shop.public", topic])).await);
    }
    for topic in ["shop.looks", "shop.root", "user.created", "session.revoked", "release.activated"] {
        let refused = jane.get(&path(&["shop.public", topic])).await;
        refused.is_problem(403, "forbidden", &format!("{PRIVILEGES} (topic '{topic}')"));
        let lacked = (topic == "shop.looks").then_some("shop:look");
        assert_eq!(refused.problem()["permission"].as_str(), lacked);
    }
    // A key for something else acts for nobody at a plugin.
    key.get(&path(&["shop.members"])).await.has_code(403, "forbidden");
    for topic in ["shop.silent", "shop.unknown", "nobody.knows", "user.born"] {
        let reason = root.get(&path(&[topic])).await.has_code(404, "topic_not_found");
        assert_eq!(reason, format!("There is no topic '{topic}' for clients"));
    }

    let mut all = open(root, &["shop.public", "shop.members", "shop.looks", "shop.root"]).await;
    let mut public = open(&anonymous, &["shop.public"]).await;
    let mut member = open(&jane, &["shop.members", "shop.public", "shop.public"]).await;
    let mut looks = open(&joe, &["shop.looks"]).await;
    let intake = Intake::of(host).await;
    publish(&intake, &[("shop.public", 1), ("shop.silent", 2), ("shop.members", 3)]).await;
    publish(&intake, &[("shop.looks", 4), ("shop.root", 5)]).await;
    assert_eq!(payloads(&mut all, 4).await, [1, 3, 4, 5]);
    assert_eq!(payloads(&mut member, 2).await, [1, 3]);
    assert_eq!(looks.message().await, ("shop.looks".to_owned(), json!(4)));
    let event = public.event().await.unwrap();
    let data = event.data.unwrap();
    assert_eq!(members(&data), ["id", "topic", "key", "payload", "published_at"]);
    assert_eq!((text(&data, "topic"), &data["key"], &data["payload"]), ("shop.public", &Value::Null, &json!(1)));
    assert_eq!(text(&data, "published_at"), "2096-10-02T07:06:40Z");
    assert!(text(&data, "id").parse::<uuid::Uuid>().is_ok() && event.id.unwrap() > 0);
    // Every client got all that it may get, and nothing else.
    publish(&intake, &[("shop.public", 6)]).await;
    assert_eq!(
        (public.message().await.1, member.message().await.1, all.message().await.1),
        (json!(6), json!(6), json!(6))
    );
    intake.close().await;
}

async fn a_stream_goes_on_after_the_event_that_the_client_names(host: &TestHost) {
    deploy(host).await;
    let intake = Intake::of(host).await;
    let client = host.anonymous();
    let mut stream = open(&client, &["shop.public"]).await;
    publish(&intake, &[("shop.public", 1), ("shop.members", 2), ("shop.public", 3)]).await;
    let first = stream.event().await.unwrap().id.unwrap();
    let third = stream.event().await.unwrap().id.unwrap();
    assert!(third > first);
    drop(stream);
    publish(&intake, &[("shop.public", 4)]).await;

    let resumed = |header: Option<i64>, query: Option<i64>| {
        let query = query.map(|id| format!("&last_event_id={id}")).unwrap_or_default();
        let request = client.request(Method::GET, &format!("{}{query}", path(&["shop.public"])));
        match header {
            Some(id) => request.header("last-event-id", &id.to_string()),
            None => request,
        }
    };
    let mut by_header = EventSource::open(resumed(Some(first), None)).await;
    assert_eq!(payloads(&mut by_header, 2).await, [3, 4]);
    let mut by_query = EventSource::open(resumed(None, Some(third))).await;
    assert_eq!(by_query.message().await.1, 4);
    // The browser knows a newer event than the page that it comes from.
    let mut by_both = EventSource::open(resumed(Some(third), Some(first))).await;
    assert_eq!(by_both.message().await.1, 4);
    let mut fresh = EventSource::open(resumed(None, None)).await;
    publish(&intake, &[("shop.public", 5), ("shop.members", 6)]).await;
    for stream in [&mut by_header, &mut by_query, &mut by_both, &mut fresh] {
        let fifth = stream.event().await.unwrap();
        assert_eq!(fifth.data.unwrap()["payload"], 5);
        // Events of other topics are not read again after the next resumption.
        let later = loop {
            let comment = stream.block().await.unwrap();
            assert_eq!(comment.data, None);
            if comment.id.is_some() {
                break comment.id;
            }
        };
        assert!(later > fifth.id, "{later:?}");
        assert_eq!(stream.block().await.unwrap().id, None, "nothing is newer");
    }
    for id in ["x", "-1", "1.5"] {
        let request = resumed(None, None).header("last-event-id", id);
        request.send().await.has_findings(&["header.last-event-id value_error: …"]);
    }
    client.get("/events?topic=shop.public&last_event_id=-1").await.has_findings(&["query.last_event_id greater_…"]);
    intake.close().await;
}

async fn a_client_gets_everything_that_it_missed_once_and_in_order(host: &TestHost) {
    // More than the host reads at once.
    const COUNT: u32 = 100;
    deploy(host).await;
    let intake = Intake::of(host).await;
    let client = host.anonymous();
    let mut stream = open(&client, &["shop.public"]).await;
    publish(&intake, &[("shop.public", 0)]).await;
    let mut latest = stream.event().await.unwrap().id.unwrap();
    drop(stream);
    let missed: Vec<_> = (1..=COUNT).flat_map(|number| [("shop.public", number), ("shop.members", 0)]).collect();
    publish(&intake, &missed).await;
    // The connection is lost again and again.
    for numbers in [1..=1, 2..=40, 41..=COUNT] {
        let request = request(&client, &["shop.public"]).header("last-event-id", &latest.to_string());
        let mut stream = EventSource::open(request).await;
        for number in numbers {
            let event = stream.event().await.unwrap();
            assert_eq!(event.data.unwrap()["payload"], number);
            latest = event.id.unwrap();
        }
    }
    intake.close().await;
}

async fn a_client_that_missed_deleted_events_is_told(host: &TestHost) {
    deploy(host).await;
    let intake = Intake::of(host).await;
    let mut stream = open(host.superuser(), &["shop.public"]).await;
    publish(&intake, &[("shop.public", 1), ("shop.public", 2), ("shop.public", 3)]).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(stream.event().await.unwrap().id.unwrap());
    }
    intake.execute(&format!("DELETE FROM events WHERE seq <= {}", ids[1])).await;
    intake.execute(&format!("UPDATE event_horizon SET seq = {}", ids[1])).await;
    let resume = async |id: i64| {
        let request = request(host.superuser(), &["shop.public"]).header("last-event-id", &id.to_string());
        EventSource::open(request).await
    };
    // Before the horizon, and an id of another database.
    for id in [0, ids[0], ids[2] + 1_000_000] {
        let mut told = resume(id).await;
        let reset = told.event().await.unwrap();
        assert_eq!((reset.kind.as_deref(), reset.data), (Some("reset"), Some(json!({}))));
        assert_eq!(reset.id, Some(ids[2]), "it goes on with the next event");
    }
    let mut whole = resume(ids[1]).await;
    assert_eq!(whole.message().await.1, 3);
    let mut told = resume(ids[0]).await;
    told.event().await.unwrap();
    publish(&intake, &[("shop.public", 4)]).await;
    assert_eq!((told.message().await.1, whole.message().await.1), (json!(4), json!(4)));
    intake.close().await;
}

async fn an_event_for_one_account_reaches_its_clients_and_superusers(host: &TestHost) {
    deploy(host).await;
    let (jane, joe) = (host.user("jane@example.com").await, host.user("joe@example.com").await);
    let key = json!({ "name": "k", "permissions": ["routes:call"] });
    // An account without roles of its own has no such permission.
    host.superuser().post("/roles/", &json!({ "name": "machines", "permissions": ["routes:call"] })).await.ok();
    let jane_id = id_of(&jane).await;
    host.superuser().put(&format!("/users/{jane_id}/roles"), &json!({ "roles": ["machines"] })).await.ok();
    let key = text(&jane.post("/users/me/keys", &key).await.ok(), "key").to_owned();
    let key = host.anonymous().with_token(key);
    let topics = ["shop.public", "shop.members"];
    let mut hers = [open(&jane, &topics).await, open(&key, &topics).await, open(host.superuser(), &topics).await];
    let mut others = [open(&joe, &topics).await, open(&host.anonymous(), &["shop.public"]).await];
    let intake = Intake::of(host).await;
    intake
        .announce(
            "shop",
            &[
                ("shop.public", "1".to_owned(), Some(jane_id.as_str())),
                ("shop.members", "2".to_owned(), Some(jane_id.as_str())),
                ("shop.public", "3".to_owned(), None),
            ],
        )
        .await;
    for stream in &mut hers {
        assert_eq!(payloads(stream, 3).await, [1, 2, 3]);
    }
    for stream in &mut others {
        assert_eq!(payloads(stream, 1).await, [3]);
    }
    intake.close().await;
}

async fn an_event_for_one_account_reaches_no_key_that_may_not_call_plugins(host: &TestHost) {
    deploy(host).await;
    let jane = looker(host, "jane@example.com").await;
    let jane_id = id_of(&jane).await;
    let key = json!({ "name": "k", "permissions": ["shop:look"] });
    let key = host.anonymous().with_token(text(&jane.post("/users/me/keys", &key).await.ok(), "key"));
    // A topic that admits the key does not make its owner known to a public one.
    let topics = ["shop.public", "shop.looks"];
    let mut streams = [open(&jane, &topics).await, open(&key, &topics).await];
    let intake = Intake::of(host).await;
    let to_jane = Some(jane_id.as_str());
    let events = [("shop.public", "1".to_owned(), to_jane), ("shop.looks", "2".to_owned(), to_jane)];
    intake.announce("shop", &events).await;
    let [hers, its] = &mut streams;
    assert_eq!(payloads(hers, 2).await, [1, 2]);
    assert_eq!(payloads(its, 1).await, [2]);
    intake.close().await;
}

async fn a_burst_reaches_every_client_whole_and_in_order(host: &TestHost) {
    const COUNT: u32 = 1_000;
    deploy(host).await;
    let client = host.anonymous();
    let mut streams = Vec::new();
    for client in [&client, &client.over_http2(), host.superuser()] {
        streams.push(open(client, &["shop.public"]).await);
    }
    let intake = Intake::of(host).await;
    let event = |number: u32| ("shop.public", json!({ "number": number, "text": "x".repeat(2_000) }).to_string(), None);
    let all: Vec<_> = (0..COUNT).map(event).collect();
    let (first, second) = all.split_at(300);
    intake.announce("shop", first).await;
    intake.announce("shop", second).await;
    for stream in &mut streams {
        for number in 0..COUNT {
            assert_eq!(stream.message().await.1["number"], number);
        }
    }
    intake.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_a_response_that_nobody_stores_or_changes() {
    let host = TestHost::sqlite(Setup::default()).await;
    deploy(&host).await;
    let client = host.anonymous();
    let request =
        |method: Method| client.request(method, &path(&["shop.public"])).header("accept-encoding", "gzip, br");
    let head = request(Method::HEAD).send().await;
    let get = request(Method::GET).header("origin", "https://shop.example").open().await;
    assert_eq!((head.status, get.status().as_u16(), head.bytes.len()), (200, 200, 0));
    for headers in [&head.headers, get.headers()] {
        assert_eq!(headers["content-type"], "text/event-stream");
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers["x-accel-buffering"], "no");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["cross-origin-resource-policy"], "same-origin");
        assert!(!headers.contains_key("content-encoding") && !headers.contains_key("content-length"));
    }
    assert_eq!(get.headers()["access-control-allow-origin"], "https://shop.example");
    let refused = request(Method::POST).send().await;
    refused.has_code(405, "method_not_allowed");
    let mut allowed: Vec<&str> = refused.header("allow").unwrap().split(", ").collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD"]);
    client.get("/events").await.has_findings(&["query.topic missing: Field required"]);
    client.get("/events?topic=Shop").await.has_findings(&["query.topic.0 string_pattern_mismatch: …"]);
    let many: Vec<String> = (0..33).map(|number| format!("shop.a{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    client.get(&path(&many)).await.has_findings(&["query.topic too_long: …"]);

    // A browser sends the cookie of the session with every stream that it opens.
    let form = [("username", SUPERUSER), ("password", PASSWORD)];
    let sign_in =
        client.request(Method::POST, "/login/access-token?cookie=true").header("origin", "https://shop.example");
    let signed_in = sign_in.form(&form).send().await;
    let cookie = signed_in.header("set-cookie").unwrap().split(';').next().unwrap();
    let with_cookie = client.request(Method::GET, &path(&["shop.root"])).header("cookie", cookie);
    EventSource::open(with_cookie).await;
    drop(get);
    streams_are(&host, 0.0).await;
    host.stop().await;
}
