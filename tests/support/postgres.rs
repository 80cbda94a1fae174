//! A throwaway PostgreSQL: one private cluster for the whole test process, a fresh database for each test.
//!
//! The cluster is created from the installed binaries in a temporary directory, in memory if there is space, on a free
//! loopback port. A watchdog shell owns the server and reads a pipe from this process. When the pipe closes, however
//! this process ended, the shell stops the server and removes the directory. If PostgreSQL is not installed,
//! [`database`] returns `None` and tests report themselves as skipped; with `CI=true` that is a failure.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, postgres::PgConnectOptions};
use tokio::sync::OnceCell;
use wharf::config::{self, Secret};
use wharf::db::Db;

/// The role that Wharf logs in with. It may create roles and databases, as an operator would allow, and is no
/// superuser.
const HOST_ROLE: &str = "wharf_host";
const PASSWORD: &str = "wharf";
/// Linux's file system in memory.
const IN_MEMORY: &str = "/dev/shm";
/// The free space that is required for a cluster in memory; a cluster needs less.
const MIN_FREE_MIB: u64 = 4 * 1024;

/// A database of a single test, dropped with this value.
pub(crate) struct TestDatabase {
    /// `postgres://…` for `database.url`.
    pub(crate) url: String,
    /// The same database through the socket of the server, as libpq writes it.
    pub(crate) socket_url: String,
    /// The same database as a superuser, to inspect it independently of the host.
    pub(crate) superuser_url: String,
    name: String,
}

/// Creates an empty database that the host's role owns. Returns `None` if PostgreSQL is not installed.
pub(crate) async fn database() -> Option<TestDatabase> {
    create("template1").await
}

/// Creates a database that has the tables of a host. They are created once, and copied for each test: their creation
/// takes ten times as long.
pub(crate) async fn database_of_host() -> Option<TestDatabase> {
    static TABLES: OnceCell<()> = OnceCell::const_new();
    const TEMPLATE: &str = "host_template";
    let cluster = running().await?;
    TABLES
        .get_or_init(async || {
            cluster.administer(&format!("CREATE DATABASE {TEMPLATE} OWNER {HOST_ROLE}")).await;
            let url = Some(Secret::new(cluster.url(TEMPLATE)));
            let settings = config::Database { url, ..config::Database::default() };
            Db::open(&settings, &cluster.directory).await.unwrap().close().await;
        })
        .await;
    create(TEMPLATE).await
}

async fn create(template: &str) -> Option<TestDatabase> {
    let cluster = running().await?;
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let copy = cluster.copies_files().await;
    cluster.administer(&format!("CREATE DATABASE {name} OWNER {HOST_ROLE} TEMPLATE {template} {copy}")).await;
    Some(TestDatabase {
        url: cluster.url(&name),
        socket_url: format!(
            "postgres://{HOST_ROLE}:{PASSWORD}@/{name}?host={}&port={}",
            cluster.directory.display(),
            cluster.port
        ),
        superuser_url: format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/{name}", cluster.port),
        name,
    })
}

/// Connects to a database as its superuser.
pub(crate) async fn connect(database: &TestDatabase) -> sqlx::PgConnection {
    sqlx::PgConnection::connect(&database.superuser_url).await.unwrap()
}

/// The number of the lock of all transactions that store events, in `db::intake`.
pub(crate) const EVENT_LOCK: i64 = 0x6a1e_5c07_93d2_4bf1;

/// Returns whether anything waits for an advisory lock in the database of the connection.
pub(crate) async fn is_lock_waited_for(connection: impl sqlx::PgExecutor<'_>) -> bool {
    const WAITED_FOR: &str = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
                              AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
    sqlx::query_scalar(WAITED_FOR).fetch_one(connection).await.unwrap()
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        // Drop runs inside the test's runtime, where a thread must not block on a future.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            if let Some(cluster) = cluster() {
                runtime.block_on(cluster.administer(&format!("DROP DATABASE {name} WITH (FORCE)")));
            }
        });
        if dropped.join().is_err() && !std::thread::panicking() {
            panic!("the test's database could not be dropped");
        }
    }
}

struct Cluster {
    port: u16,
    /// The directory of the server, with its socket.
    directory: PathBuf,
    /// Holds the pipe. Its end tells the watchdog that this process has ended.
    _watchdog: Child,
}

impl Cluster {
    /// Returns the URL of a database for a host.
    fn url(&self, database: &str) -> String {
        format!("postgres://{HOST_ROLE}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// Returns the option by which a new database is a copy of files. Version 15 logs each page otherwise, which takes
    /// five times as long, and older ones know no other way and no option.
    async fn copies_files(&self) -> &'static str {
        static VERSION: OnceCell<i32> = OnceCell::const_new();
        let version = VERSION.get_or_init(async || {
            const VERSION: &str = "SELECT current_setting('server_version_num')::integer";
            let mut connection = self.connect().await;
            let version = sqlx::query_scalar(VERSION).fetch_one(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            version
        });
        if *version.await >= 150_000 { "STRATEGY FILE_COPY" } else { "" }
    }

    async fn administer(&self, sql: &str) {
        let mut connection = self.connect().await;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    async fn connect(&self) -> sqlx::PgConnection {
        let options = PgConnectOptions::new()
            .host("127.0.0.1")
            .port(self.port)
            .username("postgres")
            .password(PASSWORD)
            .database("postgres")
            .disable_statement_logging();
        options.connect().await.unwrap()
    }
}

async fn running() -> Option<&'static Cluster> {
    tokio::task::spawn_blocking(cluster).await.unwrap()
}

fn cluster() -> Option<&'static Cluster> {
    static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(|| binaries().map(|binaries| start(&binaries)));
    if cluster.is_none() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "PostgreSQL is not installed, and CI must test it");
        eprintln!("skipped: PostgreSQL is not installed");
    }
    cluster.as_ref()
}

/// Returns the directory of PostgreSQL's programs: the one in PATH, or else the newest of Debian's. Links are followed,
/// because PATH may have a link to `initdb` only.
fn binaries() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut installed: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    installed.sort();
    std::env::split_paths(&path)
        .chain(installed.into_iter().rev())
        .filter_map(|directory| Some(directory.join("initdb").canonicalize().ok()?.parent()?.to_owned()))
        .find(|directory| ["postgres", "pg_isready", "psql"].iter().all(|name| directory.join(name).is_file()))
}

/// Starts and stops the server in one shell, because the server must end before its directory is removed. `$1` is the
/// directory of the binaries, `$2` the data directory, `$3` the port. The rest is a prefix that drops root's rights,
/// because PostgreSQL refuses to run as root. Passwords are sent in clear over loopback and kept as MD5: SCRAM takes an
/// unoptimised client longer than many a test, and its 4,096 hashes took the server a sixth of its time.
const WATCHDOG: &str = r#"
bin=$1 dir=$2 port=$3; shift 3
printf %s "$PGPASSWORD" >"$dir/password"
"$@" "$bin/initdb" -D "$dir/data" -U postgres -E UTF8 --locale=C --auth-host=password --auth-local=trust \
    --pwfile="$dir/password" -N >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log" >&2; rm -rf "$dir"; exit 1; }
"$@" "$bin/postgres" -D "$dir/data" -p "$port" -k "$dir" -h 127.0.0.1 -F \
    -c full_page_writes=off -c synchronous_commit=off -c max_connections=300 -c shared_buffers=32MB \
    -c max_wal_size=128MB -c password_encryption=md5 \
    >"$dir/server.log" 2>&1 </dev/null &
server=$!
for _ in $(seq 200); do
    "$bin/pg_isready" -q -h "$dir" -p "$port" && break
    kill -0 $server 2>/dev/null || { cat "$dir/server.log" >&2; rm -rf "$dir"; exit 1; }
    sleep 0.05
done
"$bin/psql" -q -h "$dir" -p "$port" -U postgres -d postgres -c \
    "ALTER ROLE postgres PASSWORD '$PGPASSWORD';
     CREATE ROLE wharf_host LOGIN CREATEDB CREATEROLE PASSWORD '$PGPASSWORD'" >&2 && echo ready
exec >/dev/null 2>&1
cat >/dev/null
kill -INT $server
wait $server
rm -rf "$dir"
"#;

fn start(binaries: &Path) -> Cluster {
    // Another process may take the port after this one has found it free.
    for _ in 0..3 {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        if let Some((directory, watchdog)) = try_start(binaries, port) {
            return Cluster { port, directory, _watchdog: watchdog };
        }
    }
    panic!("PostgreSQL in {} does not start; see above", binaries.display());
}

/// Returns a prefix of a command that drops root's rights, and gives the directory to the user that then runs the command.
pub(crate) fn without_root(directory: &Path) -> &'static [&'static str] {
    if !is_root() {
        return &["env"];
    }
    let owned = Command::new("chown").args(["-R", "postgres"]).arg(directory).status().unwrap();
    assert!(owned.success(), "root cannot run PostgreSQL, and there is no user `postgres` to run it");
    &["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
}

/// Returns the directory of the server's socket, and its port. Returns `None` if PostgreSQL is not installed.
pub(crate) fn socket() -> Option<(&'static Path, u16)> {
    cluster().map(|cluster| (cluster.directory.as_path(), cluster.port))
}

fn try_start(binaries: &Path, port: u16) -> Option<(PathBuf, Child)> {
    let directory = directory();
    let mut watchdog = Command::new("sh");
    watchdog.arg("-c").arg(WATCHDOG).arg("wharf-pg").arg(binaries).arg(&directory).arg(port.to_string());
    watchdog.args(without_root(&directory));
    let mut watchdog = watchdog
        .current_dir(&directory)
        .env("PGPASSWORD", PASSWORD)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // A Ctrl-C ends the tests only; the watchdog ends after them.
        .process_group(0)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(watchdog.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (line == "ready\n").then_some((directory, watchdog))
}

/// Creates the cluster's directory, in memory if there is space: each database has hundreds of files, and a disk spends
/// a third of the tests' time on them.
fn directory() -> PathBuf {
    let mut builder = tempfile::Builder::new();
    builder.prefix("wharf-pg-");
    let in_memory = has_space(IN_MEMORY).then(|| builder.tempdir_in(IN_MEMORY).ok()).flatten();
    in_memory.unwrap_or_else(|| builder.tempdir().unwrap()).keep()
}

/// Returns whether a file system has enough free space, by GNU `df`. With another `df` the result is `false`.
fn has_space(directory: &str) -> bool {
    let Ok(free) = Command::new("df").args(["--output=avail", "--block-size=1M", directory]).output() else {
        return false;
    };
    let free = String::from_utf8_lossy(&free.stdout);
    free.lines().last().and_then(|free| free.trim().parse().ok()).is_some_and(|free: u64| free >= MIN_FREE_MIB)
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.trim_ascii() == b"0"
}

#[tokio::test]
async fn each_test_has_its_own_database() {
    let (Some(one), Some(two)) = (database().await, database().await) else { return };
    assert_ne!(one.url, two.url);
    let mut connection = sqlx::PgConnection::connect(&one.url).await.unwrap();
    let superuser: String = sqlx::query_scalar("SHOW is_superuser").fetch_one(&mut connection).await.unwrap();
    assert_eq!(superuser, "off");
    let mut connection = connect(&two).await;
    let superuser: String = sqlx::query_scalar("SHOW is_superuser").fetch_one(&mut connection).await.unwrap();
    assert_eq!(superuser, "on");
}
