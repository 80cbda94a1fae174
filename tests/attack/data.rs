//! Data: statements that never end or return too much, and attempts to reach beyond a plugin's own database.

use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Method;
use serde_json::Value;

use super::{Arena, CountedBy, Neighbour};
use crate::support::host::CHAMELEON;
use crate::support::{Backend, Client};

const REFUSED: &str = "wharf_plugin_statements_refused_total{plugin=\"attacker\"";

async fn statement(client: &Client, plugin: &str, sql: &str) -> Option<String> {
    let request = client.request(Method::POST, &format!("/{plugin}/statement"));
    let response = request.header("content-type", "application/octet-stream").body(sql.to_owned()).send().await.ok();
    response["error"].as_str().map(ToOwned::to_owned)
}

const NUMBERS: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ";

/// Each of these must be refused as invalid on both databases.
const ESCAPES: &[&str] = &[
    "RESET ROLE",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "SET search_path = plugin_victim",
    "SET statement_timeout = 0",
    "SET session_replication_role = replica",
    "SHOW all",
    "DISCARD ALL",
    "SELECT set_config('statement_timeout', '0', false)",
    "SELECT set_config('role', 'postgres', false)",
    "LISTEN x",
    "NOTIFY x",
    "ATTACH DATABASE '../victim/data.sqlite' AS v",
    "DETACH DATABASE main",
    "PRAGMA writable_schema = ON",
    "PRAGMA query_only = OFF",
    "VACUUM INTO '/tmp/wharf-stolen'",
    "SELECT load_extension('x')",
    "SELECT readfile('/etc/passwd')",
    "SELECT writefile('/tmp/wharf-stolen', 'x')",
    "COPY note TO '/tmp/wharf-stolen'",
    "COPY note FROM PROGRAM 'id'",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(1, '/tmp/wharf-stolen')",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT pg_terminate_backend(pg_backend_pid())",
    "SELECT pg_reload_conf()",
    "SELECT dblink('host=127.0.0.1', 'SELECT 1')",
    "CREATE EXTENSION dblink",
    "CREATE ROLE thief SUPERUSER",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "GRANT ALL ON SCHEMA plugin_victim TO PUBLIC",
    "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'x'",
    "DO $$ BEGIN PERFORM 1; END $$",
    "SELECT * FROM plugin_victim.note",
    "SELECT * FROM victim.note",
    "SELECT * FROM wharf.users",
    "SELECT * FROM wharf.sessions",
    "SELECT * FROM pg_shadow",
    "SELECT * FROM pg_authid",
    "SELECT current_setting('wharf.key')",
    "SELECT current_setting('data_directory')",
    "SELECT * FROM TREAT(CAST('SELECT 1' AS text) AS ts_stat) x",
    "SELECT * FROM _wharf_migration",
    "SELECT * FROM _wharf_outbox",
    "INSERT INTO _wharf_outbox (text) VALUES ('x')",
    "DELETE FROM \"_WHARF_outbox\"",
    "DROP TABLE _wharf_outbox",
    "SELECT setval('_wharf_outbox_id_seq', 1)",
    "SELECT pg_advisory_xact_lock(1, 2)",
    "UPDATE sqlite_master SET sql = ''",
    "SELECT 1; DROP TABLE note",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT x",
    "PREPARE x AS SELECT 1",
    "DECLARE c CURSOR FOR SELECT 1",
    "LOCK TABLE note",
    "CREATE TEMP TABLE x (a int)",
    "SELECT * FROM pg_namespace",
    "SELECT nspname FROM pg_catalog.pg_namespace",
    "SELECT query FROM pg_stat_activity",
    "SELECT * FROM information_schema.tables",
    "SELECT table_name FROM INFORMATION_SCHEMA.columns",
    "SELECT * FROM pg_roles",
    "SELECT * FROM pg_settings",
    "SELECT to_regclass('note')",
    "SELECT has_schema_privilege('plugin_victim', 'USAGE')",
    "SELECT * FROM sqlite_dbpage",
    "SELECT * FROM pragma_database_list",
    "SELECT json_set('{}', '$' || replace(hex(zeroblob(200000)), '00', '.a'), 1)",
    "SELECT max(value) FROM json_each(x'eb00000001')",
    "SELECT instr(hex(zeroblob(500000)), hex(zeroblob(250000)) || '1')",
    "SELECT CAST(repeat('a', 1000000) AS int)",
];

async fn run_attacks(backend: Backend) {
    let quotas = "&grant=sql.time=1s,sql.rows=1000,sql.bytes=1MiB,sql.disk=8MiB&limit=concurrency=8";
    let Some(mut arena) = Arena::open_on(backend, &[], quotas, Neighbour::Notes).await else { return };
    let client = arena.process.client();
    let postgres = matches!(backend, Backend::Postgres);
    let endless = format!("{NUMBERS}1000000000) SELECT COUNT(*) FROM n");
    let product = format!("{NUMBERS}100000) SELECT COUNT(*) FROM n AS a, n AS b, n AS c WHERE a.i + b.i = c.i - 7");
    let mut slow = vec![("an endless recursion", endless), ("a cross join of large tables", product)];
    if postgres {
        slow.push(("a sleep", "SELECT pg_sleep(3600)".to_owned()));
    }
    for (name, sql) in &slow {
        arena
            .attack(name, CountedBy::Limit("sql.time"), async |arena| {
                let calls = (0..6).map(|_| statement(&arena.client, "attacker", sql));
                for error in futures_util::future::join_all(calls).await {
                    let error = error.unwrap();
                    // The statements use all cores, so that a further connection may not open in time.
                    let others = ["Error::Conflict", "Error::Unavailable"];
                    let is_limit = error.contains("statement time") || error.contains("connections");
                    assert!(is_limit || others.contains(&error.as_str()), "{name}: {error}");
                }
            })
            .await;
    }
    // The statements from here on are not to reach the time limit, however busy the machine is.
    arena.superuser.put("/plugins/attacker/grants/sql?parameter=time=10m", &Value::Null).await.ok();
    let rows = format!("{NUMBERS}10000000) SELECT i FROM n");
    let bytes = if postgres { "SELECT repeat('x', 5000000)" } else { "SELECT hex(zeroblob(2500000))" };
    for (name, limit, sql) in
        [("ten million rows", "sql.rows", rows.as_str()), ("a text of five megabytes", "sql.bytes", bytes)]
    {
        arena
            .attack(name, CountedBy::Limit(limit), async |arena| {
                let error = statement(&arena.client, "attacker", sql).await.unwrap();
                assert!(error.starts_with("Error::Limit"), "{name}: {error}");
            })
            .await;
    }
    arena
        .attack("a transaction left open by a trap", CountedBy::Outcome("trap"), async |arena| {
            for _ in 0..6 {
                let path = "/attacker/transaction?end=trap&text=left";
                arena.client.request(Method::POST, path).send().await.has_code(502, "plugin_trap");
            }
            assert_eq!(arena.client.get("/attacker/notes").await.ok(), Value::Array(Vec::new()));
        })
        .await;

    // A neighbour with data to steal.
    arena.superuser.deploy(&crate::support::Component::chameleon().0, &format!("name=victim&{CHAMELEON}")).await.ok();
    client.request(Method::POST, "/victim/notes/secret").send().await;
    arena
        .attack("attempts to leave its own database", CountedBy::Host(REFUSED), async |arena| {
            for escape in ESCAPES {
                let error = statement(&arena.client, "attacker", escape).await;
                let error = error.unwrap_or_else(|| panic!("'{escape}' was not refused"));
                assert!(error.starts_with("Error::Invalid(") && error.len() < 1_000, "{escape}: {error}");
                assert!(!error.contains("secret") && !error.contains("/etc"), "{escape}: {error}");
            }
            assert!(!std::path::Path::new("/tmp/wharf-stolen").exists());
            assert_eq!(arena.client.get("/victim/notes").await.ok(), serde_json::json!(["secret"]));
        })
        .await;

    let rounds = AtomicUsize::new(0);
    arena
        .attack("endless rows", CountedBy::Limit("sql.disk"), async |arena| {
            for _ in 0..60 {
                let round = rounds.fetch_add(1, Ordering::Relaxed);
                let sql = format!(
                    "INSERT INTO note (id, text) {NUMBERS}5000) \
                     SELECT '{round} ' || i, '{round} ' || i || ' of a pile that grows and grows' FROM n"
                );
                match statement(&arena.client, "attacker", &sql).await {
                    None => {}
                    Some(error) => {
                        assert_eq!(error, "Error::Limit(\"disk: 8388608 bytes\")");
                        return;
                    }
                }
            }
            panic!("the limit is never reached");
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_withstands_every_attack() {
    run_attacks(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_withstands_every_attack() {
    run_attacks(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_never_exceeds_its_quota() {
    let mut arena =
        Arena::open(&[], "&grant=cache.bytes=1MiB&limit=host_calls=1000000&limit=cpu_time=20s&limit=deadline=60s")
            .await;
    arena
        .attack("endless keys", CountedBy::Outcome("success"), async |arena| {
            for response in arena.flood(4, "hoard/20000").await {
                assert_eq!(response.text(), "20000");
            }
            let held = arena.count(CountedBy::Host("wharf_plugin_cache_bytes{plugin=\"attacker\"")).await;
            assert!((1.0..=f64::from(1 << 20)).contains(&held), "{held}");
            // An entry costs more than its own bytes.
            let keys = arena.count(CountedBy::Host("wharf_plugin_cache_entries{plugin=\"attacker\"")).await;
            assert!((1.0..f64::from(1 << 20) / 512.0).contains(&keys), "{keys}");
        })
        .await;
    arena
        .attack("oversized values", CountedBy::Limit("cache.bytes"), async |arena| {
            let request = arena.client.request(Method::PUT, "/attacker/kept/key");
            let response =
                request.header("content-type", "application/octet-stream").body("x".repeat(1_500_000)).send().await;
            assert!(response.ok().as_str().unwrap().starts_with("Error::Limit"), "{response:?}");
        })
        .await;
}
