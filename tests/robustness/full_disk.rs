//! A host whose disk is full: what it can read, it serves; what it cannot store is a 503; and everything works again
//! when there is space.

use reqwest::Method;
use serde_json::json;

use crate::support::host::{ITEMS, PASSWORD, SUPERUSER};
use crate::support::postgres;
use crate::support::process::{Process, home};
use crate::support::small_disk::SmallDisk;
use crate::support::{Backend, Client, Component, Setup, TestHost, TestResponse};

async fn add_item(client: &Client) -> TestResponse {
    client.post("/items/", &json!({ "title": "x", "description": "y".repeat(200) })).await
}

/// Changes the account, in a transaction of the host.
async fn rename(client: &Client) -> TestResponse {
    client.patch("/users/me", &json!({ "full_name": "z".repeat(100) })).await
}

/// Queues mails until the host's own database cannot grow, and adds items until the plugin's cannot.
async fn fill(disk: &SmallDisk, client: &Client) {
    disk.fill();
    let mut last = 0;
    for _ in 0..2_000 {
        let response = client.request(Method::POST, "/password-recovery/nobody@example.com").send().await;
        last = response.status;
        if last != 200 {
            response.has_code(503, "storage_full");
            break;
        }
    }
    assert_eq!(last, 503, "the disk never got full");
    for _ in 0..2_000 {
        last = add_item(client).await.status;
        if last != 200 {
            break;
        }
    }
    assert_eq!(last, 503, "the plugin's file never ended");
}

/// Reading works, and nothing is stored.
async fn serves_what_it_can_read(client: &Client) {
    client.get("/users/me").await.ok();
    client.get("/users/").await.ok();
    client.get("/items/").await.ok();
    assert_eq!(client.plain(Method::GET, "/readyz").send().await.status, 200);
    client.sign_in(SUPERUSER, PASSWORD).await.has_code(503, "storage_full");
    for _ in 0..10 {
        rename(client).await.has_code(503, "storage_full");
        client.get("/items/").await.ok();
    }
    assert_eq!(add_item(client).await.status, 503);
    client.get("/items/").await.ok();
}

async fn works_again(client: &Client) {
    client.sign_in(SUPERUSER, PASSWORD).await.ok();
    for _ in 0..10 {
        rename(client).await.ok();
        add_item(client).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_on_a_full_disk_serves_what_it_can_read_and_starts() {
    let home = home();
    let Some(disk) = SmallDisk::mount(&home.path().join("data"), 48) else { return };
    let process = Process::start_on(&disk, home).await;
    let client = process.superuser().await;
    client.deploy(&Component::items().0, ITEMS).await.ok();
    add_item(&client).await.ok();

    fill(&disk, &client).await;
    serves_what_it_can_read(&client).await;
    disk.free();
    works_again(&client).await;

    // A graceful end removes the index of each write-ahead log, so the start must create them again.
    let home = process.stopped().await;
    disk.fill();
    let process = Process::start_on(&disk, home).await;
    let client = process.client().with_token(client.token());
    client.get("/items/").await.ok();
    fill(&disk, &client).await;
    serves_what_it_can_read(&client).await;
    disk.free();
    works_again(&client).await;
    let internal: Vec<_> = process.entries().into_iter().filter(|entry| entry["code"] == "internal").collect();
    assert!(internal.is_empty(), "{internal:?}");
}

/// The server of the tests has a large disk, so a trigger reports the error, once at the statement and once at COMMIT.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_of_postgres_is_a_503_until_there_is_space() {
    let Some(host) = TestHost::start(Backend::Postgres, Setup::default()).await else { return };
    let mut superuser = postgres::connect(host.database().unwrap()).await;
    let mut run = async |sql: &str| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut superuser).await.unwrap();
    };
    run("CREATE FUNCTION wharf.disk_is_full() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$")
    .await;
    for trigger in [
        "CREATE TRIGGER disk BEFORE INSERT ON wharf.sessions FOR EACH ROW EXECUTE FUNCTION wharf.disk_is_full()",
        "CREATE CONSTRAINT TRIGGER disk AFTER INSERT ON wharf.sessions DEFERRABLE INITIALLY DEFERRED FOR EACH ROW \
         EXECUTE FUNCTION wharf.disk_is_full()",
    ] {
        run(trigger).await;
        for _ in 0..10 {
            host.anonymous().sign_in(SUPERUSER, PASSWORD).await.has_code(503, "storage_full");
            host.superuser().get("/users/").await.ok();
        }
        run("DROP TRIGGER disk ON wharf.sessions").await;
        for _ in 0..10 {
            host.anonymous().sign_in(SUPERUSER, PASSWORD).await.ok();
        }
    }
    host.stop().await;
}
