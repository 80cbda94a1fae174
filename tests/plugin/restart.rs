//! A host that ends and begins again serves what it served.

use serde_json::json;

use crate::support::backend::Backend;
use crate::support::host::{PASSWORD, Setup};
use crate::support::{Component, TestHost};

async fn everything_is_back(backend: Backend) {
    let Some(mut host) = TestHost::start(backend, Setup::default().with_items()).await else { return };
    host.superuser().deploy(&Component::hello().0, "mount=/greet").await.ok();
    host.superuser().deploy(&Component::hello().0, "name=gone").await.ok();
    host.superuser().delete("/plugins/gone").await.ok();
    let upgrade = Component::items().with_text("Item deleted successfully", "Item removed successfully");
    host.superuser().deploy(&upgrade.0, "").await.ok();
    let item = host.superuser().post("/items/", &json!({ "title": "kept" })).await.ok();
    host.sign_up("someone@example.com").await.ok();
    let plugins = host.superuser().get("/plugins/").await.ok();
    let document = host.anonymous().get("/openapi.json").await.ok();

    host.restart().await;
    // The same token, accounts, plugins, settings, data.
    assert_eq!(host.superuser().get("/plugins/").await.ok(), plugins);
    assert_eq!(host.anonymous().get("/openapi.json").await.ok(), document);
    assert_eq!(host.superuser().get("/users/").await.ok()["count"], 2);
    host.anonymous().sign_in("someone@example.com", PASSWORD).await.ok();
    let path = format!("/items/{}", item["id"].as_str().unwrap());
    assert_eq!(host.superuser().get(&path).await.ok(), item);
    host.superuser().delete(&path).await.says("Item removed successfully");
    let greeting = host.anonymous().plain(reqwest::Method::GET, "/greet/Ann").send().await;
    assert_eq!(greeting.ok()["message"], "Hello Ann");
    host.superuser().get("/gone/Ann").await.has_code(404, "plugin_removed");
    // The next release goes on counting.
    let next = host.superuser().deploy(&Component::items().0, "").await.ok();
    assert_eq!((&next["replaced"], &next["plugin"]["release"]["number"]), (&json!(2), &json!(3)));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_back_on_sqlite() {
    everything_is_back(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_back_on_postgres() {
    everything_is_back(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_on_one_postgres_agree_on_accounts_and_tokens() {
    let Some(host) = TestHost::start(Backend::Postgres, Setup::default()).await else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut config = host.config().clone();
    config.server.data_dir = directory.path().join("data");
    let second = wharf::app::App::start(config, wharf::app::Ambient::default()).await.unwrap();
    let client = crate::support::Client::new(second.addr()).with_token(host.superuser().token());
    client.get("/users/me").await.ok();
    host.sign_up("someone@example.com").await.ok();
    client.signed_in("someone@example.com", PASSWORD).await.get("/users/me").await.ok();
    second.stop().await.unwrap();
    host.stop().await;
}
