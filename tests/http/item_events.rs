//! Events of items, as clients receive them: each user those of their own items.

use reqwest::Method;
use serde_json::{Value, json};

use super::text;
use crate::support::event_source::EventSource;
use crate::support::{Client, TestHost, both};

both! {
    an_owner_hears_of_their_own_items_only => Setup::default().with_items(),
    a_client_that_comes_back_has_missed_no_item => Setup::default().with_items(),
    a_stream_of_items_ends_when_the_plugin_is_removed => Setup::default().with_items(),
}

const ALL: &str = "/events?topic=items.created&topic=items.updated&topic=items.deleted";
const CREATED: &str = "/events?topic=items.created";

async fn open(client: &Client, path: &str) -> EventSource {
    EventSource::open(client.request(Method::GET, path)).await
}

async fn create_item(client: &Client, title: &str) -> Value {
    client.post("/items/", &json!({ "title": title })).await.ok()
}

/// Expects the next event, which must be about this item and have this payload.
async fn expect(stream: &mut EventSource, topic: &str, item: &Value, payload: &Value) {
    let data = stream.event().await.expect("the stream ended").data.unwrap();
    assert_eq!((text(&data, "topic"), text(&data, "key")), (topic, text(item, "id")));
    assert_eq!(&data["payload"], payload);
}

async fn an_owner_hears_of_their_own_items_only(host: &TestHost) {
    let (ann, bob) = (host.user("ann@example.com").await, host.user("bob@example.com").await);
    let mut streams = [open(&ann, ALL).await, open(host.superuser(), ALL).await];
    let mut other = open(&bob, ALL).await;
    let item = create_item(&ann, "Tea").await;
    let path = format!("/items/{}", text(&item, "id"));
    // Refused, so nothing happened.
    bob.put(&path, &json!({ "title": "Mine" })).await.has_code(403, "not_enough_permissions");
    host.superuser().put(&path, &json!({ "title": "Coffee" })).await.ok();
    ann.delete(&path).await.has_message("Item deleted successfully");
    let titled = |title: &str| json!({ "id": item["id"], "owner_id": item["owner_id"], "title": title });
    for stream in &mut streams {
        expect(stream, "items.created", &item, &titled("Tea")).await;
        expect(stream, "items.updated", &item, &titled("Coffee")).await;
        let deleted = json!({ "id": item["id"], "owner_id": item["owner_id"] });
        expect(stream, "items.deleted", &item, &deleted).await;
    }
    // The first event of another user is that of their own item.
    let own = create_item(&bob, "Milk").await;
    let payload = json!({ "id": own["id"], "owner_id": own["owner_id"], "title": "Milk" });
    expect(&mut other, "items.created", &own, &payload).await;

    let refused = host.anonymous().get(CREATED).await;
    refused.is_problem(401, "not_authenticated", "Not authenticated (topic 'items.created')");
    let unknown = ann.get("/events?topic=items.sold").await.has_code(404, "topic_not_found");
    assert_eq!(unknown, "There is no topic 'items.sold' for clients");
}

async fn a_client_that_comes_back_has_missed_no_item(host: &TestHost) {
    let (ann, bob) = (host.user("ann@example.com").await, host.user("bob@example.com").await);
    let mut stream = open(&ann, CREATED).await;
    create_item(&ann, "0").await;
    let mut latest = stream.event().await.unwrap().id.unwrap();
    drop(stream);
    let mut next = 1;
    for missed in [0, 1, 5] {
        for number in next..next + missed {
            create_item(&bob, "other").await;
            create_item(&ann, &number.to_string()).await;
        }
        let request = ann.request(Method::GET, CREATED).header("last-event-id", &latest.to_string());
        let mut stream = EventSource::open(request).await;
        create_item(&ann, &(next + missed).to_string()).await;
        for number in next..=next + missed {
            let event = stream.event().await.unwrap();
            assert_eq!(event.data.unwrap()["payload"]["title"], number.to_string());
            latest = event.id.unwrap();
        }
        next += missed + 1;
    }
}

async fn a_stream_of_items_ends_when_the_plugin_is_removed(host: &TestHost) {
    let stream = open(host.superuser(), CREATED).await;
    host.superuser().delete("/plugins/items").await.ok();
    stream.ended().await;
    let gone = host.superuser().get(CREATED).await.has_code(404, "topic_not_found");
    assert_eq!(gone, "There is no topic 'items.created' for clients");
}
