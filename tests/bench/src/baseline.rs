//! The baseline: the same responses from plain axum, and sqlx on a SQLite file with the same table.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};

use crate::{Failure, ITEMS};

/// The baseline server as a separate process.
pub(crate) struct Baseline {
    process: Child,
    address: String,
}

impl Baseline {
    /// Starts the server.
    pub(crate) fn start(file: &Path) -> Result<Self, Failure> {
        let mut process =
            Command::new(std::env::current_exe()?).arg("baseline").arg(file).stdout(Stdio::piped()).spawn()?;
        let mut address = String::new();
        BufReader::new(process.stdout.take().ok_or("no output")?).read_line(&mut address)?;
        Ok(Self { process, address: address.trim().to_owned() })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Baseline {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[derive(Serialize)]
struct Greeting {
    message: &'static str,
}

#[derive(Serialize)]
struct Item {
    title: String,
    description: Option<String>,
    id: String,
    owner_id: String,
    created_at: String,
}

#[derive(Serialize)]
struct Items {
    data: Vec<Item>,
    count: i64,
}

/// Serves until the process is killed. Prints its address as the first line.
#[tokio::main]
#[allow(clippy::print_stdout, reason = "prints the address")]
pub(crate) async fn serve(file: &Path) -> Result<(), Failure> {
    let options =
        SqliteConnectOptions::new().filename(file).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
    sqlx::raw_sql(include_str!("../../../plugins/items/migrations/0001_item.sql")).execute(&pool).await?;
    for index in 0..ITEMS {
        sqlx::query("INSERT INTO item (id, title, description, owner_id, created_at) VALUES ($1, $2, NULL, $3, $4)")
            .bind(format!("00000000-0000-4000-8000-{index:012}"))
            .bind(format!("Item {index}"))
            .bind("00000000-0000-4000-8000-ffffffffffff")
            .bind(format!("2026-11-23T14:35:13.{index:06}Z"))
            .execute(&pool)
            .await?;
    }
    let router = Router::new()
        .route("/hello", get(async || Json(Greeting { message: "Hello" })))
        .route("/items", get(items))
        .with_state(pool);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}

async fn items(State(pool): State<SqlitePool>) -> Result<Json<Items>, axum::http::StatusCode> {
    let failed = |_| axum::http::StatusCode::INTERNAL_SERVER_ERROR;
    // One transaction, like the plugin's batch.
    let mut transaction = pool.begin().await.map_err(failed)?;
    let rows: Vec<(String, Option<String>, String, String, String)> = sqlx::query_as(
        "SELECT title, description, id, owner_id, created_at FROM item ORDER BY created_at DESC, id LIMIT $1 OFFSET $2",
    )
    .bind(100)
    .bind(0)
    .fetch_all(&mut *transaction)
    .await
    .map_err(failed)?;
    let count = sqlx::query_scalar("SELECT COUNT(*) FROM item").fetch_one(&mut *transaction).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    let item = |(title, description, id, owner_id, created_at)| Item { title, description, id, owner_id, created_at };
    Ok(Json(Items { data: rows.into_iter().map(item).collect(), count }))
}
