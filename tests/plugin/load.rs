//! Deploys under load: not one request fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use crate::support::host::Setup;
use crate::support::{Component, TestHost};

const DEPLOYS: usize = 200;
const CLIENTS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_deploys_fail_no_request() {
    let host = TestHost::sqlite(Setup::default().with(|config| config.plugins.concurrency = 32)).await;
    let release = |word: &str| {
        Component::liar(&json!({
            "name": "liar", "version": "1.0.0", "answer": word,
            "routes": [{ "method": "GET", "path": "/", "access": "public", "operation": "{}" }],
        }))
    };
    let releases = [release("even"), release("odd")];
    host.superuser().deploy(&releases[1].0, "").await.ok();
    let done = Arc::new(AtomicBool::new(false));
    let served: Arc<[AtomicUsize; 2]> = Arc::default();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (client, done, served) = (host.anonymous(), Arc::clone(&done), Arc::clone(&served));
            tokio::spawn(async move {
                while !done.load(Ordering::SeqCst) {
                    let answer = client.get("/liar/").await;
                    let word = ["even", "odd"].iter().position(|word| *word == answer.text());
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    served[word.unwrap()].fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for deploy in 0..DEPLOYS {
        let deployed = host.superuser().deploy(&releases[deploy % 2].0, "").await.ok();
        assert_eq!(deployed["unchanged"], false);
        // Once a deploy is answered, nobody gets the old release any more.
        assert_eq!(host.anonymous().get("/liar/").await.text(), ["even", "odd"][deploy % 2]);
    }
    done.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    assert!(served.iter().all(|count| count.load(Ordering::SeqCst) > 0), "{served:?}");
    host.stop().await;
}
