//! A plugin is upgraded, removed and deployed again; its data is there all the while.

use serde_json::{Value, json};

use crate::support::host::ITEMS;
use crate::support::{Component, TestHost, both};

both!(
    a_removed_plugin_answers_404_and_comes_back_with_its_data => Setup::default().with_items(),
    data_is_deleted_only_when_asked_for => Setup::default().with_items(),
    an_upgrade_serves_the_new_release_and_keeps_the_data => Setup::default().with_items(),
    a_plugin_cannot_see_its_neighbours_data => Setup::default().with_items(),
    deploys_at_once_come_one_after_the_other => Setup::default().with_items(),
);

async fn make(host: &TestHost) -> Value {
    host.superuser().post("/items/", &json!({ "title": "kept" })).await.ok()
}

async fn a_removed_plugin_answers_404_and_comes_back_with_its_data(host: &TestHost) {
    let item = make(host).await;
    let path = format!("/items/{}", item["id"].as_str().unwrap());
    host.superuser().delete("/plugins/items").await.says("Plugin 'items' removed");
    for path in ["/items/", "/items", &path, "/items/deeper/still"] {
        host.superuser().get(path).await.is_problem(404, "plugin_removed", "Not Found");
        host.anonymous().get(path).await.is_problem(404, "plugin_removed", "Not Found");
    }
    host.superuser().get("/itemsx").await.has_code(404, "route_not_found");
    host.superuser().get("/plugins/items").await.has_code(404, "plugin_not_found");
    host.superuser().delete("/plugins/items").await.has_code(404, "plugin_not_found");
    assert_eq!(host.superuser().get("/plugins/").await.ok()["count"], 0);

    // What it was granted ended with it.
    host.superuser().deploy(&Component::items().0, "").await.has_code(403, "grant_missing");
    let back = host.superuser().deploy(&Component::items().0, ITEMS).await.ok();
    assert_eq!(back["plugin"]["release"]["number"], 2);
    assert_eq!(host.superuser().get(&path).await.ok(), item);
}

async fn data_is_deleted_only_when_asked_for(host: &TestHost) {
    make(host).await;
    let user = host.user("someone@example.com").await;
    user.delete("/plugins/items?delete_data=true").await.has_code(403, "forbidden");
    host.superuser().delete("/plugins/items?delete_data=maybe").await.refuses(&["query.delete_data bool_parsing…"]);
    host.superuser().get("/items/").await.ok();
    host.superuser().delete("/plugins/items?delete_data=true").await.ok();
    host.deploy_items().await;
    assert_eq!(host.superuser().get("/items/").await.ok(), json!({ "data": [], "count": 0 }));
    // Also later, when it has been removed already.
    make(host).await;
    host.superuser().delete("/plugins/items").await.ok();
    host.superuser().delete("/plugins/items?delete_data=true").await.ok();
    host.deploy_items().await;
    assert_eq!(host.superuser().get("/items/").await.ok()["count"], 0);
}

async fn an_upgrade_serves_the_new_release_and_keeps_the_data(host: &TestHost) {
    let (first, second) = (make(host).await, make(host).await);
    let path = |item: &Value| format!("/items/{}", item["id"].as_str().unwrap());
    host.superuser().delete(&path(&first)).await.says("Item deleted successfully");
    let upgrade = Component::items().with_text("Item deleted successfully", "Item removed successfully");
    let deployed = host.superuser().deploy(&upgrade.0, "").await.ok();
    assert_eq!((&deployed["replaced"], &deployed["plugin"]["release"]["number"]), (&json!(1), &json!(2)));
    host.superuser().delete(&path(&second)).await.says("Item removed successfully");
    // Back to the file of before.
    let third = make(host).await;
    host.superuser().deploy(&Component::items().0, "").await.ok();
    host.superuser().delete(&path(&third)).await.says("Item deleted successfully");
}

async fn a_plugin_cannot_see_its_neighbours_data(host: &TestHost) {
    make(host).await;
    host.deploy_chameleon().await;
    host.superuser().deploy(&Component::items().0, &format!("{ITEMS}&name=second")).await.ok();
    assert_eq!(host.superuser().get("/second/").await.ok()["count"], 0);
    for statement in [
        "SELECT * FROM item",
        "SELECT * FROM items.item",
        "SELECT * FROM main.item",
        "SELECT * FROM plugin_items.item",
        "SELECT * FROM \"user\"",
        "SELECT * FROM public.\"user\"",
        "SELECT * FROM public.session",
        "DELETE FROM public.plugin",
    ] {
        let outcome = statement_of(host, statement).await;
        assert!(!outcome["error"].is_null(), "{statement}: {outcome}");
    }
}

async fn statement_of(host: &TestHost, statement: &str) -> Value {
    let request = host.anonymous().request(reqwest::Method::POST, "/chameleon/statement");
    request.header("content-type", "application/octet-stream").body(statement.to_owned()).send().await.ok()
}

async fn deploys_at_once_come_one_after_the_other(host: &TestHost) {
    let (one, two) = (Component::items().rebuilt("one"), Component::items().rebuilt("two"));
    let (one, two) = tokio::join!(host.superuser().deploy(&one.0, ""), host.superuser().deploy(&two.0, ""));
    let mut numbers = Vec::new();
    for answer in [one, two] {
        numbers.push(answer.ok()["plugin"]["release"]["number"].as_i64().unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3]);
    assert_eq!(host.superuser().get("/plugins/items").await.ok()["release"]["number"], 3);
}
