//! Deliveries and jobs while the database or the receiver of their work is away, and while their release is swapped, paused
//! or stopped. They are delayed, none is lost, and nobody is quarantined.

use std::time::Duration;

use reqwest::Method;
use sqlx::{Connection as _, Executor as _};
use tokio::task::JoinSet;

use super::database_outage::{behind_network, impatient};
use crate::support::courier::{self, Receiver};
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::polling::until;
use crate::support::{Component, Setup, TestHost, both};

both! {
    operations_on_a_plugin_lose_no_task,
    a_receiver_that_is_away_delays_tasks_and_loses_none,
}

const CLIENTS: usize = 4;
/// Parcels of each client in one round.
const PARCELS: usize = 12;

/// Sends parcels in the background. Two clients share each lane.
fn send(host: &TestHost) -> JoinSet<Vec<String>> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(courier::send(host.anonymous(), format!("lane-{}", client / 2), PARCELS));
    }
    clients
}

/// Waits until everything is processed. Nothing was lost, and the courier was never quarantined.
async fn check(host: &TestHost, receiver: &Receiver, confirmed: &[String]) {
    let parcels = receiver.until_processed(&host.anonymous()).await;
    courier::until_no_task_is_left(host.superuser()).await;
    receiver.check(&parcels);
    for id in confirmed {
        assert!(parcels.iter().any(|parcel| parcel.id == *id), "confirmed, but not committed: {id}");
    }
    let history = host.superuser().get("/plugins/courier/history").await.ok().to_string();
    assert!(!history.contains("quarantine"), "{history}");
}

async fn operations_on_a_plugin_lose_no_task(host: &mut TestHost) {
    let receiver = Receiver::start().await;
    receiver.deploy(host.superuser()).await;
    // So that tasks run whenever something happens.
    receiver.set_pause(Duration::from_millis(20));
    let mut confirmed = Vec::new();
    for operation in ["deploy", "rollback", "pause", "stop", "deploy", "stop"] {
        let clients = send(host);
        receiver.until_more(CLIENTS).await;
        let operate = async |name: &str| {
            host.superuser().request(Method::POST, &format!("/plugins/courier/{name}")).send().await.ok();
        };
        match operation {
            "deploy" => {
                let release = Component::courier().rebuilt(&confirmed.len().to_string());
                receiver.deploy_release(host.superuser(), &release).await;
            }
            "rollback" => operate("rollback").await,
            "pause" => {
                operate("pause").await;
                operate("resume").await;
            }
            _ => host.restart().await,
        }
        confirmed.extend(clients.join_all().await.into_iter().flatten());
    }
    check(host, &receiver, &confirmed).await;
}

async fn a_receiver_that_is_away_delays_tasks_and_loses_none(host: &TestHost) {
    let receiver = Receiver::start().await;
    receiver.deploy(host.superuser()).await;
    receiver.refuse(true);
    let confirmed: Vec<String> = send(host).join_all().await.into_iter().flatten().collect();
    // More than the faults that quarantine a release.
    until("attempts to fail", async || (receiver.refused() >= 30).then_some(())).await;
    receiver.refuse(false);
    check(host, &receiver, &confirmed).await;
    assert_eq!(receiver.count(), 2 * courier::parcels(&host.anonymous()).await.len(), "a success is not repeated");
}

/// A host that does not wait long for its database, nor do its plugins.
fn hasty() -> Setup {
    impatient().with(|config| config.plugins.sql_time = config.database.statement_timeout)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_file_delays_tasks_and_loses_none() {
    let host = TestHost::sqlite(hasty()).await;
    let receiver = Receiver::start().await;
    receiver.deploy(host.superuser()).await;
    let file = format!("sqlite://{}", host.config().server.data_dir.join("wharf.sqlite").display());
    let mut locker = sqlx::SqliteConnection::connect(&file).await.unwrap();
    let mut confirmed = Vec::new();
    for _ in 0..2 {
        let clients = send(&host);
        receiver.until_more(CLIENTS).await;
        locker.execute("BEGIN IMMEDIATE").await.unwrap();
        host.anonymous().sign_in(SUPERUSER, PASSWORD).await.has_code(503, "database_unavailable");
        confirmed.extend(clients.join_all().await.into_iter().flatten());
        locker.execute("ROLLBACK").await.unwrap();
    }
    check(&host, &receiver, &confirmed).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_swallows_packets_delays_tasks_and_loses_none() {
    let Some((host, network)) = behind_network(hasty()).await else { return };
    let receiver = Receiver::start().await;
    receiver.deploy(host.superuser()).await;
    let mut confirmed = Vec::new();
    for _ in 0..2 {
        let clients = send(&host);
        receiver.until_more(CLIENTS).await;
        network.swallow(true);
        host.superuser().get("/users/").await.has_code(503, "database_unavailable");
        network.swallow(false);
        let is_back = async || (host.superuser().get("/users/").await.status == 200).then_some(());
        until("the host to connect again", is_back).await;
        confirmed.extend(clients.join_all().await.into_iter().flatten());
    }
    check(&host, &receiver, &confirmed).await;
    host.stop().await;
}
