//! The items contract (reference section 4.3), served by the plugin.

use serde_json::{Value, json};

use crate::support::{Client, Component, Setup, TestHost, both};

both!(
    an_item_is_made_read_changed_and_deleted => Setup::default().with_items(),
    others_items_are_forbidden_and_missing_ones_are_missing => Setup::default().with_items(),
    a_list_is_the_callers_own_newest_first_and_paged => Setup::default().with_items(),
    wrong_input_is_refused_member_by_member => Setup::default().with_items(),
    a_removed_plugin_is_missed_and_comes_back_with_its_data => Setup::default().with_items(),
);

async fn create(client: &Client, title: &str) -> Value {
    client.post("/items/", &json!({ "title": title })).await.ok()
}

async fn an_item_is_made_read_changed_and_deleted(host: &TestHost) {
    let client = host.superuser();
    let body = json!({ "title": "Tea", "description": "Grün", "id": 1, "owner_id": "x", "created_at": null });
    let answer = client.post("/items/", &body).await;
    let item = answer.ok();
    let members: Vec<&String> = item.as_object().unwrap().keys().collect();
    assert_eq!(members, ["title", "description", "id", "owner_id", "created_at"]);
    assert!(answer.text().starts_with(r#"{"title":"Tea","description":"Grün","id":""#), "{}", answer.text());
    assert_eq!(item["owner_id"], client.get("/users/me").await.ok()["id"]);
    assert!(item["created_at"].as_str().unwrap().ends_with('Z'));

    let path = format!("/items/{}", item["id"].as_str().unwrap());
    assert_eq!(client.get(&path).await.ok(), item);
    assert_eq!(client.get(&format!("{path}/")).await.ok(), item, "with a slash too");
    assert_eq!(client.put(&path, &json!({})).await.ok(), item, "nothing sent, nothing changed");
    let changed = client.put(&path, &json!({ "description": null })).await.ok();
    assert_eq!((&changed["title"], &changed["description"]), (&json!("Tea"), &Value::Null));
    let changed = client.put(&path, &json!({ "title": "Coffee" })).await.ok();
    assert_eq!(changed["title"], "Coffee");

    client.delete(&path).await.says("Item deleted successfully");
    client.get(&path).await.is_problem(404, "item_not_found", "Item not found");
    client.put(&path, &json!({})).await.is_problem(404, "item_not_found", "Item not found");
    client.delete(&path).await.is_problem(404, "item_not_found", "Item not found");
}

async fn others_items_are_forbidden_and_missing_ones_are_missing(host: &TestHost) {
    let owner = host.user("owner@example.com").await;
    let other = host.user("other@example.com").await;
    let item = create(&owner, "Mine").await;
    let path = format!("/items/{}", item["id"].as_str().unwrap());
    for answer in [other.get(&path).await, other.put(&path, &json!({})).await, other.delete(&path).await] {
        answer.is_problem(403, "not_enough_permissions", "Not enough permissions");
    }
    assert_eq!(host.superuser().get(&path).await.ok(), item, "superusers see everything");
    let nowhere = "/items/00000000-0000-4000-8000-000000000000";
    other.get(nowhere).await.is_problem(404, "item_not_found", "Item not found");
    host.anonymous().get(nowhere).await.is_problem(401, "not_authenticated", "Not authenticated");
}

async fn a_list_is_the_callers_own_newest_first_and_paged(host: &TestHost) {
    let owner = host.user("owner@example.com").await;
    create(host.superuser(), "another's").await;
    for title in ["first", "second", "third"] {
        create(&owner, title).await;
    }
    let titles = |list: Value| -> Vec<String> {
        list["data"].as_array().unwrap().iter().map(|item| item["title"].as_str().unwrap().to_owned()).collect()
    };
    let all = owner.get("/items/").await.ok();
    assert_eq!(all["count"], 3);
    assert_eq!(titles(all), ["third", "second", "first"]);
    let page = owner.get("/items/?skip=1&limit=1").await.ok();
    assert_eq!(page["count"], 3, "the count is before paging");
    assert_eq!(titles(page), ["second"]);
    assert_eq!(titles(owner.get("/items/?skip=1&skip=2").await.ok()), ["first"], "the last one wins");
    assert_eq!(owner.get("/items/?limit=0").await.ok(), json!({ "data": [], "count": 3 }));
    assert_eq!(host.superuser().get("/items").await.ok()["count"], 4);
}

async fn wrong_input_is_refused_member_by_member(host: &TestHost) {
    let client = host.superuser();
    let int = "int_parsing: Input should be a valid integer, unable to parse string as an integer";
    client.get("/items/?skip=-1&limit=1001").await.refuses(&[
        "query.skip greater_than_equal: Input should be greater than or equal to 0",
        "query.limit less_than_equal: Input should be less than or equal to 1000",
    ]);
    client
        .get("/items/?skip=99999999999999999999&limit=x")
        .await
        .refuses(&[&format!("query.skip {int}"), &format!("query.limit {int}")]);
    client.get("/items/x").await.refuses(&["path.id uuid_parsing: Input should be a valid UUID, …"]);
    client.post("/items/", &json!({ "description": 1 })).await.refuses(&[
        "body.title missing: Field required",
        "body.description string_type: Input should be a valid string",
    ]);
    let long = "ä".repeat(256);
    client.post("/items/", &json!({ "title": "", "description": long })).await.refuses(&[
        "body.title string_too_short: String should have at least 1 character",
        "body.description string_too_long: String should have at most 255 characters",
    ]);
    client.post("/items/", &json!({ "title": "ä".repeat(255) })).await.ok();
    let item = create(client, "x").await;
    let path = format!("/items/{}", item["id"].as_str().unwrap());
    client
        .put(&path, &json!({ "title": null }))
        .await
        .refuses(&["body.title string_type: Input should be a valid string"]);
    client
        .post("/items/", &json!({ "title": "a\u{0}b" }))
        .await
        .refuses(&["body.title value_error: String should not contain the character U+0000"]);
    let twice = client.request(reqwest::Method::POST, "/items/").json_text(r#"{"title":"a","title":"b"}"#).send();
    assert_eq!(twice.await.ok()["title"], "b", "the last member wins");
}

async fn a_removed_plugin_is_missed_and_comes_back_with_its_data(host: &TestHost) {
    let client = host.superuser();
    let item = create(client, "kept").await;
    client.delete("/plugins/items").await.says("Plugin 'items' removed");
    client.get("/items/").await.is_problem(404, "plugin_removed", "Not Found");
    client.get("/plugins/items").await.has_code(404, "plugin_not_found");
    client.delete("/plugins/items").await.has_code(404, "plugin_not_found");
    let refusal = client.deploy(&Component::items().0, "").await.has_code(403, "grant_missing");
    assert!(refusal.contains("auth, sql"), "removing takes the grants back: {refusal}");
    host.deploy_items().await;
    assert_eq!(client.get("/items/").await.ok()["data"], json!([item]));
    client.delete("/plugins/items?delete_data=true").await.says("Plugin 'items' removed");
    host.deploy_items().await;
    assert_eq!(client.get("/items/").await.ok()["count"], 0);
}
