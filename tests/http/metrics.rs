//! `/metrics`: who may read it, and what it counts.

use std::collections::BTreeMap;

use wharf::config::Secret;

use crate::support::{Answer, Client, Setup, TestHost, both};

both!(what_calls_come_to_is_counted);

const TOKEN: &str = "a-token-of-the-monitoring";

async fn scrape(client: &Client) -> Answer {
    client.plain(reqwest::Method::GET, "/metrics").send().await
}

async fn metrics(host: &TestHost) -> BTreeMap<String, f64> {
    samples(host.superuser()).await.into_iter().collect()
}

/// Every sample by its name and labels.
pub(crate) async fn samples(client: &Client) -> Vec<(String, f64)> {
    let answer = scrape(client).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// A sample of the first release of a plugin.
fn of(samples: &BTreeMap<String, f64>, name: &str, plugin: &str, more: &str) -> f64 {
    let key = format!("wharf_{name}{{plugin=\"{plugin}\",release=\"1\"{more}}}");
    *samples.get(&key).unwrap_or_else(|| panic!("no {key} in {:#?}", samples.keys()))
}

async fn what_calls_come_to_is_counted(host: &mut TestHost) {
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
    // The smoke call made an instance too, and ended as it was made.
    assert!(of(&samples, "plugin_instances_total", "chameleon", "") >= 11.0);
    assert!(of(&samples, "plugin_cpu_seconds_total", "chameleon", "") > 0.0);
    assert!(of(&samples, "plugin_memory_peak_bytes", "chameleon", "") > f64::from(3 << 20));
    assert_eq!(samples["wharf_calls_running"], 0.0);
    assert!(samples["wharf_http_requests_total{status=\"5xx\"}"] >= 3.0);
}

#[tokio::test]
async fn metrics_are_for_superusers_and_the_monitoring() {
    let mut host = TestHost::sqlite(Setup::default()).await;
    scrape(&host.anonymous()).await.has_code(401, "not_authenticated");
    scrape(&host.user("someone@example.com").await).await.has_code(403, "forbidden");
    scrape(&host.anonymous().with_token(TOKEN)).await.has_code(401, "invalid_token");
    let answer = scrape(host.superuser()).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
    host.restart_with(|config| config.server.metrics_token = Some(Secret::new(TOKEN))).await;
    assert_eq!(scrape(&host.anonymous().with_token(TOKEN)).await.status, 200);
    scrape(&host.anonymous().with_token("a-token-of-somebody-else")).await.has_code(401, "invalid_token");
    host.anonymous().with_token(TOKEN).get("/plugins/").await.has_code(401, "invalid_token");
}

#[tokio::test]
async fn a_word_of_a_client_is_no_label() {
    let host = TestHost::sqlite(Setup::default()).await;
    for path in ["/nowhere-in-particular", "/plugins/nobody-of-this-name"] {
        host.superuser().get(path).await;
    }
    let text = scrape(host.superuser()).await.text();
    assert!(!text.contains("nowhere") && !text.contains("nobody"), "{text}");
}
