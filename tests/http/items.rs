//! The items of the contract, served by the items plugin: a client cannot tell.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Client, TestHost, both};

both!(
    items_need_a_caller => Setup::default().with_items(),
    an_item_belongs_to_whoever_makes_it => Setup::default().with_items(),
    inputs_of_an_item_are_checked => Setup::default().with_items(),
    lists_hold_ones_own_items_and_a_superusers_all => Setup::default().with_items().with_manual_clock(),
    pages_of_items_have_limits => Setup::default().with_items(),
    an_item_is_read_by_its_owner_and_by_superusers => Setup::default().with_items(),
    an_item_is_changed_in_part => Setup::default().with_items(),
    an_item_is_deleted_once => Setup::default().with_items(),
    checks_come_in_the_contracts_order => Setup::default().with_items(),
    any_text_is_kept_as_it_is => Setup::default().with_items(),
);

const NOTHING: &str = "/items/5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11";

async fn make(client: &Client, title: &str) -> Value {
    client.post("/items/", &json!({ "title": title })).await.ok()
}

fn path(item: &Value) -> String {
    format!("/items/{}", item["id"].as_str().unwrap())
}

async fn items_need_a_caller(host: &TestHost) {
    for (method, path) in [
        (Method::GET, "/items/"),
        (Method::POST, "/items/"),
        (Method::GET, NOTHING),
        (Method::PUT, NOTHING),
        (Method::DELETE, NOTHING),
        (Method::GET, "/items/not-a-uuid"),
    ] {
        let answer = host.anonymous().request(method, path).json(&json!({})).send().await;
        answer.is_problem(401, "not_authenticated", "Not authenticated");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
}

async fn an_item_belongs_to_whoever_makes_it(host: &TestHost) {
    let user = host.user("someone@example.com").await;
    let me = user.get("/users/me").await.ok();
    let body = json!({ "title": "Tëst", "id": me["id"], "owner_id": me["email"], "created_at": null, "extra": [1] });
    let answer = user.post("/items/", &body).await;
    let item = answer.ok();
    let (id, created_at) = (item["id"].as_str().unwrap(), item["created_at"].as_str().unwrap());
    let expected = format!(
        r#"{{"title":"Tëst","description":null,"id":"{id}","owner_id":{},"created_at":"{created_at}"}}"#,
        me["id"]
    );
    assert_eq!(answer.text(), expected);
    assert_ne!(item["id"], me["id"]);
    assert!(created_at.ends_with('Z') && created_at.parse::<wharf::clock::Timestamp>().is_ok());
    let described = user.post("/items", &json!({ "title": "x", "description": "" })).await.ok();
    assert_eq!(described["description"], "");
}

async fn inputs_of_an_item_are_checked(host: &TestHost) {
    let client = host.superuser();
    client.post("/items/", &json!({})).await.refuses(&["body.title missing: Field required"]);
    client.post("/items/", &json!({ "description": 1, "title": "" })).await.refuses(&[
        "body.title string_too_short: String should have at least 1 character",
        "body.description string_type: Input should be a valid string",
    ]);
    let long = "ü".repeat(256);
    client.post("/items/", &json!({ "title": long, "description": long })).await.refuses(&[
        "body.title string_too_long: String should have at most 255 characters",
        "body.description string_too_long: String should have at most 255 characters",
    ]);
    let longest = "ü".repeat(255);
    client.post("/items/", &json!({ "title": longest, "description": longest })).await.ok();
    client
        .post("/items/", &json!({ "title": null }))
        .await
        .refuses(&["body.title string_type: Input should be a valid string"]);
    client.post("/items/", &json!(["title"])).await.refuses(&["body model_attributes_type…"]);
    let nul = client.request(Method::POST, "/items/").json_text(r#"{"title":"a\u0000b"}"#).send().await;
    nul.refuses(&["body.title value_error…"]);
    let item = make(client, "x").await;
    client.put(&path(&item), &json!({ "title": null, "description": [] })).await.refuses(&[
        "body.title string_type: Input should be a valid string",
        "body.description string_type: Input should be a valid string",
    ]);
}

async fn lists_hold_ones_own_items_and_a_superusers_all(host: &TestHost) {
    let user = host.user("someone@example.com").await;
    assert_eq!(user.get("/items/").await.text(), r#"{"data":[],"count":0}"#);
    let mut made = Vec::new();
    for (index, client) in [&user, host.superuser(), &user, &user].into_iter().enumerate() {
        host.clock().advance(Duration::from_micros(1));
        made.insert(0, make(client, &index.to_string()).await);
    }
    let all = host.superuser().get("/items/").await.ok();
    assert_eq!(all, json!({ "data": made, "count": 4 }));
    let own: Vec<&Value> = made.iter().filter(|item| item["title"] != "1").collect();
    assert_eq!(user.get("/items").await.ok(), json!({ "data": own, "count": 3 }));
    assert_eq!(user.get("/items/?skip=1&limit=1").await.ok(), json!({ "data": [own[1]], "count": 3 }));
    assert_eq!(user.get("/items/?limit=0").await.ok(), json!({ "data": [], "count": 3 }));
    assert_eq!(user.get("/items/?skip=9").await.ok(), json!({ "data": [], "count": 3 }));

    // Equal times are told apart by the identifier.
    for _ in 0..4 {
        make(&user, "same time").await;
    }
    let page = user.get("/items/?limit=5").await.ok();
    let ids: Vec<&str> = page["data"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    assert_eq!(ids, sorted);
}

async fn pages_of_items_have_limits(host: &TestHost) {
    for (query, finding) in [
        ("skip=-1", "query.skip greater_than_equal: Input should be greater than or equal to 0"),
        ("limit=1001", "query.limit less_than_equal: Input should be less than or equal to 1000"),
        ("limit=x", "query.limit int_parsing: Input should be a valid integer, unable to parse string as an integer"),
        ("skip=9223372036854775808", "query.skip int_parsing…"),
    ] {
        host.superuser().get(&format!("/items/?{query}")).await.refuses(&[finding]);
    }
    host.superuser().get("/items/?skip=9223372036854775807&limit=1000").await.ok();
    host.superuser().get("/items/?skip=x&skip=0&other=1").await.ok();
}

async fn an_item_is_read_by_its_owner_and_by_superusers(host: &TestHost) {
    let (owner, other) = (host.user("owner@example.com").await, host.user("other@example.com").await);
    let item = make(&owner, "mine").await;
    for client in [&owner, host.superuser()] {
        for path in [path(&item), format!("{}/", path(&item)), path(&item).replace('-', "")] {
            assert_eq!(client.get(&path).await.ok(), item);
        }
    }
    other.get(&path(&item)).await.is_problem(403, "not_enough_permissions", "Not enough permissions");
    for client in [&owner, host.superuser()] {
        client.get(NOTHING).await.is_problem(404, "item_not_found", "Item not found");
    }
    owner.get("/items/x").await.refuses(&["path.id uuid_parsing: Input should be a valid UUID, …"]);
}

async fn an_item_is_changed_in_part(host: &TestHost) {
    let (owner, other) = (host.user("owner@example.com").await, host.user("other@example.com").await);
    let item = make(&owner, "mine").await;
    let change = async |client: &Client, body: Value| {
        let changed = client.put(&path(&item), &body).await.ok();
        assert_eq!(owner.get(&path(&item)).await.ok(), changed);
        for member in ["id", "owner_id", "created_at"] {
            assert_eq!(changed[member], item[member]);
        }
        (changed["title"].clone(), changed["description"].clone())
    };
    assert_eq!(change(&owner, json!({})).await, (json!("mine"), json!(null)));
    assert_eq!(change(&owner, json!({ "description": "d" })).await, (json!("mine"), json!("d")));
    assert_eq!(change(host.superuser(), json!({ "title": "t", "owner_id": "x" })).await, (json!("t"), json!("d")));
    assert_eq!(change(&owner, json!({ "description": null })).await, (json!("t"), json!(null)));
    let denied = other.put(&path(&item), &json!({ "title": "theirs" })).await;
    denied.is_problem(403, "not_enough_permissions", "Not enough permissions");
    other.put(NOTHING, &json!({ "title": "x" })).await.is_problem(404, "item_not_found", "Item not found");
}

async fn an_item_is_deleted_once(host: &TestHost) {
    let (owner, other) = (host.user("owner@example.com").await, host.user("other@example.com").await);
    let item = make(&owner, "mine").await;
    other.delete(&path(&item)).await.is_problem(403, "not_enough_permissions", "Not enough permissions");
    owner.delete(&path(&item)).await.says("Item deleted successfully");
    owner.delete(&path(&item)).await.is_problem(404, "item_not_found", "Item not found");
    let item = make(&owner, "another").await;
    host.superuser().delete(&path(&item)).await.says("Item deleted successfully");
    assert_eq!(owner.get("/items/").await.ok()["count"], 0);
}

async fn checks_come_in_the_contracts_order(host: &TestHost) {
    let other = host.user("other@example.com").await;
    let item = make(host.superuser(), "not yours").await;
    let put = async |client: &Client, path: &str, text: &'static str| {
        client.request(Method::PUT, path).json_text(text).send().await
    };
    // Syntax, then who calls, then what is asked for, then whether it is there and whose it is.
    put(&host.anonymous(), "/items/x", "{").await.refuses(&["body.1 json_invalid: JSON decode error"]);
    put(&host.anonymous(), "/items/x", "{}").await.has_code(401, "not_authenticated");
    put(&other, "/items/x?skip=y", r#"{"title":1}"#)
        .await
        .refuses(&["path.id uuid_parsing…", "body.title string_type…"]);
    put(&other, &path(&item), r#"{"title":1}"#).await.refuses(&["body.title string_type…"]);
    put(&other, NOTHING, r#"{"title":"x"}"#).await.has_code(404, "item_not_found");
    put(&other, &path(&item), r#"{"title":"x"}"#).await.has_code(403, "not_enough_permissions");
    // Nothing of it was written.
    assert_eq!(host.superuser().get(&path(&item)).await.ok(), item);
}

async fn any_text_is_kept_as_it_is(host: &TestHost) {
    for title in
        ["'; DROP TABLE item; --", "$1", "%s", "\u{1}\t\n", "🦀", "\u{202e}abc", "\u{fffd}", "a\u{301}", "null"]
    {
        let item = make(host.superuser(), title).await;
        assert_eq!(item["title"], title);
        assert_eq!(host.superuser().get(&path(&item)).await.ok(), item);
    }
}
