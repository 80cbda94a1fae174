//! Deploys under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::support::{Component, Setup, TestHost};

const DEPLOYS: usize = 200;
const CLIENTS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_deploys_lose_no_request() {
    let host = TestHost::sqlite(Setup::default()).await;
    let builds = [Component::hello().rebuilt("even"), Component::hello().rebuilt("odd")];
    host.superuser().deploy(&builds[1].0, "").await.ok();
    let done = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU32::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (client, done, answered) = (host.anonymous(), Arc::clone(&done), Arc::clone(&answered));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let greeting = client.get("/hello/you").await.ok();
                    assert_eq!(greeting["message"], "Hello you");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for build in builds.iter().cycle().take(DEPLOYS) {
        let deployed = host.superuser().deploy(&build.0, "").await.ok();
        assert_eq!(deployed["unchanged"], false);
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert!(answered.load(Ordering::Relaxed) > 0);
    host.stop().await;
}
