//! The first connection to PostgreSQL, and the options of all connections. Waits for a server that cannot be reached yet,
//! and returns its reason if that takes too long. Checks that a connection has a session of its own, which it does not have
//! behind a pooler in transaction mode.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::config::{self, postgres_url};
use crate::error::{Error, Kind, Result, code};

/// The time between two attempts to connect.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// How long the check of the session waits for one connection or one response.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The number of connections that hold a session of the pooler while the check looks for a shared one.
const HOLDERS: usize = 2;

const PROCESS: &str = "SELECT pg_backend_pid()";

/// Returns the connection options of a `postgres://` URL. The URL may contain a password, so the error never contains
/// it.
pub(super) fn options(url: &str) -> Result<PgConnectOptions> {
    let url = postgres_url::parse(url).map_err(|reason| Error::internal(format!("database.url {reason}")))?;
    PgConnectOptions::from_url(&url)
        // PgBouncer refuses this startup parameter. Numbers are read in binary, so it changes nothing.
        .map(|options| options.extra_float_digits(None).disable_statement_logging())
        .map_err(|error| Error::internal("database.url is not a PostgreSQL URL").with_source(error))
}

/// Waits until the database of `config` can be reached, for at most `patience`, and checks its sessions. Does nothing on
/// SQLite.
///
/// # Errors
/// The reason why the database cannot be reached; the sessions are shared.
pub async fn reach(config: &config::Database, patience: Duration) -> Result<()> {
    let Some(url) = &config.url else { return Ok(()) };
    let options = options(url.expose())?;
    let mut first = connect(&options, patience).await?;
    check_session(&options, &mut first).await?;
    drop(timeout(CHECK_TIMEOUT, first.close()).await);
    Ok(())
}

/// Connects. Repeats an attempt that another moment could let succeed.
///
/// # Errors
/// The reason of the latest attempt.
pub(super) async fn connect(options: &PgConnectOptions, patience: Duration) -> Result<PgConnection> {
    let end = Instant::now() + patience;
    let mut latest: Option<sqlx::Error> = None;
    loop {
        match timeout_at(end, options.connect()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) if !is_temporary(&error) || Instant::now() >= end => return Err(unreachable(error)),
            Ok(Err(error)) => {
                if latest.is_none() {
                    let reason = &error as &dyn std::error::Error;
                    tracing::warn!(error = reason, "PostgreSQL cannot be reached yet; trying again");
                }
                latest = Some(error);
            }
            Err(_elapsed) => {
                let silent = || {
                    let limit = humantime::format_duration(patience);
                    let text = format!("the server did not accept a connection within {limit}");
                    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
                };
                return Err(unreachable(latest.unwrap_or_else(silent)));
            }
        }
        sleep_until(end.min(Instant::now() + RETRY_INTERVAL)).await;
    }
}

fn unreachable(error: sqlx::Error) -> Error {
    let kind = Kind::Unavailable(Duration::from_secs(1));
    Error::new(kind, code::DATABASE_UNAVAILABLE, "The database cannot be reached now").with_source(error)
}

/// Returns whether the server may accept a later attempt: it is not there yet, it starts, it has too many connections.
fn is_temporary(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| matches!(&*code, "57P03" | "53300" | "57P01" | "57P02"))
        }
        _ => false,
    }
}

/// Checks that the session of `first` belongs to it alone. A pooler in transaction mode gives a session to another client
/// as soon as a transaction ends, so one of the other connections gets the session of `first`, or `first` gets another one.
async fn check_session(options: &PgConnectOptions, first: &mut PgConnection) -> Result<()> {
    let Some(own) = process(first, PROCESS).await? else { return Ok(()) };
    let mut holders = Vec::with_capacity(HOLDERS);
    for _ in 0..HOLDERS {
        // A database with few connections is no reason to refuse it here.
        let Ok(Ok(mut holder)) = timeout(CHECK_TIMEOUT, options.connect()).await else { break };
        match process(&mut holder, "BEGIN; SELECT pg_backend_pid()").await? {
            Some(other) if other == own => return Err(shared()),
            Some(_) => holders.push(holder),
            None => break,
        }
    }
    let again = process(first, PROCESS).await?;
    for holder in holders {
        drop(timeout(CHECK_TIMEOUT, holder.close()).await);
    }
    if again.is_some_and(|again| again != own) { Err(shared()) } else { Ok(()) }
}

/// Returns the number of the server's process. `None` means that there was no response in time.
async fn process(connection: &mut PgConnection, sql: &'static str) -> Result<Option<i32>> {
    // Not prepared: a pooler in transaction mode may send the parts of a prepared statement to different sessions.
    let row = sqlx::Executor::fetch_one(connection, sqlx::raw_sql(sql));
    match timeout(CHECK_TIMEOUT, row).await {
        Err(_elapsed) => Ok(None),
        Ok(Ok(row)) => Ok(Some(sqlx::Row::try_get(&row, 0)?)),
        // The words of PgBouncer in statement mode.
        Ok(Err(sqlx::Error::Database(error))) if error.message().contains("statement pooling") => Err(shared()),
        Ok(Err(error)) => Err(error.into()),
    }
}

fn shared() -> Error {
    Error::internal(
        "the connections share their sessions: they go through a pooler, such as PgBouncer, in transaction or statement \
         mode. It lacks a session for each connection. Wharf needs one for its advisory lock, which keeps a second host \
         away, for its settings (search_path, wharf.holder and time limits) and for its prepared statements. Set pool_mode \
         = session for this database in the pooler, or connect to PostgreSQL directly",
    )
}
