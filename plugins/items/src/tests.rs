//! The contract of `/items`, rule by rule, tested with the SDK's stand-in for the host.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crate::PLUGIN;
use wharf_sdk::Caller;
use wharf_sdk::events::{UserCreated, UserDeleted};
use wharf_sdk::serde_json::{Value, json};
use wharf_sdk::testing::{TestEvent, TestPlugin, TestResponse, superuser, user};

fn create(plugin: &TestPlugin, caller: &Caller, title: &str) -> Value {
    let response = plugin.post("/").by(caller).json(json!({ "title": title })).send();
    assert_eq!(response.status(), 200);
    response.json()
}

fn path(item: &Value) -> String {
    format!("/{}", item["id"].as_str().unwrap())
}

fn titles(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|item| item["title"].as_str().unwrap()).collect()
}

#[track_caller]
fn assert_problem(response: &TestResponse, status: u16, code: &str, detail: &str) {
    let problem = response.problem();
    assert_eq!((problem.status(), problem.code(), problem.detail()), (status, code, detail));
}

#[test]
fn a_created_item_belongs_to_its_creator_and_has_the_shape_of_the_contract() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = user("alice@example.com");
    let body = json!({ "title": "Tea", "id": "x", "owner_id": "y", "created_at": "z", "other": 1 });
    let response = plugin.post("/").by(&alice).json(body).send();

    assert_eq!((response.status(), response.header("content-type")), (200, Some("application/json")));
    let item = response.json();
    let members: Vec<&String> = item.as_object().unwrap().keys().collect();
    assert_eq!(members, ["title", "description", "id", "owner_id", "created_at"]);
    assert_eq!((&item["title"], &item["description"]), (&json!("Tea"), &Value::Null));
    assert_eq!(item["owner_id"], json!(alice.id));
    let created_at = item["created_at"].as_str().unwrap();
    assert_eq!((created_at.len(), created_at.ends_with('Z')), (27, true));
    assert!(!response.text().contains(": "), "compact");
    assert_eq!(plugin.get(&path(&item)).by(&alice).send().json(), item);
}

#[test]
fn titles_have_1_to_255_characters_and_descriptions_up_to_255() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = user("alice@example.com");
    let status = |body: Value| plugin.post("/").by(&alice).json(body).send().status();

    assert_eq!(status(json!({ "title": "🦀".repeat(255), "description": "é".repeat(255) })), 200);
    assert_eq!(status(json!({ "title": "a", "description": null })), 200);
    assert_eq!(status(json!({ "title": "" })), 422);
    assert_eq!(status(json!({ "title": "a".repeat(256) })), 422);
    assert_eq!(status(json!({ "title": "a", "description": "a".repeat(256) })), 422);
    assert_eq!(status(json!({ "title": 1 })), 422);
    assert_eq!(status(json!({ "title": null })), 422);
    assert_eq!(status(json!({})), 422);
    assert_eq!(status(json!(null)), 422);
    assert_eq!(status(json!([])), 422);
}

#[test]
fn the_last_of_a_repeated_member_counts() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = user("alice@example.com");
    let item = plugin.post("/").by(&alice).body(r#"{"title":"first","title":"last"}"#).send().json();
    assert_eq!(item["title"], "last");
}

#[test]
fn a_list_has_the_callers_own_items_newest_first() {
    let plugin = TestPlugin::new(&PLUGIN);
    let (alice, bob) = (user("alice@example.com"), user("bob@example.com"));
    for title in ["one", "two", "three"] {
        create(&plugin, &alice, title);
        create(&plugin, &bob, "other");
        // Items of the same time are sorted by id, so the times must differ.
        std::thread::sleep(std::time::Duration::from_micros(10));
    }
    let list = plugin.get("/").by(&alice).send().json();
    assert_eq!((titles(&list), &list["count"]), (vec!["three", "two", "one"], &json!(3)));
    let all = plugin.get("/").by(&superuser("root@example.com")).send().json();
    assert_eq!((titles(&all).len(), &all["count"]), (6, &json!(6)));
}

#[test]
fn items_created_at_the_same_time_are_sorted_by_id() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = user("alice@example.com");
    plugin.run(|| {
        use wharf_sdk::sql::{execute, params};
        for id in ["00000000-0000-4000-8000-000000000002", "00000000-0000-4000-8000-000000000001"] {
            let time = "2026-11-23T14:35:13.768681Z";
            execute("INSERT INTO item VALUES ($1, $1, NULL, $2, $3)", params![id, alice.id, time]).unwrap();
        }
    });
    let list = plugin.get("").by(&alice).send().json();
    assert!(list["data"][0]["id"].as_str().unwrap().ends_with('1'));
    assert_eq!(list["data"][0]["created_at"], "2026-11-23T14:35:13.768681Z");
}

#[test]
fn a_page_is_a_part_of_the_list_and_count_is_the_total() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = user("alice@example.com");
    for title in ["one", "two", "three"] {
        create(&plugin, &alice, title);
        std::thread::sleep(std::time::Duration::from_micros(10));
    }
    let page = |query: &str| plugin.get(&format!("/?{query}")).by(&alice).send();
    let list = |query: &str| page(query).json();

    assert_eq!(titles(&list("skip=1&limit=1")), ["two"]);
    assert_eq!(titles(&list("limit=3&limit=1")), ["three"], "the last of a repeated parameter counts");
    let empty = list("limit=0&unknown=1");
    assert_eq!((titles(&empty).len(), &empty["count"]), (0, &json!(3)));
    assert_eq!(list("skip=9223372036854775807")["count"], 3);
    for refused in ["skip=-1", "limit=-1", "limit=1001", "limit=x", "skip=9223372036854775808", "skip="] {
        assert_eq!(page(refused).status(), 422, "{refused}");
    }
    assert_eq!(page("limit=1001").problem().errors()[0].loc, ["query", "limit"]);
}

#[test]
fn every_route_requires_a_caller() {
    let plugin = TestPlugin::new(&PLUGIN);
    for (method, path) in [("GET", "/"), ("POST", "/"), ("GET", "/1"), ("PUT", "/1"), ("DELETE", "/1")] {
        assert_eq!(plugin.request(method, path).send().status(), 401, "{method} {path}");
    }
}

#[test]
fn existence_is_checked_before_ownership() {
    let plugin = TestPlugin::new(&PLUGIN);
    let (alice, bob, root) = (user("alice@example.com"), user("bob@example.com"), superuser("root@example.com"));
    let item = path(&create(&plugin, &alice, "Tea"));
    let unknown = "/00000000-0000-4000-8000-000000000000";
    let change = json!({ "title": "Coffee" });
    let responses = |caller: &Caller, path: &str| {
        [
            plugin.get(path).by(caller).send(),
            plugin.put(path).by(caller).json(change.clone()).send(),
            plugin.delete(path).by(caller).send(),
        ]
    };
    for response in responses(&bob, unknown) {
        assert_problem(&response, 404, "item_not_found", "Item not found");
    }
    for response in responses(&bob, &item) {
        assert_problem(&response, 403, "not_enough_permissions", "Not enough permissions");
    }
    for response in responses(&root, &item) {
        assert_eq!(response.status(), 200);
    }
    assert_eq!(plugin.get("/tea").by(&alice).send().problem().errors()[0].loc, ["path", "id"]);
}

#[test]
fn a_permission_opens_the_items_of_others_for_reading_or_for_writing() {
    let plugin = TestPlugin::new(&PLUGIN);
    let (alice, reader, writer) = (user("alice@example.com"), user("reader@example.com"), user("writer@example.com"));
    let item = path(&create(&plugin, &alice, "Tea"));
    plugin.permit(&reader, "read-all");
    plugin.permit(&writer, "write-all");
    let change = |caller: &Caller| plugin.put(&item).by(caller).json(json!({ "title": "Coffee" })).send().status();

    assert_eq!(titles(&plugin.get("/").by(&reader).send().json()), ["Tea"]);
    assert_eq!(plugin.get(&item).by(&reader).send().status(), 200);
    assert_eq!((change(&reader), plugin.delete(&item).by(&reader).send().status()), (403, 403));
    assert_eq!(titles(&plugin.get("/").by(&writer).send().json()), Vec::<&str>::new());
    assert_eq!(plugin.get(&item).by(&writer).send().status(), 403);
    assert_eq!((change(&writer), plugin.delete(&item).by(&writer).send().status()), (200, 200));
}

#[test]
fn an_update_changes_only_the_members_sent() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = user("alice@example.com");
    let created = create(&plugin, &alice, "Tea");
    let update = |body: Value| plugin.put(&path(&created)).by(&alice).json(body).send();

    assert_eq!(update(json!({})).json(), created);
    let described = update(json!({ "description": "green", "owner_id": "me" })).json();
    assert_eq!((&described["title"], &described["description"]), (&json!("Tea"), &json!("green")));
    let renamed = update(json!({ "title": "Coffee" })).json();
    assert_eq!((&renamed["title"], &renamed["description"]), (&json!("Coffee"), &json!("green")));
    let cleared = update(json!({ "description": null })).json();
    assert_eq!((&cleared["title"], &cleared["description"]), (&json!("Coffee"), &Value::Null));
    assert_eq!(cleared["created_at"], created["created_at"]);

    for refused in [json!({ "title": null }), json!({ "title": "" }), json!({ "description": 1 })] {
        assert_eq!(update(refused).status(), 422);
    }
}

#[test]
fn a_deleted_item_no_longer_exists() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = user("alice@example.com");
    let item = path(&create(&plugin, &alice, "Tea"));
    let response = plugin.delete(&item).by(&alice).send();
    assert_eq!((response.status(), response.text()), (200, r#"{"message":"Item deleted successfully"}"#));
    assert_problem(&plugin.delete(&item).by(&alice).send(), 404, "item_not_found", "Item not found");
}

#[test]
fn each_change_is_published_for_the_owner_of_the_item() {
    let plugin = TestPlugin::new(&PLUGIN);
    let (alice, root) = (user("alice@example.com"), superuser("root@example.com"));
    let item = create(&plugin, &alice, "Tea");
    let path = path(&item);
    // Also a change by somebody else.
    assert_eq!(plugin.put(&path).by(&root).json(json!({ "title": "Coffee" })).send().status(), 200);
    assert_eq!(plugin.put(&path).by(&alice).json(json!({ "description": "black" })).send().status(), 200);
    assert_eq!(plugin.delete(&path).by(&root).send().status(), 200);

    let titled = |title: &str| json!({ "id": item["id"], "owner_id": alice.id, "title": title });
    let expected = [
        ("created", titled("Tea")),
        ("updated", titled("Coffee")),
        ("updated", titled("Coffee")),
        ("deleted", json!({ "id": item["id"], "owner_id": alice.id })),
    ];
    let events = plugin.events();
    let published: Vec<_> = events.iter().map(|event| (event.topic.as_str(), event.payload.clone())).collect();
    assert_eq!(published, expected);
    let concerns = |event: &TestEvent| event.key.as_deref() == item["id"].as_str() && event.audience == Some(alice.id);
    assert!(events.iter().all(concerns), "{events:?}");
}

#[test]
fn a_change_that_is_refused_or_changes_nothing_is_not_published() {
    let plugin = TestPlugin::new(&PLUGIN);
    let (alice, bob) = (user("alice@example.com"), user("bob@example.com"));
    let item = path(&create(&plugin, &alice, "Tea"));
    let unknown = "/00000000-0000-4000-8000-000000000000";
    let change = json!({ "title": "Coffee" });
    let responses = [
        (plugin.post("/").by(&alice).json(json!({ "title": "" })).send(), 422),
        (plugin.put(&item).by(&alice).json(json!({})).send(), 200),
        (plugin.put(&item).by(&bob).json(change.clone()).send(), 403),
        (plugin.put(unknown).by(&alice).json(change).send(), 404),
        (plugin.delete(&item).by(&bob).send(), 403),
        (plugin.delete(unknown).by(&alice).send(), 404),
    ];
    for (response, status) in responses {
        assert_eq!(response.status(), status);
    }
    assert_eq!(plugin.events().len(), 1, "only the creation");
}

#[test]
fn the_items_of_a_deleted_user_are_deleted_and_those_of_others_stay() {
    let plugin = TestPlugin::new(&PLUGIN);
    let (alice, bob, root) = (user("alice@example.com"), user("bob@example.com"), superuser("root@example.com"));
    for title in ["one", "two"] {
        create(&plugin, &alice, title);
    }
    create(&plugin, &bob, "other");
    // The host may deliver an event more than once.
    for _ in 0..2 {
        plugin.deliver("user.deleted", UserDeleted { id: alice.id }).unwrap();
        let list = plugin.get("/").by(&root).send().json();
        assert_eq!((titles(&list), &list["count"]), (vec!["other"], &json!(1)));
    }
    assert_eq!(plugin.get("/").by(&alice).send().json()["count"], 0);
    assert!(plugin.events().iter().all(|event| event.topic == "created"), "`user.deleted` says it for all of them");
}

/// The host admitted the request before it deleted the user.
#[test]
fn a_request_of_a_deleted_user_creates_no_item() {
    let plugin = TestPlugin::new(&PLUGIN);
    let (alice, bob) = (user("alice@example.com"), user("bob@example.com"));
    create(&plugin, &alice, "early");
    // The host may deliver an event more than once.
    for _ in 0..2 {
        plugin.deliver("user.deleted", UserDeleted { id: alice.id }).unwrap();
        let late = plugin.post("/").by(&alice).json(json!({ "title": "late" })).send();
        assert_problem(&late, 404, "user_not_found", "User not found");
    }
    create(&plugin, &bob, "other");
    let list = plugin.get("/").by(&superuser("root@example.com")).send().json();
    assert_eq!((titles(&list), &list["count"]), (vec!["other"], &json!(1)));
    let created = plugin.events().iter().map(|event| event.payload["title"].clone()).collect::<Vec<_>>();
    assert_eq!(created, ["early", "other"], "a refused creation publishes nothing");
}

#[test]
fn an_account_that_an_import_brings_back_creates_items_again() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = user("alice@example.com");
    plugin.deliver("user.deleted", UserDeleted { id: alice.id }).unwrap();
    plugin.deliver("user.created", UserCreated { id: alice.id }).unwrap();
    create(&plugin, &alice, "Tea");
    assert_eq!(plugin.get("/").by(&alice).send().json()["count"], 1);
}

#[test]
fn any_number_of_items_is_deleted_with_their_user() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = user("alice@example.com");
    plugin.run(|| {
        use wharf_sdk::sql::{execute, params};
        let many = "WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < 2500)
            INSERT INTO item SELECT n, n, NULL, $1, '2026-11-23T14:35:13.768681Z' FROM counted";
        execute(many, params![alice.id]).unwrap();
    });
    plugin.deliver("user.deleted", UserDeleted { id: alice.id }).unwrap();
    assert_eq!(plugin.get("/").by(&superuser("root@example.com")).send().json()["count"], 0);
}
