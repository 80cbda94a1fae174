//! Two processes on one PostgreSQL share the tasks and the schedules of plugins. Wharf does not allow that for other reasons
//! (`db::node_lock`), so the test lifts the lock.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::task::JoinSet;

use crate::http::metrics::samples;
use crate::support::courier::{self, Receiver};
use crate::support::polling::until;
use crate::support::process::{Process, home};
use crate::support::{Client, postgres};

/// How many parcels each client sends.
const PARCELS: usize = 30;
const TICKS: usize = 4;

/// Lets a second host start, and both change plugins. PostgreSQL prefers this function to its own one, because the argument
/// of that has another type. Connections with a search path of their own do not find it, and need not.
const LIFT_LOCK: &str = "
    CREATE SCHEMA lifted;
    GRANT USAGE ON SCHEMA lifted TO PUBLIC;
    CREATE FUNCTION lifted.pg_try_advisory_lock(integer) RETURNS boolean LANGUAGE sql AS 'SELECT TRUE';
    DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET search_path = lifted, pg_catalog', current_database());
    END $$;
    DROP TRIGGER check_holder ON wharf.plugins;
    DROP TRIGGER check_holder ON wharf.releases;
";

/// Makes the time of every schedule come now.
const DUE: &str = "UPDATE wharf.schedules SET next_at = (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint";

/// Ends the leases of a node, which takes a minute otherwise.
const END_LEASES: &str = "UPDATE wharf.tasks SET due_at = 0 WHERE state = 'running' AND starts_with(owner, $1)";

/// Returns the name of a process in the owners of its tasks.
fn node(process: &Process) -> String {
    std::fs::read_to_string(process.home.path().join("data/node")).unwrap().trim().to_owned()
}

/// Returns the number of tasks that a process runs.
async fn running(connection: &mut PgConnection, node: &str) -> i64 {
    const SQL: &str = "SELECT count(*) FROM wharf.tasks WHERE state = 'running' AND starts_with(owner, $1)";
    sqlx::query_scalar(SQL).bind(node).fetch_one(connection).await.unwrap()
}

/// Returns how many jobs succeeded in a process.
async fn succeeded(superuser: &Client) -> f64 {
    let name = r#"wharf_task_outcomes_total{plugin="courier",outcome="succeeded"}"#;
    samples(superuser).await.into_iter().find(|(sample, _)| sample == name).map_or(0.0, |(_, count)| count)
}

/// Sends parcels to both processes in two lanes, which they share.
fn send(processes: [&Process; 2], number: usize) -> JoinSet<Vec<String>> {
    let mut clients = JoinSet::new();
    for lane in ["north", "south"] {
        for process in processes {
            clients.spawn(courier::send(process.client(), lane.to_owned(), number));
        }
    }
    clients
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_tasks_and_schedules_and_one_takes_over_from_the_other() {
    let Some(database) = postgres::database().await else { return };
    let settings = [("WHARF_DATABASE_URL", database.url.as_str()), ("WHARF_PLUGIN_BACKGROUND_PER_PLUGIN", "4")];
    let receiver = Receiver::start().await;
    let one = Process::start_with(home(), &settings).await;
    let superuser = one.superuser().await;
    receiver.deploy(&superuser).await;
    let mut connection = postgres::connect(&database).await;
    sqlx::raw_sql(LIFT_LOCK).execute(&mut connection).await.unwrap();
    let other = Process::start_with(home(), &settings).await;
    let nodes = [node(&one), node(&other)];

    // Slow enough that the other process, which has to compile the courier first, takes part.
    receiver.set_pause(Duration::from_millis(300));
    let clients = send([&one, &other], PARCELS);
    until("both processes to run tasks at once", async || {
        let running = [running(&mut connection, &nodes[0]).await, running(&mut connection, &nodes[1]).await];
        (running[0] > 0 && running[1] > 0).then_some(())
    })
    .await;
    let other_superuser = other.superuser().await;
    until("jobs to succeed in both processes", async || {
        let succeeded = [succeeded(&superuser).await, succeeded(&other_superuser).await];
        (succeeded[0] > 0.0 && succeeded[1] > 0.0).then_some(())
    })
    .await;
    receiver.set_pause(Duration::from_millis(20));
    clients.join_all().await;
    let parcels = receiver.until_processed(&one.client()).await;
    courier::until_no_task_is_left(&superuser).await;
    receiver.check(&parcels);
    let steps = ["event", "job"].map(|kind| receiver.steps(kind).len());
    assert_eq!(steps, [parcels.len(); 2], "each task ran once");

    for tick in 1..=TICKS {
        sqlx::query(DUE).execute(&mut connection).await.unwrap();
        until("the job of the schedule", async || (receiver.steps("tick").len() >= tick).then_some(())).await;
        // Until it has ended, the schedule adds no other one.
        courier::until_no_task_is_left(&superuser).await;
    }
    let mut times: Vec<_> = receiver.steps("tick").into_iter().map(|step| step.scheduled_at.unwrap()).collect();
    assert_eq!(times.len(), TICKS, "{times:?}");
    times.dedup();
    assert_eq!(times.len(), TICKS, "each time caused one job");
    assert!(receiver.overlaps().is_empty(), "{:?}", receiver.overlaps());

    // A process dies while it runs tasks, and has committed messages that it has not moved yet.
    receiver.set_pause(Duration::from_secs(1));
    send([&one, &other], 8).join_all().await;
    until("the other process to run tasks", async || (running(&mut connection, &nodes[1]).await > 0).then_some(()))
        .await;
    drop(other.kill());
    let interrupted = running(&mut connection, &nodes[1]).await;
    receiver.set_pause(Duration::ZERO);
    sqlx::query(END_LEASES).bind(&nodes[1]).execute(&mut connection).await.unwrap();
    let parcels = receiver.until_processed(&one.client()).await;
    courier::until_no_task_is_left(&superuser).await;
    receiver.check(&parcels);
    let repeated = receiver.count() - TICKS - 2 * parcels.len();
    assert!(
        i64::try_from(repeated).unwrap() <= interrupted,
        "{repeated} tasks ran again, {interrupted} were interrupted"
    );
    one.stopped().await;
}
