//! The database of the host fails: its file is locked, its server ends connections, or the network swallows packets. Each
//! request gets a 503, never a 500, and everything works again without a restart.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use sqlx::{Connection as _, Executor as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use wharf::config::Secret;

use crate::plugin::liar;
use crate::support::event_source::EventSource;
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::intake::Intake;
use crate::support::polling::until;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_connections_of_postgres_are_replaced() {
    let Some(host) = TestHost::start(Backend::Postgres, Setup::default()).await else { return };
    let mut superuser = postgres::connect(host.database().unwrap()).await;
    let end = || sqlx::AssertSqlSafe(format!("SELECT pg_terminate_backend(pid, 5000) FROM {HOST_CONNECTIONS}"));
    // Idle connections.
    for _ in 0..3 {
        superuser.execute(end()).await.unwrap();
        for _ in 0..5 {
            host.superuser().get("/users/").await.ok();
        }
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
    waiting.await.unwrap().has_code(503, "database_unavailable");
    superuser.execute("ROLLBACK").await.unwrap();
    for _ in 0..5 {
        host.superuser().get("/users/").await.ok();
    }
    host.stop().await;
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
}

impl Network {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let swallows = Arc::new(AtomicBool::new(false));
        let swallowing = Arc::clone(&swallows);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = TcpStream::connect(server).await.unwrap().into_split();
                tokio::spawn(forward(from_client, to_server, Arc::clone(&swallowing)));
                tokio::spawn(forward(from_server, to_client, Arc::clone(&swallowing)));
            }
        });
        Self { addr, swallows }
    }

    pub(super) fn swallow(&self, on: bool) {
        self.swallows.store(on, Ordering::SeqCst);
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, swallows: Arc<AtomicBool>) {
    let mut buffer = vec![0; 64 * 1024];
    let mut dead = false;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        dead |= swallows.load(Ordering::SeqCst);
        if !dead && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Starts a host on PostgreSQL whose connections pass a network. Returns `None` if PostgreSQL is not installed.
pub(super) async fn behind_network(setup: Setup) -> Option<(TestHost, Network)> {
    let mut host = TestHost::start(Backend::Postgres, setup).await?;
    let url = host.database().unwrap().url.clone();
    let port = url.rsplit(':').next().and_then(|rest| rest.split('/').next()).unwrap().to_owned();
    let network = Network::to(SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()))).await;
    let through = url.replace(&format!(":{port}/"), &format!(":{}/", network.addr.port()));
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
    // Together they need a second or two, one after the other two minutes.
    for response in tokio::time::timeout(Duration::from_secs(60), requests).await.unwrap() {
        response.has_code(503, "database_unavailable");
    }
    network.swallow(false);
    until("the host to connect again", async || (host.superuser().get("/users/").await.status == 200).then_some(()))
        .await;
    host.stop().await;
}
