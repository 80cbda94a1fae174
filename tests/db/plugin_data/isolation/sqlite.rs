//! Attacks on SQLite: statements that reach beyond the file of the plugin, and the file itself.

use super::assert_refused;
use crate::db::plugin_data::fixture::{Fixture, execute, query};
use crate::support::Backend;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_prepares_nothing_that_reaches_beyond_the_file() {
    let fixture = Fixture::new(Backend::Sqlite, |_| ()).await.unwrap();
    let database = fixture.tables("shop").await;
    database.append_message(None, "a message".to_owned()).await.unwrap();
    for attack in [
        "SELECT load_extension('evil')",
        "SELECT LOAD_EXTENSION('evil', 'entry')",
        "SELECT \"load_extension\"('evil')",
        "SELECT [load_extension] ('evil')",
        "SELECT `Load_Extension`/**/('evil')",
        "WITH x AS (SELECT load_extension('evil')) SELECT * FROM x",
        "SELECT readfile('/etc/passwd')",
        "SELECT writefile('/tmp/evil', 'x')",
        "SELECT fts3_tokenizer('simple')",
        "SELECT * FROM pragma_database_list",
        "SELECT * FROM pragma_journal_mode('off')",
        "SELECT * FROM pragma_table_info('_wharf_migration')",
        "SELECT * FROM pragma_table_info('_wharf_outbox')",
        "SELECT * FROM fsdir('/')",
        "UPDATE sqlite_schema SET sql = 'x'",
        "DELETE FROM sqlite_master",
        "INSERT INTO 'sqlite_schema' VALUES ('table', 'x', 'x', 1, 'x')",
        "UPDATE sqlite_dbpage SET data = zeroblob(4096)",
        "SELECT * FROM temp.x",
        "INSERT INTO item SELECT * FROM main._wharf_migration",
        "INSERT INTO item SELECT * FROM main.'_wharf_outbox'",
        "UPDATE sqlite_sequence SET seq = 1",
    ] {
        assert_refused(&database, attack).await;
    }
    for harmless in
        ["SELECT 'load_extension(1)'", "SELECT name FROM sqlite_schema", "SELECT json_extract('[1]', '$[0]')"]
    {
        query(&database, harmless, &[]).await.unwrap();
    }
    fixture.stop().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_files_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new(Backend::Sqlite, |_| ()).await.unwrap();
    let database = fixture.tables("shop").await;
    execute(&database, "UPDATE counter SET n = 1", &[]).await.unwrap();
    let directory = fixture.dir.path().join("plugins/shop");
    assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o077, 0);
    for file in std::fs::read_dir(&directory).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o077, 0);
    }
    fixture.stop().await;
}
