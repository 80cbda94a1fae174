//! The database of the plain server: the items, one account, and its sessions by the hash of their tokens.
//!
//! The ratios are for the strongest plain server: its pools do not test a connection before each use, as sqlx's do by default
//! (`test_before_acquire`). Nobody closes the connection to a file, and a test is a hop to the thread of the connection.

use std::path::Path;

use argon2::{Algorithm, Argon2, Params, Version};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use uuid::Uuid;

use crate::wharf::{EMAIL, PASSWORD};
use crate::{Failure, ITEMS, LIST_LIMIT};

pub(crate) const TOKEN: &str = "the token of the plain server";

/// Accounts and their sessions. The tables of the items are the plugin's.
const SCHEMA: &str = "
    CREATE TABLE account (
        id TEXT PRIMARY KEY, email TEXT NOT NULL UNIQUE, full_name TEXT, password_hash BLOB NOT NULL);
    CREATE TABLE session (token_hash BLOB PRIMARY KEY, account_id TEXT NOT NULL);";
/// Every account has its own salt; here is one account.
const SALT: &[u8] = b"sixteen bytes, .";

#[derive(Serialize)]
pub(super) struct Account {
    pub(super) id: String,
    email: String,
    full_name: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Item {
    title: String,
    description: Option<String>,
    id: String,
    owner_id: String,
    created_at: String,
}

impl Item {
    pub(super) fn new(title: String, description: Option<String>, owner_id: String) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let created_at = format!("{:020}", now.as_micros());
        Self { title, description, id: Uuid::new_v4().to_string(), owner_id, created_at }
    }
}

/// SQLite has one writer at a time, so the connection for it is one.
#[derive(Clone)]
pub(super) struct Data {
    readers: SqlitePool,
    writer: SqlitePool,
}

impl Data {
    pub(super) async fn open(file: &Path) -> Result<Self, Failure> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // The durability of the plugins' databases.
            .synchronous(SqliteSynchronous::Normal);
        let pool = |connections| SqlitePoolOptions::new().max_connections(connections).test_before_acquire(false);
        let writer = pool(1).connect_with(options.clone()).await?;
        sqlx::raw_sql(include_str!("../../../../plugins/items/migrations/0001_item.sql")).execute(&writer).await?;
        sqlx::raw_sql(SCHEMA).execute(&writer).await?;
        let readers = pool(4).connect_with(options).await?;
        let data = Self { readers, writer };
        let account = Uuid::new_v4().to_string();
        sqlx::query("INSERT INTO account (id, email, full_name, password_hash) VALUES ($1, $2, NULL, $3)")
            .bind(account.as_str())
            .bind(EMAIL)
            .bind(hash_password(PASSWORD)?)
            .execute(&data.writer)
            .await?;
        data.add_session(TOKEN, &account).await?;
        for index in 0..ITEMS {
            data.create_item(&Item::new(format!("Item {index}"), None, account.clone())).await?;
        }
        Ok(data)
    }

    pub(super) async fn account_of(&self, token: &str) -> sqlx::Result<Option<Account>> {
        let row: Option<(String, String, Option<String>)> = sqlx::query_as(
            "SELECT account.id, account.email, account.full_name FROM session
             JOIN account ON account.id = session.account_id WHERE session.token_hash = $1",
        )
        .bind(token_hash(token))
        .fetch_optional(&self.readers)
        .await?;
        Ok(row.map(|(id, email, full_name)| Account { id, email, full_name }))
    }

    /// Returns a page and the number of all items in one transaction, like the plugin's batch.
    pub(super) async fn items(&self) -> sqlx::Result<(Vec<Item>, i64)> {
        let mut transaction = self.readers.begin().await?;
        let rows: Vec<(String, Option<String>, String, String, String)> = sqlx::query_as(
            "SELECT title, description, id, owner_id, created_at FROM item ORDER BY created_at DESC, id LIMIT $1 OFFSET $2",
        )
        .bind(LIST_LIMIT)
        .bind(0)
        .fetch_all(&mut *transaction)
        .await?;
        let count = sqlx::query_scalar("SELECT COUNT(*) FROM item").fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        let item =
            |(title, description, id, owner_id, created_at)| Item { title, description, id, owner_id, created_at };
        Ok((rows.into_iter().map(item).collect(), count))
    }

    pub(super) async fn create_item(&self, item: &Item) -> sqlx::Result<()> {
        sqlx::query("INSERT INTO item (id, title, description, owner_id, created_at) VALUES ($1, $2, $3, $4, $5)")
            .bind(item.id.as_str())
            .bind(item.title.as_str())
            .bind(item.description.as_deref())
            .bind(item.owner_id.as_str())
            .bind(item.created_at.as_str())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Returns the id of an account and the hash of its password.
    pub(super) async fn password_of(&self, email: &str) -> sqlx::Result<Option<(String, Vec<u8>)>> {
        sqlx::query_as("SELECT id, password_hash FROM account WHERE email = $1")
            .bind(email)
            .fetch_optional(&self.readers)
            .await
    }

    pub(super) async fn add_session(&self, token: &str, account: &str) -> sqlx::Result<()> {
        sqlx::query("INSERT INTO session (token_hash, account_id) VALUES ($1, $2)")
            .bind(token_hash(token))
            .bind(account)
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}

/// Hashes with OWASP's recommendation for Argon2id, which is Wharf's default: 19 MiB, two passes, one lane.
pub(super) fn hash_password(password: &str) -> Result<Vec<u8>, Failure> {
    let failed = |error: argon2::Error| format!("the password cannot be hashed: {error}");
    let params = Params::new(19 * 1024, 2, 1, None).map_err(failed)?;
    let mut hash = vec![0; 32];
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    hasher.hash_password_into(password.as_bytes(), SALT, &mut hash).map_err(failed)?;
    Ok(hash)
}

fn token_hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}
