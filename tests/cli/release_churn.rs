//! A thousand changes of the live release in the real program, under load: no request fails and no resource leaks.

use reqwest::Method;
use serde_json::json;

use super::{Process, home};
use crate::attack::handwritten_component::{GuestParts, attacker};
use crate::plugin::liar;
use crate::support::{Client, Load};

/// Cycles of deploy, canary, promotion and rollback: four changes each.
const WARM_UP: usize = 50;
const CYCLES: usize = 200;
const CLIENTS: usize = 4;

async fn change(superuser: &Client, builds: &[Vec<u8>; 2]) {
    let [even, odd] = builds;
    superuser.deploy(even, "").await.ok();
    assert_eq!(superuser.deploy(odd, "canary=50%25").await.ok()["on_trial"], true);
    superuser.request(Method::POST, "/plugins/liar/promote").send().await.ok();
    superuser.request(Method::POST, "/plugins/liar/rollback").send().await.ok();
    // So that the next deploy of `even` is a change.
    superuser.request(Method::POST, "/plugins/liar/rollback").send().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_release_changes_lose_no_request_and_leak_nothing() {
    let process = Process::start(home()).await;
    let superuser = process.superuser().await;
    let builds = ["even", "odd"].map(|word| liar(json!({ "answer": word })).0);
    superuser.deploy(&builds[1], "").await.ok();
    let load = Load::begin(&process.client(), CLIENTS, "/liar", ["even", "odd"]);
    for _ in 0..WARM_UP {
        change(&superuser, &builds).await;
    }
    let before = process.resources();
    for _ in 0..CYCLES {
        change(&superuser, &builds).await;
    }
    let after = process.resources();
    load.end().await;
    let history = superuser.get("/plugins/liar/history?limit=0").await.ok();
    assert!(history["count"].as_u64() >= Some(1_000), "{history}");
    // Allows for allocators and pools; 800 leaked releases would be far above it.
    assert!(after.resident_kib < before.resident_kib + 24 * 1024, "{before:?} → {after:?}");
    assert!(
        after.threads <= before.threads + 64 && after.descriptors <= before.descriptors + 64,
        "{before:?} → {after:?}"
    );
    assert!(after.files <= before.files, "{before:?} → {after:?}");
}

/// Deploys of builds that all differ, after some for caches to fill. They are small, because each is compiled.
const WARM_UP_BUILDS: usize = 8;
const BUILDS: usize = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn builds_that_all_differ_keep_no_file_open() {
    let process = Process::start(home()).await;
    let superuser = process.superuser().await;
    let mut before = None;
    for number in 0..WARM_UP_BUILDS + BUILDS {
        if number == WARM_UP_BUILDS {
            before = Some(process.resources());
        }
        let build = attacker(&format!("(drop (i32.const {number}))"), &GuestParts::default());
        superuser.deploy(&build.0, "name=liar").await.ok();
    }
    let (before, after) = (before.unwrap(), process.resources());
    // A component in memory has a file descriptor. Some pooled connections may open meanwhile.
    assert!(after.descriptors < before.descriptors + BUILDS / 2, "{before:?} → {after:?}");
}
