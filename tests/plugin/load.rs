//! Deploys under load.

use serde_json::json;

use super::liar;
use crate::support::{Load, Setup, TestHost};

const DEPLOYS: usize = 200;
const CLIENTS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_deploys_lose_no_request() {
    let host = TestHost::sqlite(Setup::default()).await;
    let builds = ["even", "odd"].map(|word| liar(json!({ "answer": word })));
    host.superuser().deploy(&builds[1].0, "").await.ok();
    let load = Load::begin(&host.anonymous(), CLIENTS, "/liar", ["even", "odd"]);
    for (build, word) in builds.iter().zip(["even", "odd"]).cycle().take(DEPLOYS) {
        let deployed = host.superuser().deploy(&build.0, "").await.ok();
        assert_eq!(deployed["unchanged"], false);
        // Once a deploy is answered, the release before it answers nobody any more.
        assert_eq!(host.anonymous().get("/liar").await.text(), word);
    }
    load.end().await;
    host.stop().await;
}
