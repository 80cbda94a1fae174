//! What a running plugin may not do, each by a guest that does it, while its neighbour answers.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use crate::support::{Component, Setup, TestHost};

async fn attacked(change: impl FnOnce(&mut wharf::config::Config)) -> TestHost {
    let host = TestHost::sqlite(Setup::default().with(change)).await;
    host.deploy_chameleon().await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    host
}

async fn neighbour_answers(host: &TestHost) {
    host.anonymous().get("/hello/").await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traps_and_limits_end_the_call_alone_and_say_which() {
    let host = attacked(|config| {
        config.plugins.cpu_time = Duration::from_millis(200);
        config.plugins.deadline = Duration::from_secs(2);
        config.plugins.memory_bytes = 16 << 20;
        config.plugins.response_bytes = 1 << 20;
        config.plugins.host_calls = 100;
    })
    .await;
    let client = host.anonymous();
    for (path, status, code) in [
        ("/chameleon/trap", 502, "plugin_trap"),
        ("/chameleon/panic", 502, "plugin_trap"),
        ("/chameleon/exit/0", 502, "plugin_trap"),
        ("/chameleon/recurse", 502, "plugin_trap"),
        ("/chameleon/endless", 504, "plugin_cpu_limit"),
        ("/chameleon/sleep/60000", 504, "plugin_deadline"),
        ("/chameleon/grow/64", 502, "plugin_memory_limit"),
        ("/chameleon/host-calls/101", 502, "plugin_host_call_limit"),
        ("/chameleon/body/2000000", 502, "plugin_invalid_response"),
        ("/chameleon/status/101", 502, "plugin_invalid_response"),
        ("/chameleon/status/600", 502, "plugin_invalid_response"),
        ("/chameleon/header?name=set-cookie&value=a", 502, "plugin_invalid_response"),
        ("/chameleon/header?name=content-length&value=1", 502, "plugin_invalid_response"),
        ("/chameleon/header?name=x-a&value=a%0D%0Aset-cookie:%20b", 502, "plugin_invalid_response"),
        ("/chameleon/header?name=access-control-allow-origin&value=*", 502, "plugin_invalid_response"),
        ("/chameleon/header?name=x-a&value=a&times=65", 502, "plugin_invalid_response"),
    ] {
        let text = client.get(path).await.has_code(status, code);
        assert!(!text.contains("hunter2") && !text.contains("wasm"), "{text}");
        neighbour_answers(&host).await;
    }
    assert_eq!(client.get("/chameleon/grow/4").await.text(), "4");
    assert_eq!(client.get("/chameleon/host-calls/90").await.text(), "90");
    assert_eq!(client.get("/chameleon/flood/90").await.text(), "90", "a flood of log lines ends nothing");
    assert_eq!(client.get("/chameleon/print/100000").await.text(), "printed");
    client.get("/chameleon/problem?status=418&code=tea&detail=Pot").await.is_problem(418, "tea", "Pot");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_is_full_is_busy_and_its_neighbour_is_not() {
    let host = attacked(|config| {
        config.plugins.concurrency = 2;
        config.plugins.queue_time = Duration::from_millis(50);
        config.plugins.deadline = Duration::from_secs(3);
    })
    .await;
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let client = host.anonymous();
            tokio::spawn(async move { client.get("/chameleon/sleep/60000").await })
        })
        .collect();
    let mut busy = 0;
    neighbour_answers(&host).await;
    for call in calls {
        let answer = call.await.unwrap();
        if answer.status == 503 {
            answer.has_code(503, "plugin_busy");
            assert_eq!(answer.header("retry-after"), Some("1"));
            busy += 1;
        } else {
            answer.has_code(504, "plugin_deadline");
        }
    }
    assert_eq!(busy, 4);
    assert_eq!(host.anonymous().get("/chameleon/grow/1").await.text(), "1", "the places are given back");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_gets_no_credentials_and_sees_no_machine() {
    let host = attacked(|_| {}).await;
    let request = host.superuser().request(Method::GET, "/chameleon/echo/a%2Fb?x=%20&x=2");
    let request = request.header("cookie", "session=1").header("x-request-id", "forged");
    let answer = request.header("x-forwarded-for", "1.2.3.4").header("x-own", "yes").send().await;
    let seen = answer.ok();
    let names: Vec<&str> =
        seen["headers"].as_array().unwrap().iter().map(|header| header[0].as_str().unwrap()).collect();
    assert!(names.contains(&"x-own"));
    for withheld in ["authorization", "cookie", "x-request-id", "x-forwarded-for", "connection", "content-length"] {
        assert!(!names.contains(&withheld), "{withheld} in {names:?}");
    }
    assert_eq!(seen["id"].as_str(), answer.header("x-request-id"));
    assert_eq!((seen["word"].as_str(), seen["query"].as_str()), (Some("a/b"), Some("x=%20&x=2")));
    assert_eq!((seen["path"].as_str(), seen["method"].as_str()), (Some("/echo/a%2Fb"), Some("GET")));
    assert_eq!(seen["environment"], Value::Array(vec![]));
    assert_eq!(seen["files"], Value::Null);
    host.stop().await;
}
