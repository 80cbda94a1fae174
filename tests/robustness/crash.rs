//! The real program, killed by SIGKILL at random moments while it commits, delivers events and runs jobs. Committed
//! work is processed at least once, work that was not committed never is, and the events of one key keep their order.
//!
//! `WHARF_CRASH_ROUNDS` sets the number of kills, and `WHARF_CRASH_SEED` their moments (`make crash ROUNDS=200`).

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::courier::{self, Receiver};
use crate::support::postgres::{self, TestDatabase};
use crate::support::process::{Process, home};

const ROUNDS: &str = "WHARF_CRASH_ROUNDS";
const SEED: &str = "WHARF_CRASH_SEED";

/// Kills unless the environment says otherwise.
const DEFAULT_ROUNDS: u64 = 12;
/// Clients that send parcels at once. Two share each lane.
const CLIENTS: usize = 6;
/// The most parcels of one client in one round, so that the work is done some time.
const PARCELS: usize = 15;
/// The reports that each second round waits for. A task that is interrupted six times in a row is a dead letter, and hosts
/// that all die before they have loaded the courier could do that.
const REPORTS: usize = 20;

/// Returns the number in an environment variable.
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap())
}

/// A reproducible sequence of numbers (SplitMix64).
struct Sequence(u64);

impl Sequence {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

async fn killed_again_and_again(database: Option<TestDatabase>) {
    let rounds = variable(ROUNDS).unwrap_or(DEFAULT_ROUNDS);
    let seed = variable(SEED).unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0);
    eprintln!("{ROUNDS}={rounds} {SEED}={seed}");
    let mut sequence = Sequence(seed);
    let mut settings = vec![("WHARF_PLUGIN_BACKGROUND_PER_PLUGIN", "8")];
    settings.extend(database.as_ref().map(|database| ("WHARF_DATABASE_URL", database.url.as_str())));
    let receiver = Receiver::start().await;
    let mut process = Process::start_with(home(), &settings).await;
    receiver.deploy(&process.superuser().await).await;

    let mut confirmed = BTreeSet::new();
    for round in 0..rounds {
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            clients.spawn(courier::send(process.client(), format!("lane-{}", client / 2), PARCELS));
        }
        if round % 2 == 0 {
            receiver.until_more(REPORTS).await;
            tokio::time::sleep(Duration::from_millis(sequence.below(1_000))).await;
        } else {
            tokio::time::sleep(Duration::from_millis(sequence.below(300))).await;
        }
        let home = process.kill();
        confirmed.extend(clients.join_all().await.into_iter().flatten());
        process = Process::start_with(home, &settings).await;
    }

    let parcels = receiver.until_processed(&process.client()).await;
    let committed: BTreeSet<String> = parcels.iter().map(|parcel| parcel.id.clone()).collect();
    let missing: Vec<_> = confirmed.difference(&committed).collect();
    assert!(missing.is_empty(), "confirmed, but not committed: {missing:?}");
    assert!(!confirmed.is_empty());
    courier::until_no_task_is_left(&process.superuser().await).await;
    receiver.check(&parcels);
    let attempts = receiver.steps("event").len() + receiver.steps("job").len();
    eprintln!("{} events and jobs in {attempts} attempts", parcels.len() * 2);
    process.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_killed_again_and_again_loses_nothing_on_sqlite() {
    killed_again_and_again(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_killed_again_and_again_loses_nothing_on_postgres() {
    let Some(database) = postgres::database().await else { return };
    killed_again_and_again(Some(database)).await;
}
