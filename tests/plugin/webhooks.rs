//! The plugins `items` and `webhooks` together, with a receiver of the test. The host knows nothing of either.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::polling::until;
use crate::support::postgres;
use crate::support::remote::{Remote, Reply};
use crate::support::secret_watch;
use crate::support::{Backend, Client, Component, Setup, TestHost, both};

both! {
    a_change_of_an_item_reaches_the_endpoint_of_its_owner => Setup::default().with_items(),
    a_receiver_that_fails_gets_the_message_later => Setup::default().with_items(),
    a_superuser_learns_that_a_user_was_deleted => Setup::default().with_items(),
    an_endpoint_elsewhere_gets_no_request => Setup::default().with_items(),
}

/// Deploys the plugin, which may reach this receiver only.
async fn deploy(host: &TestHost, receiver: &Remote) {
    let grants = format!(
        "grant=auth,config,jobs,sql,users&grant=events.hear=items.*&grant=http.hosts={}&grant=http.networks=127.0.0.1",
        receiver.origin()
    );
    let settings = json!({ "allow_http": true }).to_string();
    host.superuser().deploy_with_settings(&Component::webhooks().0, &grants, &settings).await.ok();
}

/// A registered endpoint.
struct Endpoint {
    id: String,
    secret: String,
}

async fn register(client: &Client, url: &str, topics: &[&str]) -> Endpoint {
    let response = client.post("/webhooks/", &json!({ "url": url, "topics": topics })).await;
    assert_eq!(response.status, 201, "{}", response.text());
    let created = response.json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    // It is in the database of the plugin, and in no log.
    secret_watch::remember(&text(&created["secret"]));
    Endpoint { id: text(&created["endpoint"]["id"]), secret: text(&created["secret"]) }
}

/// A message that the receiver got.
struct Message {
    id: String,
    body: Value,
}

/// Reads a request and checks its signature as a receiver does.
fn verified(request: &str, secret: &str) -> Message {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let header = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name}: {head}"))
    };
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    assert_eq!(header("webhook-signature"), expected);
    assert_eq!(header("content-type"), "application/json");
    Message { id: id.to_owned(), body: serde_json::from_str(body).unwrap() }
}

async fn newest_delivery(client: &Client, endpoint: &Endpoint) -> Value {
    client.get(&format!("/webhooks/{}/deliveries", endpoint.id)).await.ok()["data"][0].clone()
}

/// Waits until the newest delivery of an endpoint has this state, and returns it.
async fn until_state(client: &Client, endpoint: &Endpoint, state: &str) -> Value {
    until(state, async || Some(newest_delivery(client, endpoint).await).filter(|newest| newest["state"] == state)).await
}

async fn a_change_of_an_item_reaches_the_endpoint_of_its_owner(host: &TestHost) {
    let receiver = Remote::start(|_| Reply::of(200, "thanks")).await;
    deploy(host, &receiver).await;
    let (ann, ben) = (host.user("ann@example.com").await, host.user("ben@example.com").await);
    let topics = ["items.created", "items.updated", "items.deleted"];
    let endpoint = register(&ann, &receiver.url("/in"), &topics).await;
    ben.post("/items/", &json!({ "title": "Milk" })).await.ok();

    let item = ann.post("/items/", &json!({ "title": "Tea" })).await.ok();
    receiver.until_seen(1).await;
    let seen = receiver.seen();
    assert!(seen[0].starts_with("POST /in HTTP/1.1\r\n"), "{}", seen[0]);
    let message = verified(&seen[0], &endpoint.secret);
    assert_eq!(message.body["type"], "items.created");
    let data = json!({ "id": item["id"], "owner_id": item["owner_id"], "title": "Tea" });
    assert_eq!(message.body["data"], data);
    let delivery = until_state(&ann, &endpoint, "delivered").await;
    assert_eq!((&delivery["message_id"], &delivery["response_status"]), (&json!(message.id), &json!(200)));

    let path = format!("/items/{}", item["id"].as_str().unwrap());
    ann.put(&path, &json!({ "title": "Green tea" })).await.ok();
    ann.delete(&path).await.ok();
    receiver.until_seen(3).await;
    let messages: Vec<Message> = receiver.seen().iter().map(|request| verified(request, &endpoint.secret)).collect();
    let types: BTreeSet<&str> = messages.iter().map(|message| message.body["type"].as_str().unwrap()).collect();
    assert_eq!(types, BTreeSet::from(topics), "in any order");
    assert!(messages.iter().all(|message| message.body["data"]["owner_id"] == item["owner_id"]));
}

async fn a_receiver_that_fails_gets_the_message_later(host: &TestHost) {
    let fails = AtomicBool::new(true);
    let receiver = Remote::start(move |_| match fails.swap(false, Ordering::SeqCst) {
        true => Reply::Close(String::new()),
        false => Reply::of(200, ""),
    })
    .await;
    deploy(host, &receiver).await;
    let ann = host.user("ann@example.com").await;
    let endpoint = register(&ann, &receiver.url("/"), &["items.created"]).await;
    ann.post("/items/", &json!({ "title": "Tea" })).await.ok();
    receiver.until_seen(2).await;
    let messages = receiver.seen().iter().map(|request| verified(request, &endpoint.secret)).collect::<Vec<_>>();
    assert_eq!((&messages[0].id, &messages[0].body), (&messages[1].id, &messages[1].body));
    let delivery = until_state(&ann, &endpoint, "delivered").await;
    assert_eq!((&delivery["attempts"], &delivery["error"]), (&json!(2), &Value::Null));
    let shown = ann.get(&format!("/webhooks/{}", endpoint.id)).await.ok();
    assert_eq!((&shown["active"], &shown["failing_since"]), (&json!(true), &Value::Null));
}

async fn a_superuser_learns_that_a_user_was_deleted(host: &TestHost) {
    let receiver = Remote::start(|_| Reply::of(200, "")).await;
    deploy(host, &receiver).await;
    let ann = host.user("ann@example.com").await;
    let id = ann.get("/users/me").await.ok()["id"].clone();
    let topics = ["items.created", "user.deleted"];
    register(&ann, &receiver.url("/ann"), &topics).await;
    let endpoint = register(host.superuser(), &receiver.url("/root"), &topics).await;
    let path = format!("/users/{}", id.as_str().unwrap());
    host.superuser().delete(&path).await.ok();
    receiver.until_seen(1).await;
    let seen = receiver.seen();
    assert!(seen[0].starts_with("POST /root "), "{}", seen[0]);
    let message = verified(&seen[0], &endpoint.secret);
    assert_eq!((&message.body["type"], &message.body["data"]), (&json!("user.deleted"), &json!({ "id": id })));
}

async fn an_endpoint_elsewhere_gets_no_request(host: &TestHost) {
    let receiver = Remote::start(|_| Reply::of(200, "")).await;
    let other = Remote::start(|_| Reply::of(200, "")).await;
    deploy(host, &receiver).await;
    let ann = host.user("ann@example.com").await;
    let endpoint = register(&ann, &other.url("/"), &["items.created"]).await;
    let ping = ann.request(Method::POST, &format!("/webhooks/{}/test", endpoint.id)).send().await;
    assert_eq!((ping.status, &ping.json()["topic"]), (202, &json!("webhooks.ping")));
    let delivery = until("a failure", async || {
        Some(newest_delivery(&ann, &endpoint).await).filter(|newest| newest["attempts"] != 0)
    })
    .await;
    assert_eq!(delivery["error"], "The operator does not allow requests to this server");
    assert_eq!(other.accepted(), 0);
}

/// On SQLite there is one writer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_is_being_stored_survives_the_deletion_of_another_endpoint() {
    const STORE: &str = "INSERT INTO delivery (id, message_id, endpoint_id, state, attempts, created_at) \
        SELECT '00000000-0000-4000-8000-000000000001', message_id, $1, 'delivered', 1, created_at \
        FROM delivery WHERE endpoint_id = $2";
    let Some(host) = TestHost::start(Backend::Postgres, Setup::default().with_items()).await else { return };
    let receiver = Remote::start(|_| Reply::of(200, "")).await;
    deploy(&host, &receiver).await;
    let ann = host.user("ann@example.com").await;
    let deleted = register(&ann, &receiver.url("/deleted"), &["items.created"]).await;
    let kept = register(&ann, &receiver.url("/kept"), &["items.deleted"]).await;
    ann.post("/items/", &json!({ "title": "Tea" })).await.ok();
    let message = until_state(&ann, &deleted, "delivered").await["message_id"].clone();

    // As the plugin does it with the next receivers of an event.
    let mut storing = postgres::connect(host.database().unwrap()).await;
    for sql in ["SET search_path TO plugin_webhooks", "BEGIN"] {
        sqlx::query(sql).execute(&mut storing).await.unwrap();
    }
    sqlx::query(STORE).bind(&kept.id).bind(&deleted.id).execute(&mut storing).await.unwrap();
    let deletion = {
        let (ann, path) = (ann.clone(), format!("/webhooks/{}", deleted.id));
        tokio::spawn(async move { ann.delete(&path).await })
    };
    until("the deletion to wait", async || {
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid)))";
        sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut storing).await.unwrap().then_some(())
    })
    .await;
    sqlx::query("COMMIT").execute(&mut storing).await.unwrap();
    assert_eq!(deletion.await.unwrap().status, 204);
    assert_eq!(newest_delivery(&ann, &kept).await["message_id"], message);
}
