//! The database of the host fails: its file is locked, its server ends connections, or the network swallows packets. Each
//! request gets a 503, never a 500, and everything works again without a restart.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use sqlx::{Connection as _, Executor as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use wharf::config::{Database, Secret};
use wharf::db::Db;
use wharf::db::host_pool::PgHostPool;

use crate::plugin::liar;
use crate::support::event_source::EventSource;
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::intake::Intake;
use crate::support::patience::PATIENCE;
use crate::support::polling::until;
use crate::support::postgres::TestDatabase;
use crate::support::{Backend, Setup, TestHost, postgres};

/// Short for an outage, and long enough for the first connections of a host on a busy machine.
const SHORT: Duration = Duration::from_secs(3);

pub(super) fn impatient() -> Setup {
    Setup::default().with(|config| {
        config.database.timeout = SHORT;
        config.database.statement_timeout = SHORT;
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_file_is_a_503_until_it_is_unlocked() {
    let host = TestHost::sqlite(impatient()).await;
    let file = format!("sqlite://{}", host.config().server.data_dir.join("wharf.sqlite").display());
    let mut locker = sqlx::SqliteConnection::connect(&file).await.unwrap();
    locker.execute("BEGIN IMMEDIATE").await.unwrap();
    for _ in 0..3 {
        host.anonymous().sign_in(SUPERUSER, PASSWORD).await.has_code(503, "database_unavailable");
        host.superuser().get("/users/").await.ok();
    }
    locker.execute("ROLLBACK").await.unwrap();
    for _ in 0..10 {
        host.anonymous().sign_in(SUPERUSER, PASSWORD).await.ok();
    }
    host.stop().await;
}

const HOST_CONNECTIONS: &str =
    "pg_stat_activity WHERE usename = 'wharf_host' AND datname = current_database() AND pid <> pg_backend_pid()";

/// Returns the query for a statement of the host that waits for a lock.
fn waiting_statement() -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(format!("SELECT 1 FROM {HOST_CONNECTIONS} AND wait_event_type = 'Lock' AND state = 'active'"))
}

/// Returns the query that ends the connections of the host.
fn end() -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(format!("SELECT pg_terminate_backend(pid, 5000) FROM {HOST_CONNECTIONS}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_connections_of_postgres_are_replaced() {
    let setup = Setup::default().with(|config| config.database.statement_timeout = SHORT);
    let Some(host) = TestHost::start(Backend::Postgres, setup).await else { return };
    let mut superuser = postgres::connect(host.database().unwrap()).await;
    // Idle connections.
    for _ in 0..3 {
        superuser.execute(end()).await.unwrap();
        for _ in 0..5 {
            host.superuser().get("/users/").await.ok();
        }
        superuser.execute(end()).await.unwrap();
        host.anonymous().sign_in(SUPERUSER, PASSWORD).await.ok();
    }
    // A connection in use.
    superuser.execute("BEGIN; LOCK TABLE wharf.users").await.unwrap();
    let waiting = tokio::spawn({
        let client = host.superuser().clone();
        async move { client.get("/users/").await }
    });
    // Within a transaction, PostgreSQL shows the connections as they were at the first look.
    let mut observer = postgres::connect(host.database().unwrap()).await;
    until("the statement to wait", async || observer.fetch_optional(waiting_statement()).await.unwrap()).await;
    observer.execute(end()).await.unwrap();
    // The read is repeated once, and waits again.
    waiting.await.unwrap().has_code(503, "database_unavailable");
    superuser.execute("ROLLBACK").await.unwrap();
    for _ in 0..5 {
        host.superuser().get("/users/").await.ok();
    }
    host.stop().await;
}

/// Opens the database of a host, without the host.
async fn open(url: &str) -> (tempfile::TempDir, PgHostPool) {
    let settings = Database { url: Some(Secret::new(url)), connections: 2, timeout: PATIENCE, ..Database::default() };
    let dir = tempfile::tempdir().unwrap();
    let Db::Postgres(pool) = Db::open(&settings, dir.path()).await.unwrap() else { unreachable!() };
    (dir, pool)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_fails_because_its_connection_was_ended_before() {
    let Some(database) = postgres::database().await else { return };
    let mut superuser = postgres::connect(&database).await;
    let (_dir, pool) = open(&database.url).await;
    for _ in 0..3 {
        sqlx::query("SELECT 1").execute(&pool).await.unwrap();
        superuser.execute(end()).await.unwrap();
        assert_eq!(sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM users").fetch_one(&pool).await.unwrap(), 0);
        superuser.execute(end()).await.unwrap();
        assert_eq!(sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM users").fetch_all(&pool).await.unwrap(), [0]);
        superuser.execute(end()).await.unwrap();
        sqlx::query("DELETE FROM users").execute(&pool).await.unwrap();
        superuser.execute(end()).await.unwrap();
        pool.begin().await.unwrap().commit().await.unwrap();
        superuser.execute(end()).await.unwrap();
        let mut connection = pool.acquire().await.unwrap();
        sqlx::query("DELETE FROM users").execute(&mut connection).await.unwrap();
    }
    pool.close().await;
}

/// Runs a statement that waits for a lock, ends its connection, and frees the lock.
async fn end_during(sql: &'static str, pool: &PgHostPool, database: &TestDatabase) -> sqlx::Result<()> {
    let (mut superuser, mut observer) = (postgres::connect(database).await, postgres::connect(database).await);
    superuser.execute("BEGIN; LOCK TABLE wharf.users").await.unwrap();
    sqlx::query("SELECT 1").execute(pool).await.unwrap();
    let statement = tokio::spawn({
        let pool = pool.clone();
        async move { sqlx::query(sql).execute(&pool).await.map(drop) }
    });
    until("the statement to wait", async || observer.fetch_optional(waiting_statement()).await.unwrap()).await;
    observer.execute(end()).await.unwrap();
    superuser.execute("ROLLBACK").await.unwrap();
    statement.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_whose_connection_ended_is_repeated_and_a_write_is_not() {
    let Some(database) = postgres::database().await else { return };
    let (_dir, pool) = open(&database.url).await;
    end_during("SELECT COUNT(*) FROM users", &pool, &database).await.unwrap();
    end_during("DELETE FROM users", &pool, &database).await.unwrap_err();
    let write = "WITH gone AS (DELETE FROM users RETURNING id) SELECT COUNT(*) FROM gone";
    end_during(write, &pool, &database).await.unwrap_err();
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_takes_one_round_trip_to_postgres() {
    let Some(database) = postgres::database().await else { return };
    let (network, url) = Network::between(&database.url).await;
    let (_dir, pool) = open(&url).await;
    let read = async || sqlx::query("SELECT COUNT(*) FROM users").execute(&pool).await.unwrap();
    let transaction = async || pool.begin().await.unwrap().commit().await.unwrap();
    read().await;
    transaction().await;
    let before = network.requests();
    for _ in 0..20 {
        read().await;
        transaction().await;
    }
    // One for each statement. Tests before or after the use of a connection would add forty each.
    let trips = network.requests() - before;
    assert!((60..80).contains(&trips), "{trips}");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_of_the_host_has_a_time_limit_on_postgres() {
    let setup = Setup::default().with(|config| config.database.statement_timeout = SHORT);
    let Some(host) = TestHost::start(Backend::Postgres, setup).await else { return };
    let mut superuser = postgres::connect(host.database().unwrap()).await;
    superuser.execute("BEGIN; LOCK TABLE wharf.users").await.unwrap();
    host.superuser().get("/users/").await.has_code(503, "database_unavailable");
    superuser.execute("ROLLBACK").await.unwrap();
    host.superuser().get("/users/").await.ok();
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_events_goes_on_while_its_caller_cannot_be_looked_up() {
    let setup = Setup::default().with(|config| config.database.statement_timeout = SHORT);
    let Some(host) = TestHost::start(Backend::Postgres, setup).await else { return };
    let component = liar(json!({ "name": "shop", "topics": [["public", {}, "public"]] }));
    host.superuser().deploy(&component.0, "grant=events").await.ok();
    let jane = host.user("jane@example.com").await;
    let mut stream = EventSource::open(jane.request(Method::GET, "/events?topic=shop.public")).await;
    let mut superuser = postgres::connect(host.database().unwrap()).await;
    superuser.execute("BEGIN; LOCK TABLE wharf.users").await.unwrap();
    let mut observer = postgres::connect(host.database().unwrap()).await;
    until("a look-up to wait", async || observer.fetch_optional(waiting_statement()).await.unwrap()).await;
    until("the look-up to fail", async || {
        observer.fetch_optional(waiting_statement()).await.unwrap().is_none().then_some(())
    })
    .await;
    superuser.execute("ROLLBACK").await.unwrap();
    let intake = Intake::of(&host).await;
    intake.announce("shop", &[("shop.public", "1".to_owned(), None)]).await;
    assert_eq!(stream.message().await.1, 1);
    intake.close().await;
    host.stop().await;
}

/// Forwards connections until it swallows: then it takes every byte and passes none on, and the connections of that time
/// never work again.
pub(super) struct Network {
    addr: SocketAddr,
    swallows: Arc<AtomicBool>,
    /// The packets that clients sent.
    requests: Arc<AtomicUsize>,
}

impl Network {
    /// Returns a network to a server of PostgreSQL, and the URL through it.
    async fn between(url: &str) -> (Self, String) {
        let port = url.rsplit(':').next().and_then(|rest| rest.split('/').next()).unwrap();
        let network = Self::to(SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()))).await;
        let through = url.replace(&format!(":{port}/"), &format!(":{}/", network.addr.port()));
        (network, through)
    }

    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (swallows, requests) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicUsize>::default());
        let (swallowing, counted) = (Arc::clone(&swallows), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = TcpStream::connect(server).await.unwrap().into_split();
                tokio::spawn(forward(from_client, to_server, Arc::clone(&swallowing), Arc::clone(&counted)));
                tokio::spawn(forward(from_server, to_client, Arc::clone(&swallowing), Arc::default()));
            }
        });
        Self { addr, swallows, requests }
    }

    /// Returns how often clients sent something.
    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub(super) fn swallow(&self, on: bool) {
        self.swallows.store(on, Ordering::SeqCst);
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    swallows: Arc<AtomicBool>,
    packets: Arc<AtomicUsize>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut dead = false;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        packets.fetch_add(1, Ordering::SeqCst);
        dead |= swallows.load(Ordering::SeqCst);
        if !dead && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Starts a host on PostgreSQL whose connections pass a network. Returns `None` if PostgreSQL is not installed.
pub(super) async fn behind_network(setup: Setup) -> Option<(TestHost, Network)> {
    let mut host = TestHost::start(Backend::Postgres, setup).await?;
    let (network, through) = Network::between(&host.database().unwrap().url).await;
    host.restart_with(|config| config.database.url = Some(Secret::new(&through))).await;
    Some((host, network))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_swallows_packets_delays_a_request_only_for_a_bounded_time() {
    let Some((host, network)) = behind_network(impatient()).await else { return };
    let requests = async || futures_util::future::join_all((0..6).map(|_| host.superuser().get("/users/"))).await;
    for response in requests().await {
        response.ok();
    }
    network.swallow(true);
    for response in requests().await {
        response.has_code(503, "database_unavailable");
    }
    network.swallow(false);
    until("the host to connect again", async || (host.superuser().get("/users/").await.status == 200).then_some(()))
        .await;
    for response in requests().await {
        response.ok();
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_do_not_wait_for_an_unreachable_database_one_after_the_other() {
    let Some((host, network)) = behind_network(impatient().with_manual_clock()).await else { return };
    host.superuser().get("/users/").await.ok();
    network.swallow(true);
    // The signing keys have to be read again before a token can be checked.
    host.clock().advance(Duration::from_secs(5));
    let requests = futures_util::future::join_all((0..120).map(|_| host.superuser().get("/users/")));
    // Together they need seconds, one after the other minutes.
    for response in tokio::time::timeout(Duration::from_secs(60), requests).await.unwrap() {
        response.has_code(503, "database_unavailable");
    }
    network.swallow(false);
    until("the host to connect again", async || (host.superuser().get("/users/").await.status == 200).then_some(()))
        .await;
    host.stop().await;
}
