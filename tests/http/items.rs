//! Items, served by the items plugin: the second half of the API of the FastAPI full-stack template.

use std::time::Duration;

use serde_json::{Value, json};

use super::{column, invalid_token, is_stamped, members, not_authenticated, text};
use crate::support::host::ITEMS;
use crate::support::{Backend, Client, Component, Setup, TestHost, TestResponse, both};

const ITEM: [&str; 5] = ["title", "description", "id", "owner_id", "created_at"];
const UNKNOWN_ITEM: &str = "/items/5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11";

both! {
    an_item_is_created_for_its_caller => Setup::default().with_items(),
    items_are_listed_newest_first_and_in_pages => Setup::default().with_items().with_manual_clock(),
    users_see_their_own_items_and_superusers_see_all => Setup::default().with_items(),
    an_item_is_updated_member_by_member => Setup::default().with_items(),
    an_item_is_deleted_once => Setup::default().with_items(),
    an_item_is_validated => Setup::default().with_items(),
    a_removed_plugin_leaves_404_and_its_data => Setup::default().with_items(),
    the_path_of_a_plugin_that_was_never_deployed_is_unknown,
}

fn path(item: &Value) -> String {
    format!("/items/{}", text(item, "id"))
}

async fn create_item(client: &Client, title: &str) -> Value {
    client.post("/items/", &json!({ "title": title })).await.ok()
}

#[track_caller]
fn item_not_found(response: &TestResponse) {
    response.is_problem(404, "item_not_found", "Item not found");
}

#[track_caller]
fn foreign(response: &TestResponse) {
    response.is_problem(403, "not_enough_permissions", "Not enough permissions");
}

async fn an_item_is_created_for_its_caller(host: &TestHost) {
    let admin = host.superuser();
    let me = admin.get("/users/me").await.ok();
    let foreign = "5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11";
    let body = json!({
        "title": "Café 👋", "description": "d", "id": foreign, "owner_id": foreign, "created_at": null, "x": 1,
    });
    let response = admin.post("/items/", &body).await;
    let item = response.ok();
    is_stamped(&item);
    assert_eq!((&item["owner_id"], item["id"] == foreign), (&me["id"], false));
    let expected = format!(
        "{{\"title\":\"Café 👋\",\"description\":\"d\",\"id\":{},\"owner_id\":{},\"created_at\":{}}}",
        item["id"], item["owner_id"], item["created_at"]
    );
    assert_eq!(response.text(), expected);
    let plain = admin.post("/items", &json!({ "title": "x" })).await.ok();
    assert_eq!((members(&plain), &plain["description"]), (ITEM.to_vec(), &Value::Null));
    assert_eq!(admin.get(&path(&item)).await.ok(), item);
    assert_eq!(admin.get(&format!("{}/", path(&item).to_uppercase().replace("/ITEMS", "/items"))).await.ok(), item);
    let plain_id = format!("/items/{}", text(&item, "id").replace('-', ""));
    assert_eq!(admin.get(&plain_id).await.ok(), item);
}

async fn items_are_listed_newest_first_and_in_pages(host: &TestHost) {
    let admin = host.superuser();
    assert_eq!(admin.get("/items/").await.text(), r#"{"data":[],"count":0}"#);
    for title in ["a", "b", "c"] {
        create_item(admin, title).await;
        host.clock().advance(Duration::from_secs(1));
    }
    let list = admin.get("/items/").await.ok();
    assert_eq!((members(&list), &list["count"]), (vec!["data", "count"], &json!(3)));
    assert_eq!(members(&list["data"][0]), ITEM);
    assert_eq!(column(&list, "title"), ["c", "b", "a"]);
    assert_eq!(admin.get("/items").await.ok(), list);
    for (query, expected) in [
        ("skip=1", &["b", "a"][..]),
        ("skip=1&limit=1", &["b"]),
        ("limit=0", &[]),
        ("limit=1000&skip=9223372036854775807", &[]),
        ("limit=1&limit=2&unknown=x", &["c", "b"]),
    ] {
        let part = admin.get(&format!("/items/?{query}")).await.ok();
        assert_eq!((column(&part, "title"), &part["count"]), (expected.to_vec(), &json!(3)), "{query}");
    }
    admin.get("/items/?skip=-1&limit=-1").await.has_findings(&[
        "query.skip greater_than_equal: Input should be greater than or equal to 0",
        "query.limit greater_than_equal: Input should be greater than or equal to 0",
    ]);
    admin.get("/items/?limit=1001&skip=9223372036854775808").await.has_findings(&[
        "query.skip int_parsing: …",
        "query.limit less_than_equal: Input should be less than or equal to 1000",
    ]);
}

async fn users_see_their_own_items_and_superusers_see_all(host: &TestHost) {
    let jane = host.user("jane@example.com").await;
    let admin = host.superuser();
    let janes = create_item(&jane, "janes").await;
    let admins = create_item(admin, "admins").await;
    let list = jane.get("/items/").await.ok();
    assert_eq!((column(&list, "title"), &list["count"]), (vec!["janes"], &json!(1)));
    let list = admin.get("/items/").await.ok();
    assert_eq!((column(&list, "title"), &list["count"]), (vec!["admins", "janes"], &json!(2)));

    foreign(&jane.get(&path(&admins)).await);
    foreign(&jane.put(&path(&admins), &json!({ "title": "mine" })).await);
    foreign(&jane.put(&path(&admins), &json!({})).await);
    foreign(&jane.delete(&path(&admins)).await);
    item_not_found(&jane.get(UNKNOWN_ITEM).await);
    assert_eq!(admin.get(&path(&janes)).await.ok(), janes);
    let changed = admin.put(&path(&janes), &json!({ "title": "changed" })).await.ok();
    assert_eq!((&changed["title"], &changed["owner_id"]), (&json!("changed"), &janes["owner_id"]));
    admin.delete(&path(&janes)).await.has_message("Item deleted successfully");
    item_not_found(&jane.get(&path(&janes)).await);
    not_authenticated(&host.anonymous().get("/items/").await);
    not_authenticated(&host.anonymous().post("/items/", &json!({ "title": "x" })).await);
    not_authenticated(&host.anonymous().get(&path(&admins)).await);
}

async fn an_item_is_updated_member_by_member(host: &TestHost) {
    let admin = host.superuser();
    let item = admin.post("/items/", &json!({ "title": "t", "description": "d" })).await.ok();
    let put = async |body: Value| admin.put(&path(&item), &body).await;
    assert_eq!(put(json!({})).await.ok(), item);
    let mut expected = item.clone();
    expected["title"] = json!("T");
    assert_eq!(put(json!({ "title": "T", "owner_id": null, "id": 1 })).await.ok(), expected);
    expected["description"] = Value::Null;
    assert_eq!(put(json!({ "description": null })).await.ok(), expected);
    expected["description"] = json!("");
    assert_eq!(put(json!({ "description": "" })).await.ok(), expected);
    assert_eq!(admin.get(&path(&item)).await.ok(), expected);
    item_not_found(&admin.put(UNKNOWN_ITEM, &json!({})).await);
    put(json!({ "title": null })).await.has_findings(&["body.title string_type: Input should be a valid string"]);
    put(json!({ "title": "", "description": "x".repeat(256) })).await.has_findings(&[
        "body.title string_too_short: String should have at least 1 character",
        "body.description string_too_long: String should have at most 255 characters",
    ]);
}

async fn an_item_is_deleted_once(host: &TestHost) {
    let admin = host.superuser();
    let item = create_item(admin, "x").await;
    admin.delete(&format!("{}/", path(&item))).await.has_message("Item deleted successfully");
    item_not_found(&admin.delete(&path(&item)).await);
    item_not_found(&admin.get(&path(&item)).await);
    admin.delete("/items/x").await.has_findings(&["path.id uuid_parsing: Input should be a valid UUID, …"]);
    admin.get("/items/x").await.has_findings(&["path.id uuid_parsing: Input should be a valid UUID, …"]);
}

async fn an_item_is_validated(host: &TestHost) {
    let post = async |body: Value| host.superuser().post("/items/", &body).await;
    post(json!({})).await.has_findings(&["body.title missing: Field required"]);
    post(json!({ "description": 1, "title": null })).await.has_findings(&[
        "body.title string_type: Input should be a valid string",
        "body.description string_type: Input should be a valid string",
    ]);
    post(json!({ "title": "" }))
        .await
        .has_findings(&["body.title string_too_short: String should have at least 1 character"]);
    let response = post(json!({ "title": "x".repeat(256), "description": "x".repeat(256) })).await;
    response.has_findings(&[
        "body.title string_too_long: String should have at most 255 characters",
        "body.description string_too_long: String should have at most 255 characters",
    ]);
    assert!(!response.text().contains("xxx"));
    assert_eq!(post(json!({ "title": "👋".repeat(255) })).await.ok()["title"], "👋".repeat(255));
}

async fn a_removed_plugin_leaves_404_and_its_data(host: &TestHost) {
    let admin = host.superuser();
    let item = create_item(admin, "kept").await;
    admin.delete("/plugins/items").await.ok();
    for path in ["/items/", "/items", &path(&item), "/items/not/a/route"] {
        for client in [admin.clone(), host.anonymous()] {
            client.get(path).await.is_problem(404, "plugin_removed", "Not Found");
            client.post(path, &json!({})).await.is_problem(404, "plugin_removed", "Not Found");
        }
    }
    assert_eq!(admin.get("/itemsx").await.has_code(404, "route_not_found"), "Not Found");
    // The rest of the API is unchanged.
    admin.get("/users/me").await.ok();
    host.deploy_items().await;
    assert_eq!(admin.get(&path(&item)).await.ok(), item);
    // Another build of the plugin uses the same data.
    admin.deploy(&Component::items().rebuilt("again").0, ITEMS).await.ok();
    assert_eq!(admin.get("/items/").await.ok()["data"], json!([item]));
}

async fn the_path_of_a_plugin_that_was_never_deployed_is_unknown(host: &TestHost) {
    for path in ["/items/", "/items", UNKNOWN_ITEM] {
        host.superuser().get(path).await.is_problem(404, "route_not_found", "Not Found");
    }
}

/// Written for both databases by hand, because the host restarts.
async fn restart_keeps_everything(backend: Backend) {
    let Some(mut host) = TestHost::start(backend, Setup::default().with_items()).await else { return };
    let jane = host.user("jane@example.com").await;
    let item = create_item(&jane, "kept").await;
    let before = host.superuser().get("/plugins/items").await.ok();
    let gone = host.anonymous().signed_in("jane@example.com", crate::support::host::PASSWORD).await;
    gone.request(reqwest::Method::POST, "/login/logout").send().await.ok();

    host.restart().await;
    // Tokens, sessions, accounts, the plugin and its data.
    let jane = host.anonymous().with_token(jane.token());
    assert_eq!(jane.get(&path(&item)).await.ok(), item);
    assert_eq!(jane.get("/users/me").await.ok()["email"], "jane@example.com");
    assert_eq!(host.superuser().get("/plugins/items").await.ok(), before);
    assert_eq!(host.superuser().get("/users/").await.ok()["count"], 2);
    invalid_token(&host.anonymous().with_token(gone.token()).get("/users/me").await);
    host.anonymous().signed_in("jane@example.com", crate::support::host::PASSWORD).await;

    // A removal survives a restart too.
    host.superuser().delete("/plugins/items").await.ok();
    host.restart().await;
    host.superuser().get("/items/").await.is_problem(404, "plugin_removed", "Not Found");
    host.deploy_items().await;
    assert_eq!(host.superuser().get(&path(&item)).await.ok(), item);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_everything_on_sqlite() {
    restart_keeps_everything(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_everything_on_postgres() {
    restart_keeps_everything(Backend::Postgres).await;
}
