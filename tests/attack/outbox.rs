//! The outbox, which is a table in the database of a plugin: no SQL of the plugin reads it, forges messages in it or changes
//! its form.

use serde_json::json;

use crate::support::worker::{WORKER, Worker, worker};
use crate::support::{TestHost, both};

both!(no_sql_of_a_plugin_reaches_its_outbox);

/// Ways to write the name of the outbox.
const SPELLINGS: &[&str] = &[
    "_wharf_outbox",
    "_WHARF_Outbox",
    "\"_wharf_outbox\"",
    "\"_WHARF_OUTBOX\"",
    "'_wharf_outbox'",
    "[_wharf_outbox]",
    "`_wharf_outbox`",
    "main._wharf_outbox",
    "main.\"_wharf_outbox\"",
    "main.'_wharf_outbox'",
    "\"main\" /* */ . -- x\n _wharf_outbox",
    "plugin_worker._wharf_outbox",
    "\"plugin_worker\".\"_wharf_outbox\"",
    "U&\"_wharf_outbox\"",
    "U&\"\\005fwharf_outbox\"",
    "u&\"_wharf\\005foutbox\"",
    "U&\"!005fwharf_outbox\" UESCAPE '!'",
    "ONLY _wharf_outbox",
    "\u{feff}_wharf_outbox",
];

/// Statements on the outbox, whose name is `{}`.
const FORGERIES: &[&str] = &[
    "INSERT INTO {} (text) VALUES ('forged')",
    "INSERT INTO {} SELECT * FROM {}",
    "WITH forged AS (SELECT 'forged') INSERT INTO {} (text) SELECT * FROM forged",
    "UPDATE {} SET text = 'forged'",
    "DELETE FROM {}",
    "SELECT text FROM {}",
    "SELECT (SELECT COUNT(*) FROM {})",
    "SELECT * FROM note JOIN {} ON TRUE",
    "WITH stolen AS (DELETE FROM {} RETURNING *) SELECT * FROM stolen",
];

/// Statements that reach it in other ways.
const DETOURS: &[&str] = &[
    "TABLE _wharf_outbox",
    "SELECT nextval('_wharf_outbox_id_seq')",
    "SELECT setval('_wharf_outbox_id_seq', 1)",
    "SELECT query_to_xml('SELECT * FROM _wharf' || '_outbox', true, true, '')",
    "SELECT * FROM pg_class",
    "UPDATE sqlite_master SET sql = ''",
    "SELECT * FROM sqlite_dbpage",
    "SELECT * FROM pragma_table_info('_wharf' || '_outbox')",
    "UPDATE sqlite_sequence SET seq = 0",
    "DELETE FROM sqlite_sequence",
];

/// The same, for PostgreSQL. SQLite knows no types.
const CASTS: &[&str] = &["SELECT CAST('_wharf_outbox' AS regclass)", "SELECT CAST('_wharf' || '_outbox' AS regclass)"];

async fn no_sql_of_a_plugin_reaches_its_outbox(host: &TestHost) {
    let deployed = Worker::deploy(host, json!({ "subscriptions": [["worker.said"]] })).await;
    deployed.publish(json!([["note", "first"]])).await;
    deployed.noted(&["first"]).await;
    let forged = FORGERIES.iter().flat_map(|sql| SPELLINGS.iter().map(|name| sql.replace("{}", name)));
    let casts = if host.database().is_some() { CASTS } else { &[] };
    for sql in forged.chain(DETOURS.iter().chain(casts).map(|sql| (*sql).to_owned())) {
        let error = deployed.refused(json!(["sql", sql])).await;
        assert!(error.starts_with("Error::Invalid("), "{sql}: {error}");
        let outcomes = deployed.act(json!([["begin"], ["sql", sql], ["rollback"]])).await;
        assert!(outcomes[1]["error"].is_string(), "{sql}: {outcomes:?}");
    }
    for migration in [
        "INSERT INTO _wharf_outbox (text) VALUES ('forged')",
        "CREATE VIEW forged AS SELECT * FROM _wharf_outbox",
        "CREATE VIEW forged AS SELECT * FROM '_wharf_outbox'",
        "CREATE TRIGGER forged AFTER INSERT ON note BEGIN INSERT INTO _wharf_outbox (text) VALUES ('forged'); END",
        "CREATE TABLE forged (a BIGINT REFERENCES \"_wharf_outbox\" (id))",
        "CREATE INDEX forged ON _wharf_outbox (text)",
        "ALTER TABLE _wharf_outbox RENAME TO forged",
        "ALTER TABLE note RENAME TO _wharf_outbox",
        "DROP TABLE _wharf_outbox",
    ] {
        let migrations = json!([["0002", migration]]);
        let forging = worker(json!({ "subscriptions": [["worker.said"]], "migrations": migrations }));
        let refused = host.superuser().deploy(&forging.0, WORKER).await;
        assert_eq!(refused.status, 422, "{migration}: {}", refused.text());
    }
    // The outbox works as before, and nothing was in it.
    deployed.publish(json!([["note", "last"]])).await;
    deployed.noted(&["first", "last"]).await;
    deployed.states(&[]).await;
}
