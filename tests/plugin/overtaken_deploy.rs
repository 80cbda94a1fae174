//! Deploys that an operation overtakes: a deploy undoes no change that was made after it began, also while it compiles or
//! waits for its turn.

use serde_json::json;
use sqlx::Connection as _;

use super::emergencies::{deploy, deploy_state, patient, release, response, stuck};
use super::liar;
use super::releases::{operate, state};
use crate::support::polling::until;
use crate::support::{Backend, Setup, TestHost, both, postgres};

both!(a_deploy_that_waits_for_its_turn_undoes_no_change => patient());

/// Deploys two releases, one after the other. The first never ends by itself; during it, does the work. Both must end with
/// `plugin_changed`.
async fn overtake(host: &TestHost, round: &str, work: impl AsyncFnOnce()) {
    let [first, second] = ["first", "second"].map(|name| format!("{name}-{round}"));
    let (holding, waiting) = (stuck(&first), release(&second));
    let holds = async { host.superuser().deploy(&holding.0, &format!("id={first}&grant=sql")).await };
    let working = async {
        let at = async |id: &str, stage: &str| {
            until(stage, async || (deploy_state(host, id).await == json!(["running", stage])).then_some(())).await;
        };
        at(&first, "smoke").await;
        let waits = async { host.superuser().deploy(&waiting.0, &format!("id={second}&grant=sql")).await };
        let working = async {
            // It stays in this stage, because the first deploy has the turn.
            at(&second, "describe").await;
            work().await;
        };
        tokio::join!(waits, working).0
    };
    let (held, waited) = tokio::join!(holds, working);
    held.has_code(409, "plugin_changed");
    waited.has_code(409, "plugin_changed");
}

async fn a_deploy_that_waits_for_its_turn_undoes_no_change(host: &mut TestHost) {
    let host = &*host;
    deploy(host, &release("one"), "").await.ok();
    deploy(host, &release("two"), "").await.ok();
    overtake(host, "revoked", async || {
        host.superuser().delete("/plugins/liar/grants/sql").await.ok();
    })
    .await;
    assert_eq!(state(host, "liar").await, "revoked");
    host.superuser().put("/plugins/liar/grants/sql", &json!(null)).await.ok();
    overtake(host, "rolled-back", async || {
        operate(host, "liar/rollback").await.ok();
    })
    .await;
    assert_eq!(response(host, "liar").await, "one");
    overtake(host, "removed", async || {
        host.superuser().delete("/plugins/liar").await.ok();
    })
    .await;
    host.anonymous().get("/liar").await.has_code(404, "plugin_removed");
    // A deploy that begins afterwards is the operator's own decision. Of two deploys in a row, both succeed.
    let deploys = [release("three"), release("four")];
    let [three, four] = deploys.each_ref().map(|component| deploy(host, component, ""));
    let (three, four) = tokio::join!(three, four);
    let [three, four] = [three, four].map(|deployed| deployed.ok()["plugin"]["release"]["number"].as_i64().unwrap());
    assert_eq!((three - four).abs(), 1);
}

/// A migration holds a connection of the host as long as it lasts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deploys_that_migrate_leave_connections_to_the_host() {
    let setup = Setup::default().with(|config| config.database.connections = 2);
    let Some(host) = TestHost::start(Backend::Postgres, setup).await else { return };
    for name in ["one", "two"] {
        deploy(&host, &release(name), &format!("name={name}")).await.ok();
    }
    let mut other = postgres::connect(host.database().unwrap()).await;
    let mut locking = other.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM wharf.plugin_database FOR UPDATE").execute(&mut *locking).await.unwrap();
    let steps = json!([["0001", "CREATE TABLE t (a BIGINT)"], ["0002", "CREATE TABLE u (a BIGINT)"]]);
    let next = liar(json!({ "answer": "next", "migrations": steps }));
    let [one, two] = ["name=one&id=one", "name=two&id=two"].map(|query| deploy(&host, &next, query));
    let working = async {
        for id in ["one", "two"] {
            until("the migration", async || {
                (deploy_state(&host, id).await == json!(["running", "migrate"])).then_some(())
            })
            .await;
        }
        for _ in 0..5 {
            assert_eq!(state(&host, "one").await, "live");
        }
        locking.rollback().await.unwrap();
    };
    let (one, two, ()) = tokio::join!(one, two, working);
    one.ok();
    two.ok();
}
