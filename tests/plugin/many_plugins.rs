//! Many plugins on one host: what a start, a change and a request cost does not grow with the number of the others, and a
//! plugin that clashes or waits does not concern the others.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wharf::config::Config;

use super::{liar, plugins};
use crate::http::metrics::samples;
use crate::support::polling::until;
use crate::support::{Component, Setup, TestHost, both};

both!(
    the_cost_of_a_start_a_change_and_a_request_does_not_grow_with_the_plugins,
    a_plugin_is_prepared_by_its_first_request_after_a_start,
    a_plugin_whose_mount_the_host_took_does_not_keep_others_from_changing,
    plugins_that_nobody_calls_are_unloaded_and_answer_their_next_call => Setup::default().with_manual_clock(),
);

/// The number of plugins, and ten times as many. A third is paused, and a third is removed.
const FEW: u32 = 1_000;
const MANY: u32 = 10_000;
/// The median of ten times as many plugins may take this many times as long. A linear cost takes ten times as long, and
/// was measured as six times; the rest is for a busy machine.
const GROWTH: u32 = 4;
/// The same for a start, which reads all records.
const GROWTH_OF_START: u32 = 30;

/// Copies the plugin `hello` in the database until there are so many plugins.
async fn copy_hello(config: &Config, from: u32, to: u32) {
    let numbers =
        format!("WITH RECURSIVE numbers (n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {to})");
    let of_plugins = format!(
        "INSERT INTO plugins (name, mount, state, paused, live_release) {numbers}
         SELECT 'hello-' || n, '/api/v1/hello-' || n, CASE n % 3 WHEN 0 THEN 'removed' ELSE 'live' END,
                CASE n % 3 WHEN 1 THEN PAUSED ELSE LIVE END, 1 FROM numbers"
    );
    let of_releases = format!(
        "INSERT INTO releases (plugin, number, digest, mount, declaration, grants, settings, created_at, size, live_at)
         {numbers} SELECT 'hello-' || n, 1, digest, '/api/v1/hello-' || n, declaration, grants, settings, created_at, size,
                live_at FROM numbers CROSS JOIN releases WHERE plugin = 'hello' AND number = 1"
    );
    match &config.database.url {
        None => {
            let file = config.server.data_dir.join("wharf.sqlite");
            let mut connection = SqliteConnection::connect(file.to_str().unwrap()).await.unwrap();
            let of_plugins = of_plugins.replace("PAUSED", "1").replace("LIVE", "0");
            sqlx::raw_sql(AssertSqlSafe(of_plugins)).execute(&mut connection).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(of_releases)).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
        Some(url) => {
            let mut connection = PgConnection::connect(url.expose()).await.unwrap();
            sqlx::raw_sql("SET search_path = wharf").execute(&mut connection).await.unwrap();
            let of_plugins = of_plugins.replace("PAUSED", "TRUE").replace("LIVE", "FALSE");
            sqlx::raw_sql(AssertSqlSafe(of_plugins)).execute(&mut connection).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(of_releases)).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
    }
}

/// Returns the shortest of several times, which other processes disturb least.
async fn shortest(mut work: impl AsyncFnMut()) -> Duration {
    let mut shortest = Duration::MAX;
    for _ in 0..15 {
        let begun = Instant::now();
        work().await;
        shortest = shortest.min(begun.elapsed());
    }
    shortest
}

/// Measures a start, a deploy of a known file, and requests to a plugin and to no plugin.
async fn measure(host: &mut TestHost, from: u32, to: u32) -> [(&'static str, Duration, u32); 4] {
    let start = {
        let begun = Instant::now();
        host.restart_after(async |config| copy_hello(config, from, to).await).await;
        begun.elapsed()
    };
    let (anonymous, superuser) = (host.anonymous(), host.superuser().clone());
    for (number, status, code) in
        [(2, 200, ""), (to - to % 3 - 1, 200, ""), (1, 503, "plugin_paused"), (3, 404, "plugin_removed")]
    {
        let response = anonymous.get(&format!("/hello-{number}/")).await;
        if status == 200 {
            assert_eq!(response.ok()["message"], "Hello", "{number}");
        } else {
            response.has_code(status, code);
        }
    }
    let builds = ["even", "odd"].map(|word| liar(json!({ "answer": word })).0);
    let mut next = builds.iter().cycle();
    // Both builds are known from here on.
    for build in &builds {
        superuser.deploy(build, "").await.ok();
    }
    let deploy = shortest(async || drop(superuser.deploy(next.next().unwrap(), "").await.ok())).await;
    let request = shortest(async || drop(anonymous.get("/hello/").await.ok())).await;
    let nothing = shortest(async || drop(anonymous.get("/nothing/here").await.has_code(404, "route_not_found"))).await;
    [
        ("start", start, GROWTH_OF_START),
        ("deploy", deploy, GROWTH),
        ("request", request, GROWTH),
        ("request to no plugin", nothing, GROWTH),
    ]
}

async fn the_cost_of_a_start_a_change_and_a_request_does_not_grow_with_the_plugins(host: &mut TestHost) {
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    let few = measure(host, 1, FEW).await;
    let many = measure(host, FEW, MANY).await;
    eprintln!("{few:?}\n{many:?}");
    for ((what, few, growth), (_, many, _)) in few.into_iter().zip(many) {
        assert!(many <= few * growth, "{what}: {few:?} with {FEW} plugins, {many:?} with {MANY}");
    }
}

async fn a_plugin_is_prepared_by_its_first_request_after_a_start(host: &mut TestHost) {
    host.superuser().deploy(&Component::chameleon().0, crate::support::host::CHAMELEON).await.ok();
    let before = plugins(host).await;
    let document = host.anonymous().get("/openapi.json").await.ok();
    host.restart().await;
    assert_eq!(plugins(host).await, before, "the plugin is shown the same before its first request");
    assert_eq!(host.anonymous().get("/openapi.json").await.ok(), document);
    // Concurrent first requests prepare it once and all get their response.
    let client = host.anonymous();
    let requests = (0..16).map(|_| client.get("/chameleon/echo/x"));
    for response in futures_util::future::join_all(requests).await {
        response.ok();
    }
    assert_eq!(plugins(host).await, before);
}

async fn a_plugin_whose_mount_the_host_took_does_not_keep_others_from_changing(host: &mut TestHost) {
    let superuser = host.superuser().clone();
    superuser.deploy(&Component::hello().0, "mount=/api/v1/private").await.ok();
    superuser.deploy(&liar(json!({ "answer": "one" })).0, "").await.ok();
    assert_eq!(host.anonymous().get("/private/").await.ok()["message"], "Hello");

    // In development, the host has routes of its own there.
    host.restart_with(|config| config.server.development = true).await;
    let states = plugins(host).await;
    let state = |name: &str| {
        let all = states["data"].as_array().unwrap();
        all.iter().find(|plugin| plugin["name"] == name).unwrap()["state"].clone()
    };
    assert_eq!((state("hello"), state("liar")), (json!("conflict"), json!("live")));
    host.anonymous().get("/private/").await.has_code(503, "plugin_unavailable");
    let user = json!({ "email": "jane@example.com", "password": "correct horse", "full_name": "Jane" });
    host.anonymous().post("/private/users/", &user).await.ok();

    // Others are changed as usual.
    let superuser = host.superuser().clone();
    superuser.deploy(&liar(json!({ "answer": "two" })).0, "").await.ok();
    superuser.put("/plugins/liar/limits?limit=deadline=5s", &json!({})).await.ok();
    superuser.request(Method::POST, "/plugins/liar/rollback").send().await.ok();
    assert_eq!(host.anonymous().get("/liar").await.text(), "two");

    // The clash concerns the plugin itself, until it gets another mount.
    let text = superuser.deploy(&Component::hello().0, "").await.has_code(409, "route_conflict");
    assert!(text.contains("/api/v1/private"), "{text}");
    superuser.deploy(&Component::hello().0, "mount=/api/v1/hello").await.ok();
    assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
    host.restart_with(|config| config.server.development = false).await;
    assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
}

/// Returns a sample of `/metrics` without labels.
async fn sample(host: &TestHost, wanted: &str) -> f64 {
    let samples = samples(host.superuser()).await;
    samples.into_iter().find(|(name, _)| name == wanted).unwrap().1
}

async fn draining(host: &TestHost) -> f64 {
    sample(host, "wharf_releases_draining").await
}

/// Returns the number of releases whose machine code is loaded.
async fn prepared(host: &TestHost) -> f64 {
    sample(host, "wharf_releases_prepared").await
}

/// Lets time pass until only so many releases are loaded.
async fn until_prepared(host: &TestHost, wanted: f64) {
    until("the others to be unloaded", async || {
        host.clock().advance(Duration::from_secs(120));
        (prepared(host).await == wanted).then_some(())
    })
    .await;
}

async fn plugins_that_nobody_calls_are_unloaded_and_answer_their_next_call(host: &mut TestHost) {
    host.deploy_items().await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    let superuser = host.superuser().clone();
    superuser.post("/items/", &json!({ "title": "kept" })).await.ok();
    let items = superuser.get("/items/").await.ok();
    assert_eq!(prepared(host).await, 2.0);
    until_prepared(host, 0.0).await;
    assert_eq!(plugins(host).await["data"].as_array().unwrap().len(), 2, "they are still served");
    assert_eq!(superuser.get("/items/").await.ok(), items);
    assert_eq!(prepared(host).await, 1.0);
    // Concurrent first requests load it once and all get their response.
    let client = host.anonymous();
    for response in futures_util::future::join_all((0..16).map(|_| client.get("/hello/"))).await {
        assert_eq!(response.ok()["message"], "Hello");
    }
    assert_eq!(prepared(host).await, 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_is_not_unloaded_while_a_request_uses_it() {
    let host = TestHost::sqlite(Setup::default().with_manual_clock()).await;
    host.deploy_chameleon().await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    let mut slow = TcpStream::connect(host.addr()).await.unwrap();
    let head = "POST /api/v1/chameleon/echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1000\r\n\r\n";
    slow.write_all(head.as_bytes()).await.unwrap();
    slow.write_all(&[b'x'; 500]).await.unwrap();
    until("the request to begin", async || {
        // The scrape itself is in flight too.
        (sample(&host, "wharf_http_requests_in_flight").await >= 2.0).then_some(())
    })
    .await;
    until_prepared(&host, 1.0).await;
    slow.write_all(&[b'x'; 500]).await.unwrap();
    let mut response = String::new();
    slow.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    until_prepared(&host, 0.0).await;
    assert_eq!(host.anonymous().get("/chameleon/echo/x").await.status, 200);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_is_not_unloaded_while_its_machine_code_is_not_on_disk() {
    let host = TestHost::sqlite(Setup::default().with_manual_clock()).await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    let mut files = std::fs::read_dir(host.config().server.data_dir.join("compiled")).unwrap();
    // As if the disk had been full at the deploy.
    std::fs::remove_file(files.next().unwrap().unwrap().path()).unwrap();
    host.deploy_chameleon().await;
    until_prepared(&host, 1.0).await;
    assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
    assert_eq!(prepared(&host).await, 1.0, "it was still loaded");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_upload_to_one_plugin_does_not_keep_the_old_release_of_another() {
    let host = TestHost::sqlite(Setup::default()).await;
    host.deploy_chameleon().await;
    host.superuser().deploy(&liar(json!({ "answer": "one" })).0, "").await.ok();
    let mut slow = TcpStream::connect(host.addr()).await.unwrap();
    let head = "POST /api/v1/chameleon/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n";
    slow.write_all(head.as_bytes()).await.unwrap();
    slow.write_all(&[b'x'; 500]).await.unwrap();
    until("the request to begin", async || {
        let samples = samples(host.superuser()).await;
        // The scrape itself is in flight too.
        samples.iter().any(|(name, value)| name == "wharf_http_requests_in_flight" && *value >= 2.0).then_some(())
    })
    .await;

    host.superuser().deploy(&liar(json!({ "answer": "two" })).0, "").await.ok();
    until("the old release to be freed", async || (draining(&host).await == 0.0).then_some(())).await;
    // The upload keeps the release that it goes to.
    host.superuser().deploy(&Component::chameleon().rebuilt("again").0, "").await.ok();
    assert_eq!(draining(&host).await, 1.0);
    drop(slow);
    until("the upload's release to be freed", async || (draining(&host).await == 0.0).then_some(())).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_whose_database_failed_at_its_first_request_is_served_once_it_works() {
    let mut host = TestHost::sqlite(Setup::default()).await;
    host.deploy_chameleon().await;
    let directory = host.config().server.data_dir.join("plugins/chameleon");
    let aside = directory.with_extension("aside");
    host.restart_after(async |_| {
        std::fs::rename(&directory, &aside).unwrap();
        std::fs::write(&directory, "not a directory").unwrap();
    })
    .await;
    for _ in 0..2 {
        assert_eq!(host.anonymous().get("/chameleon/echo/x").await.status, 503);
    }
    std::fs::remove_file(&directory).unwrap();
    std::fs::rename(&aside, &directory).unwrap();
    until("the plugin to be served", async || {
        (host.anonymous().get("/chameleon/echo/x").await.status == 200).then_some(())
    })
    .await;
    host.stop().await;
}
