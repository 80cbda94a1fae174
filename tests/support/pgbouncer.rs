//! PgBouncer in front of the PostgreSQL of the tests. A shell owns it and ends it when this process has ended. If PgBouncer
//! is not installed, [`PgBouncer::start`] returns `None` and tests report themselves as skipped; with `CI=true` that is a
//! failure.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::polling::until;
use super::postgres::{self, TestDatabase};

/// A running PgBouncer, which ends with this value.
pub(crate) struct PgBouncer {
    port: u16,
    watchdog: Child,
    _directory: TempDir,
}

/// PgBouncer waits for its clients when it is told to end, and that of a failed test may still be connected.
const WATCHDOG: &str = r#"
"$@" >/dev/null 2>&1 </dev/null &
bouncer=$!
cat >/dev/null
kill -KILL $bouncer
wait $bouncer
"#;

/// Several tests run it at once. The role may do what the host's role may, which owns the tables.
const KEEP_FOR_SCRAM: &str = "
    DO $$ BEGIN
        LOCK TABLE pg_catalog.pg_authid IN EXCLUSIVE MODE;
        EXECUTE format('ALTER DATABASE %I SET password_encryption = ''scram-sha-256''', current_database());
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'wharf_scram') THEN
            SET LOCAL password_encryption = 'scram-sha-256';
            CREATE ROLE wharf_scram LOGIN CREATEDB CREATEROLE PASSWORD 'wharf_scram' IN ROLE wharf_host;
        END IF;
    END $$";

impl PgBouncer {
    /// Starts PgBouncer with the given `pool_mode`.
    pub(crate) async fn start(mode: &str) -> Option<Self> {
        let Some(program) = program() else {
            assert!(std::env::var_os("CI").is_none(), "PgBouncer is not installed, and CI must test it");
            eprintln!("skipped: PgBouncer is not installed");
            return None;
        };
        let (socket, server_port) = postgres::socket()?;
        let directory = tempfile::Builder::new().prefix("wharf-pgbouncer-").tempdir().unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let file = |name: &str| directory.path().join(name);
        // The roles of plugins are created while PgBouncer runs, so it looks them up.
        let settings = format!(
            "[databases]\n* = host={socket} port={server_port}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = {users}\nauth_user = postgres\n\
             auth_query = SELECT usename, passwd FROM pg_shadow WHERE usename = $1\n\
             pool_mode = {mode}\nmax_client_conn = 200\ndefault_pool_size = 50\n",
            socket = socket.display(),
            users = file("users").display(),
        );
        std::fs::write(file("pgbouncer.ini"), settings).unwrap();
        std::fs::write(file("users"), "\"postgres\" \"unused\"\n").unwrap();
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", WATCHDOG, "wharf-pgbouncer"]).args(postgres::without_root(directory.path()));
        let watchdog =
            watchdog.arg(program).arg(file("pgbouncer.ini")).stdin(Stdio::piped()).process_group(0).spawn().unwrap();
        until("PgBouncer listens", async || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()).await;
        Some(Self { port, watchdog, _directory: directory })
    }

    /// Returns the URL of a database through PgBouncer. The password of its role is kept for SCRAM, as on most servers, and so
    /// are those of the roles of plugins from now on.
    pub(crate) async fn url(&self, database: &TestDatabase) -> String {
        let mut connection = postgres::connect(database).await;
        sqlx::raw_sql(KEEP_FOR_SCRAM).execute(&mut connection).await.unwrap();
        let name = database.url.rsplit_once('/').unwrap().1;
        format!("postgres://wharf_scram:wharf_scram@127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian's directory of servers is not in the PATH of every user.
    let directories = std::env::split_paths(&path).chain([Path::new("/usr/sbin").to_owned()]);
    directories.map(|directory| directory.join("pgbouncer")).find(|file| file.is_file())
}
