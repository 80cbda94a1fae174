//! `/metrics`: access, and the values that are counted.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use wharf::config::Secret;

use crate::support::component::workspace;
use crate::support::host::CHAMELEON;
use crate::support::polling::until;
use crate::support::{Client, Component, Setup, TestHost, TestResponse, both};

both!(calls_are_counted_by_outcome, current_usage_is_reported, removed_plugins_and_releases_have_no_samples);

const TOKEN: &str = "a-token-of-the-monitoring";

async fn scrape(client: &Client) -> TestResponse {
    client.plain(Method::GET, "/metrics").send().await
}

async fn metrics(host: &TestHost) -> BTreeMap<String, f64> {
    samples(host.superuser()).await.into_iter().collect()
}

/// Returns every sample by its name and labels.
pub(crate) async fn samples(client: &Client) -> Vec<(String, f64)> {
    let response = scrape(client).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let text = response.text();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// Returns a sample of a plugin's first release.
fn of(samples: &BTreeMap<String, f64>, name: &str, plugin: &str, more: &str) -> f64 {
    let key = format!("wharf_{name}{{plugin=\"{plugin}\",release=\"1\"{more}}}");
    *samples.get(&key).unwrap_or_else(|| panic!("no {key} in {:#?}", samples.keys()))
}

async fn calls_are_counted_by_outcome(host: &mut TestHost) {
    host.deploy_chameleon().await;
    let client = host.anonymous();
    for (path, times) in [("echo/x", 3), ("status/404", 2), ("status/500", 1), ("trap", 1), ("status/99", 1)] {
        for _ in 0..times {
            client.get(&format!("/chameleon/{path}")).await;
        }
    }
    assert_eq!(client.get("/chameleon/host-calls/7").await.status, 200);
    assert_eq!(client.get("/chameleon/grow/3").await.status, 200);
    client.get("/chameleon/notes").await.ok();
    let samples = metrics(host).await;
    let calls = |outcome: &str| of(&samples, "plugin_calls_total", "chameleon", &format!(",outcome=\"{outcome}\""));
    let outcomes = ["success", "client_error", "server_error", "trap", "invalid_response", "limit", "busy"];
    assert_eq!(outcomes.map(calls), [6.0, 2.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    let host_calls = |capability: &str| {
        of(&samples, "plugin_host_calls_total", "chameleon", &format!(",capability=\"{capability}\""))
    };
    assert_eq!(["cache", "sql", "auth"].map(host_calls), [7.0, 1.0, 0.0]);
    assert_eq!(of(&samples, "plugin_call_seconds_count", "chameleon", ""), 11.0);
    assert_eq!(of(&samples, "plugin_call_seconds_bucket", "chameleon", ",le=\"+Inf\""), 11.0);
    // The smoke call also created an instance, which has ended.
    assert!(of(&samples, "plugin_instances_total", "chameleon", "") >= 11.0);
    assert!(of(&samples, "plugin_cpu_seconds_total", "chameleon", "") > 0.0);
    assert!(of(&samples, "plugin_memory_peak_bytes", "chameleon", "") > f64::from(3 << 20));
    assert_eq!(samples["wharf_calls_running"], 0.0);
    assert!(samples["wharf_http_requests_total{status=\"5xx\"}"] >= 3.0);
}

async fn current_usage_is_reported(host: &mut TestHost) {
    host.superuser().deploy(&Component::chameleon().0, &format!("{CHAMELEON}&limit=concurrency=1")).await.ok();
    let client = host.anonymous();
    client.request(Method::PUT, "/chameleon/kept/key").body("value").send().await.ok();
    client.request(Method::POST, "/chameleon/notes/one").send().await;
    let calls = ["running", "waiting"].map(|_| {
        let client = host.anonymous();
        tokio::spawn(async move { client.request(Method::POST, "/chameleon/transactions/600000").try_send().await })
    });
    let of =
        |samples: &BTreeMap<String, f64>, name: &str| samples[&format!("wharf_plugin_{name}{{plugin=\"chameleon\"}}")];
    until("one call to run and one to wait", async || {
        let samples = metrics(host).await;
        let usage = ["calls_running", "calls_waiting", "sql_connections"].map(|name| of(&samples, name));
        (usage == [1.0, 1.0, 1.0]).then_some(())
    })
    .await;
    // The values of one response are not all from the same instant.
    let samples = metrics(host).await;
    assert!(of(&samples, "cache_bytes") > 0.0 && of(&samples, "sql_disk_bytes") > 0.0);
    assert_eq!(of(&samples, "cache_entries"), 1.0);
    for name in [
        "wharf_pool_slots{kind=\"memory\"}",
        "wharf_pool_slots{kind=\"stack\"}",
        "wharf_calls_running",
        "wharf_calls_waiting_bytes",
        "wharf_call_slots",
    ] {
        assert!(samples[name] >= 1.0, "{name}: {samples:#?}");
    }
    assert!(samples.keys().any(|key| key.starts_with("wharf_database_connections{")));
    let limits = host.superuser().get("/plugins/chameleon/limits").await.ok();
    let current = |name: &str| {
        let limits = limits["data"].as_array().unwrap();
        limits.iter().find(|limit| limit["name"] == name).unwrap()["current"].clone()
    };
    assert_eq!(["concurrency", "sql.connections"].map(current), [1, 1]);
    assert!(current("cache.bytes").as_u64() > Some(0));
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    until("all calls to end", async || (metrics(host).await["wharf_pool_slots{kind=\"memory\"}"] == 0.0).then_some(()))
        .await;
}

/// The number of samples depends on the live plugins and releases only.
async fn removed_plugins_and_releases_have_no_samples(host: &mut TestHost) {
    host.deploy_chameleon().await;
    let before = metrics(host).await.len();
    for round in 0..6 {
        host.superuser().deploy(&Component::chameleon().rebuilt(&round.to_string()).0, "").await.ok();
        host.superuser().deploy(&Component::hello().0, &format!("name=gone-{round}")).await.ok();
        host.anonymous().get(&format!("/gone-{round}/")).await.ok();
        host.superuser().delete(&format!("/plugins/gone-{round}?delete_data=true")).await.ok();
        host.anonymous().get(&format!("/chameleon/echo/word-{round}?query-{round}")).await.ok();
    }
    let text = scrape(host.superuser()).await.text();
    for word in ["gone-", "word-", "query-", "/echo"] {
        assert!(!text.contains(word), "{word} in {text}");
    }
    assert_eq!(metrics(host).await.len(), before);
}

#[tokio::test]
async fn metrics_are_for_superusers_and_the_metrics_token() {
    let mut host = TestHost::sqlite(Setup::default()).await;
    scrape(&host.anonymous()).await.has_code(401, "not_authenticated");
    scrape(&host.user("someone@example.com").await).await.has_code(403, "forbidden");
    scrape(&host.anonymous().with_token(TOKEN)).await.has_code(401, "invalid_token");
    let response = scrape(host.superuser()).await;
    assert_eq!(
        (response.status, response.header("content-type")),
        (200, Some("text/plain; version=0.0.4; charset=utf-8"))
    );
    host.restart_with(|config| config.server.metrics_token = Some(Secret::new(TOKEN))).await;
    assert_eq!(scrape(&host.anonymous().with_token(TOKEN)).await.status, 200);
    scrape(&host.anonymous().with_token("a-token-of-somebody-else")).await.has_code(401, "invalid_token");
    host.anonymous().with_token(TOKEN).get("/plugins/").await.has_code(401, "invalid_token");
}

#[tokio::test]
async fn client_input_never_becomes_a_label() {
    let host = TestHost::sqlite(Setup::default()).await;
    for path in ["/nowhere-in-particular", "/plugins/nobody-of-this-name"] {
        host.superuser().get(path).await;
    }
    let text = scrape(host.superuser()).await.text();
    assert!(!text.contains("nowhere-in") && !text.contains("nobody-of"), "{text}");
}

#[tokio::test]
async fn the_operating_guide_names_every_metric_and_no_other() {
    let host = TestHost::sqlite(Setup::default()).await;
    let text = scrape(host.superuser()).await.text();
    let declared: BTreeSet<&str> =
        text.lines().filter_map(|line| Some(line.strip_prefix("# TYPE ")?.split_once(' ')?.0)).collect();
    assert!(declared.len() > 40, "{text}");
    let guide = std::fs::read_to_string(workspace().join("host/OPERATING.md")).unwrap();
    let rows = guide.lines().filter(|line| line.starts_with("| `wharf_"));
    let names = rows.filter_map(|row| row.split(" | ").next()).flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let documented: BTreeSet<&str> = names.filter_map(|name| name.split('{').next()).collect();
    assert_eq!(documented, declared);
}
