//! The schema of the host's tables. Owns the list of migrations, which are compiled in, and applies those that a database
//! has not seen. Never changes a plugin's tables.

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// A migration: its number and name as in its file's name, and its text.
type Source = (i64, &'static str, &'static str);

/// Declares the migrations of both databases: every file of `migrations/sqlite`, and the same names in
/// `migrations/postgres`.
macro_rules! migrations {
    ($($number:literal $name:literal $file:literal,)*) => {
        const SQLITE: &[Source] =
            &[$(($number, $name, include_str!(concat!("../../../migrations/sqlite/", $file)))),*];
        const POSTGRES: &[Source] =
            &[$(($number, $name, include_str!(concat!("../../../migrations/postgres/", $file)))),*];
        #[cfg(test)]
        const FILES: &[&str] = &[$($file),*];
    };
}

migrations! {
    1 "identity" "0001_identity.sql",
    2 "email" "0002_email.sql",
    3 "plugin data" "0003_plugin_data.sql",
    4 "plugins" "0004_plugins.sql",
    5 "releases" "0005_releases.sql",
    6 "signatures" "0006_signatures.sql",
    7 "deploy data" "0007_deploy_data.sql",
    8 "limits" "0008_limits.sql",
    9 "replaced releases" "0009_replaced_releases.sql",
    10 "node lock" "0010_node_lock.sql",
    11 "many plugins" "0011_many_plugins.sql",
    12 "history" "0012_history.sql",
    13 "address keys" "0013_address_keys.sql",
    14 "addresses beyond ascii" "0014_addresses_beyond_ascii.sql",
    15 "roles" "0015_roles.sql",
    16 "api keys" "0016_api_keys.sql",
    17 "signing key rotation" "0017_signing_key_rotation.sql",
    18 "second factors" "0018_second_factors.sql",
    19 "identities" "0019_identities.sql",
    20 "address proofs" "0020_address_proofs.sql",
    21 "known clients" "0021_known_clients.sql",
    22 "audit chains" "0022_audit_chains.sql",
    23 "passkeys" "0023_passkeys.sql",
    24 "tasks" "0024_tasks.sql",
    25 "mails" "0025_mails.sql",
    26 "mail waits" "0026_mail_waits.sql",
    27 "earlier mail waits" "0027_earlier_mail_waits.sql",
}

/// The migrations for SQLite.
pub(super) fn sqlite() -> Migrator {
    migrator(SQLITE)
}

/// The migrations for PostgreSQL.
pub(super) fn postgres() -> Migrator {
    migrator(POSTGRES)
}

fn migrator(sources: &[Source]) -> Migrator {
    let migration = |(number, name, sql): &Source| {
        Migration::new(*number, (*name).into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(sources.iter().map(migration).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::db::{Db, email};

    #[tokio::test]
    async fn mails_that_wait_survive_the_upgrade_that_adds_those_of_plugins() {
        let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await.unwrap();
        let before: Vec<Source> = SQLITE.iter().copied().filter(|(number, ..)| *number < 25).collect();
        migrator(&before).run(&pool).await.unwrap();
        let insert = "INSERT INTO mail_queue (kind, payload, attempts, next_at, created_at, repeat_key) \
            VALUES ('test', '{\"kind\":\"test\",\"email\":\"jane@example.com\"}', 3, 9, 7, x'01')";
        sqlx::query(insert).execute(&pool).await.unwrap();
        sqlite().run(&pool).await.unwrap();
        let db = Db::Sqlite(pool.into());
        let claim = async || email::claim(&db, email::HOST, Timestamp(9), Timestamp(9)).await.unwrap().unwrap();
        let (first, second) = (claim().await, claim().await);
        assert_eq!(
            (first.waiting_since, first.attempts, first.repeat_key.as_deref()),
            (Timestamp(7), 4, Some(&[1][..]))
        );
        // A mail program recognises a repetition.
        assert_eq!((first.mail_id, first.mail_id()), (None, second.mail_id()));
        // The number of a mail that was sent is not that of another one: operators and the audit log name it.
        email::delete(&db, first.id).await.unwrap();
        let Db::Sqlite(pool) = &db else { unreachable!() };
        sqlx::query(insert).execute(pool).await.unwrap();
        assert!(claim().await.id > first.id);
    }

    #[tokio::test]
    async fn mails_that_failed_before_an_upgrade_are_due_when_the_mail_server_is_back() {
        for version in [26, 27] {
            let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
            let pool = pool.connect("sqlite::memory:").await.unwrap();
            let before: Vec<Source> = SQLITE.iter().copied().filter(|(number, ..)| *number < version).collect();
            migrator(&before).run(&pool).await.unwrap();
            // One failed. The attempt of one ended with its process, and perhaps the second one of another. An operator
            // retried one.
            let insert = "INSERT INTO mail_queue (kind, payload, attempts, next_at, created_at, reason) VALUES \
                ('test', '{}', 1, 3600, 7, 'the mail server is away'), ('test', '{}', 1, 3600, 7, NULL), \
                ('test', '{}', 2, 3600, 7, 'the mail server is away'), \
                ('test', '{}', 0, 3600, 7, 'the mail server is away')";
            sqlx::query(insert).execute(&pool).await.unwrap();
            sqlite().run(&pool).await.unwrap();
            let db = Db::Sqlite(pool.into());
            let claim = async || email::claim(&db, email::HOST, Timestamp(9), Timestamp(3600)).await.unwrap();
            assert!(claim().await.is_none(), "{version}");
            assert_eq!(email::end_outage(&db, Timestamp(9), 50, 10).await.unwrap(), 1, "{version}");
            assert_eq!(claim().await.map(|mail| mail.attempts), Some(2), "{version}");
            assert!(claim().await.is_none(), "{version}");
        }
    }

    #[tokio::test]
    async fn permissions_of_a_former_plugin_named_tasks_do_not_become_those_of_the_host() {
        let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await.unwrap();
        let before: Vec<Source> = SQLITE.iter().copied().filter(|(number, ..)| *number < 24).collect();
        migrator(&before).run(&pool).await.unwrap();
        let give = "INSERT INTO role_permissions (role, permission) \
            VALUES ('operator', 'tasks:read'), ('member', 'tasks:read'), ('member', 'tasks:write')";
        sqlx::query(give).execute(&pool).await.unwrap();
        let key = "INSERT INTO api_keys (id, created_by, name, secret_hash, permissions, strength, created_at) \
            VALUES ('k', 'u', 'key', x'01', '[\"tasks:read\",\"items:read-all\",\"tasks:operate\"]', 'single', 1)";
        sqlx::query(key).execute(&pool).await.unwrap();
        sqlite().run(&pool).await.unwrap();
        let held = "SELECT role || ' ' || permission FROM role_permissions WHERE permission LIKE 'tasks:%' ORDER BY 1";
        let held: Vec<String> = sqlx::query_scalar(held).fetch_all(&pool).await.unwrap();
        assert_eq!(held, ["member tasks:write", "operator tasks:operate", "operator tasks:read"]);
        let permissions: String =
            sqlx::query_scalar("SELECT permissions FROM api_keys").fetch_one(&pool).await.unwrap();
        assert_eq!(permissions, r#"["tasks:former-read","items:read-all","tasks:former-operate"]"#);
    }

    /// A file that is not in the list would silently never be applied.
    #[test]
    fn every_migration_file_is_in_the_list() {
        let listed: Vec<String> = FILES.iter().map(ToString::to_string).collect();
        for (dialect, sources) in [("sqlite", SQLITE), ("postgres", POSTGRES)] {
            let directory = format!("{}/../migrations/{dialect}", env!("CARGO_MANIFEST_DIR"));
            let entries = std::fs::read_dir(directory).unwrap();
            let mut files: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            files.retain(|file| file.ends_with(".sql"));
            files.sort();
            assert_eq!(files, listed, "{dialect}");
            let named: Vec<String> =
                sources.iter().map(|(number, name, _)| format!("{number:04}_{}.sql", name.replace(' ', "_"))).collect();
            assert_eq!(named, listed, "a number or name differs from its file");
        }
    }
}
