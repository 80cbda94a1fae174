//! Deploys under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde_json::json;

use super::liar;
use crate::support::{Setup, TestHost};

const DEPLOYS: usize = 200;
const CLIENTS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_deploys_lose_no_request() {
    let host = TestHost::sqlite(Setup::default()).await;
    let builds = ["even", "odd"].map(|word| liar(json!({ "answer": word })));
    host.superuser().deploy(&builds[1].0, "").await.ok();
    let done = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU32::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (client, done, answered) = (host.anonymous(), Arc::clone(&done), Arc::clone(&answered));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let answer = client.get("/liar").await;
                    assert!(answer.status == 200 && matches!(&*answer.text(), "even" | "odd"), "{answer:?}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for (build, word) in builds.iter().zip(["even", "odd"]).cycle().take(DEPLOYS) {
        let deployed = host.superuser().deploy(&build.0, "").await.ok();
        assert_eq!(deployed["unchanged"], false);
        // Once a deploy is answered, the release before it answers nobody any more.
        assert_eq!(host.anonymous().get("/liar").await.text(), word);
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert!(answered.load(Ordering::Relaxed) > 0);
    host.stop().await;
}
