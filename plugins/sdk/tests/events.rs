//! Topics and subscriptions, tested through the stand-in for the host.

use serde::{Deserialize, Serialize};
use std::time::Duration;
use wharf_sdk::events::{self, UserDeleted};
use wharf_sdk::prelude::*;
use wharf_sdk::serde_json::{Value, json};
use wharf_sdk::sql;
use wharf_sdk::testing::{TestPlugin, describe, user};

plugin! {
    name: "shop",
    summary: "Sells things",
    permissions: { "read-all": "See all orders" },
    routes: [order, unlisted, long_key],
    topics: [Ordered, Counted],
    subscriptions: [on_ordered, on_counted, on_user_deleted, on_paid],
}

/// An order was placed.
///
/// By a customer.
#[topic("ordered", access = permission("read-all"))]
#[derive(Serialize, Deserialize, JsonSchema)]
struct Ordered {
    #[schemars(length(min = 1))]
    title: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[topic("counted")]
struct Counted(u32);

#[topic("unlisted")]
#[derive(Serialize, JsonSchema)]
struct Unlisted;

#[derive(Deserialize, JsonSchema)]
struct Order {
    title: String,
    then_fails: bool,
}

#[post("/")]
fn order(caller: Caller, Json(order): Json<Order>) -> Result<Json<Uuid>> {
    sql::transaction(|_| {
        let id = events::event(&Ordered { title: order.title.clone(), comment: None })
            .key(caller.id)
            .audience(caller.id)
            .publish()?;
        match order.then_fails {
            true => Err(Problem::conflict("sold_out", "Sold out")),
            false => Ok(Json(id)),
        }
    })
}

#[post("/unlisted")]
fn unlisted() -> Result<()> {
    events::publish(&Unlisted)?;
    Ok(())
}

#[post("/long-key")]
fn long_key() -> Result<(), events::Error> {
    events::event(&Counted(1)).key("k".repeat(201)).publish().map(|_| ())
}

/// Fails at the first attempt of each order of tea, and reports its request and its audience.
#[subscribe("shop.ordered", retries = 1, backoff = "2s")]
fn on_ordered(event: Event<Ordered>) -> Result<(), TaskError> {
    match (event.payload.title.as_str(), event.attempt) {
        ("tea", 1) => Err(TaskError::retry("there is no tea")),
        ("coffee", _) => Err(TaskError::retry("there is no coffee")),
        _ => {
            let (request, audience) = (event.request_id.unwrap_or_default(), event.audience.unwrap_or_default());
            wharf_sdk::log::info(&event.payload.title, &[("request", &request), ("audience", &audience)]);
            Ok(())
        }
    }
}

/// Publishes the next number, without an end.
#[subscribe("shop.counted")]
fn on_counted(event: Event<Counted>) -> Result<()> {
    events::publish(&Counted(event.payload.0 + 1))?;
    Ok(())
}

#[subscribe("user.deleted")]
fn on_user_deleted(event: Event<UserDeleted>) {
    wharf_sdk::log::info("deleted", &[("id", &event.payload.id), ("event", &event.id)]);
}

#[derive(Deserialize)]
struct Paid {
    order: u32,
}

#[subscribe("bank.paid")]
fn on_paid(event: Event<Paid>) -> Result<(), TaskError> {
    match event.payload.order {
        0 => Err(TaskError::reject("no order has this number")),
        _ => Err(Problem::new(503, "closed", "Closed").into()),
    }
}

fn place(plugin: &TestPlugin, title: &str, then_fails: bool) -> u16 {
    let body = json!({ "title": title, "then_fails": then_fails });
    plugin.post("/").by(&user("alice@example.com")).json(body).send().status()
}

fn ordered(plugin: &TestPlugin, caller: &Caller, title: &str) {
    let body = json!({ "title": title, "then_fails": false });
    plugin.post("/").by(caller).json(body).send().json();
}

#[test]
fn an_event_belongs_to_the_open_transaction() {
    let plugin = TestPlugin::new(&PLUGIN);
    assert_eq!(place(&plugin, "milk", true), 409);
    assert!(plugin.events().is_empty());
    assert!(plugin.run_due().is_empty());

    let alice = user("alice@example.com");
    let body = json!({ "title": "milk", "then_fails": false });
    let id = plugin.post("/").by(&alice).json(body).send().json();
    let events = plugin.events();
    assert_eq!(events.len(), 1);
    assert_eq!((json!(events[0].id), events[0].topic.as_str()), (id, "ordered"));
    assert_eq!((&events[0].key, events[0].audience), (&Some(alice.id.to_string()), Some(alice.id)));
    assert_eq!(events[0].payload, json!({ "title": "milk" }));
}

#[test]
fn an_event_must_fit_the_declared_topic() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = user("alice@example.com");
    assert_eq!(place(&plugin, "", false), 500);
    let message = &plugin.log()[0].message;
    assert!(message.contains("events: the payload does not fit its schema"), "{message}");
    assert_eq!(plugin.post("/unlisted").by(&alice).send().problem().code(), "plugin_error");
    let message = &plugin.log()[1].message;
    assert!(message.contains("`topics: […]` does not list the topic `unlisted`"), "{message}");
    assert_eq!(plugin.post("/long-key").by(&alice).send().status(), 500);
    let refused = plugin.run(|| events::event(&Counted(1)).key("a\0").publish());
    assert!(matches!(refused, Err(events::Error::Invalid(reason)) if reason.contains("U+0000")));
    let large = Ordered { title: "x".repeat(256 * 1024), comment: None };
    let refused = plugin.run(|| events::publish(&large));
    assert_eq!(refused, Err(events::Error::Limit("payload: 262144".to_owned())));
    assert!(plugin.events().is_empty());
}

#[test]
fn own_events_are_delivered_when_the_test_runs_what_is_due() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = user("alice@example.com");
    ordered(&plugin, &alice, "milk");
    assert!(plugin.log().is_empty());
    let attempts = plugin.run_due();
    assert_eq!((attempts[0].name.as_str(), attempts[0].number, &attempts[0].result), ("shop.ordered", 1, &Ok(None)));
    let entry = &plugin.log()[0];
    assert_eq!(entry.message, "milk");
    assert!(!entry.fields[0].1.is_empty(), "the id of the request");
    assert_eq!(entry.fields[1].1, alice.id.to_string());
    assert!(plugin.run_due().is_empty());
}

#[test]
fn deliveries_with_one_key_keep_their_order() {
    let plugin = TestPlugin::new(&PLUGIN);
    let (alice, bob) = (user("alice@example.com"), user("bob@example.com"));
    for (caller, title) in [(&alice, "tea"), (&alice, "milk"), (&bob, "sugar")] {
        ordered(&plugin, caller, title);
    }
    let done = |plugin: &TestPlugin| plugin.log().into_iter().map(|entry| entry.message).collect::<Vec<_>>();
    assert_eq!(plugin.run_due().len(), 2);
    assert_eq!(done(&plugin), ["sugar"]);
    plugin.advance(Duration::from_secs(1));
    assert!(plugin.run_due().is_empty(), "the wait is not over");
    plugin.advance(Duration::from_secs(1));
    assert_eq!(plugin.run_due().len(), 2);
    assert_eq!(done(&plugin), ["sugar", "tea", "milk"]);
    assert!(plugin.dead_letters().is_empty());
}

#[test]
fn a_delivery_that_keeps_failing_becomes_a_dead_letter_and_the_next_one_follows() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = user("alice@example.com");
    ordered(&plugin, &alice, "coffee");
    ordered(&plugin, &alice, "milk");
    plugin.run_due();
    plugin.advance(Duration::from_secs(2));
    let results: Vec<_> =
        plugin.run_due().into_iter().map(|attempt| (attempt.number, attempt.result.is_ok())).collect();
    assert_eq!(results, [(2, false), (1, true)]);
    let dead = plugin.dead_letters();
    assert_eq!((dead.len(), dead[0].name.as_str(), dead[0].reason.as_str()), (1, "shop.ordered", "there is no coffee"));
}

#[test]
fn an_endless_chain_of_events_ends_at_the_depth_of_the_host() {
    let plugin = TestPlugin::new(&PLUGIN);
    plugin.run(|| events::publish(&Counted(0))).unwrap();
    let attempts = plugin.run_due();
    assert_eq!(attempts.len(), 17);
    assert!(attempts[15].result.is_ok());
    assert!(attempts[16].result.as_ref().is_err_and(|error| error.to_string().contains("events_limit")));
}

#[test]
fn an_event_of_the_host_or_of_another_plugin_is_delivered_by_the_test() {
    let plugin = TestPlugin::new(&PLUGIN);
    let (id, event) = (Uuid::new_v4(), Uuid::new_v4());
    plugin.deliver_as(event, "user.deleted", UserDeleted { id }).unwrap();
    let fields = [("id".to_owned(), id.to_string()), ("event".to_owned(), event.to_string())];
    assert_eq!(plugin.log()[0].fields, fields);

    let paid = |order: i64| plugin.deliver("bank.paid", json!({ "order": order })).unwrap_err();
    assert_eq!(paid(0), TaskError::Reject("no order has this number".to_owned()));
    assert_eq!(paid(1), TaskError::Retry("503 closed: Closed".to_owned()));
    assert!(matches!(paid(-1), TaskError::Reject(reason) if reason.contains("the payload does not fit")));
}

#[test]
fn a_test_can_deliver_an_event_with_an_audience() {
    let plugin = TestPlugin::new(&PLUGIN);
    let audience = Uuid::new_v4();
    let event = Event {
        id: Uuid::new_v4(),
        topic: "shop.ordered".to_owned(),
        key: None,
        audience: Some(audience),
        payload: json!({ "title": "tea" }),
        published_at: plugin.run(Timestamp::now),
        attempt: 2,
        request_id: Some("r1".to_owned()),
    };
    plugin.deliver_event(event).unwrap();
    let fields = [("request".to_owned(), "r1".to_owned()), ("audience".to_owned(), audience.to_string())];
    assert_eq!(plugin.log()[0].fields, fields);
}

#[test]
#[should_panic(expected = "the plugin does not subscribe to `user.created`")]
fn an_event_without_a_subscription_cannot_be_delivered() {
    let _ = TestPlugin::new(&PLUGIN).deliver("user.created", json!({}));
}

#[test]
fn topics_and_subscriptions_are_described() {
    let described = describe(&PLUGIN);
    assert_eq!(described["subscriptions"], json!(["shop.ordered", "shop.counted", "user.deleted", "bank.paid"]));
    assert_eq!(described["topics"][1]["name"], "counted");
    let schema = &described["topics"][0]["schema"];
    assert_eq!((&schema["required"], &schema["properties"]["title"]["minLength"]), (&json!(["title"]), &json!(1)));
    let [first, second] = PLUGIN.topics else { panic!("{:?}", PLUGIN.topics) };
    assert_eq!((first.summary, second.summary), ("An order was placed.", "Counted"));
    assert_eq!(second.access, None);
    assert_eq!(described["jobs"], Value::Array(Vec::new()));
}
