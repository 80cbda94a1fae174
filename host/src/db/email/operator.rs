//! Mails as operators see and change them: lists, one mail with its payload, counts, and changes of one or of many. Owns the
//! SQL of these. A payload names the recipient and, of a mail of a plugin, has its text; it never has a token of the host.
//!
//! A change of many mails is made in batches. Each batch is a transaction with its audit entry. No mail is changed twice,
//! even if a retried one dies meanwhile.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use crate::clock::Timestamp;
use crate::db::audit::{Entry, append};
use crate::db::row::row;
use crate::db::{Db, on};
use crate::error::{Error, Result, code};
use crate::id::{MailId, PluginName};
use crate::initiator::Initiator;

/// The most mails that one transaction changes.
const BATCH: i64 = 200;

/// The columns of [`QueuedMail`], as a literal for `concat!`.
macro_rules! columns {
    () => {
        "id AS seq, mail_id, NULLIF(source, '') AS plugin, kind, state, attempts, next_at, reason, bytes, created_at, \
         ended_at"
    };
}

row! {
    /// A mail without its payload.
    #[derive(Debug, Clone, Serialize, JsonSchema)]
    pub struct QueuedMail {
        /// The number, in the order in which mails were queued.
        pub seq: i64,
        /// The id, as the plugin and the `Message-ID` have it.
        pub mail_id: Option<MailId>,
        /// The plugin that sent it; null: the host.
        pub plugin: Option<PluginName>,
        /// `plugin`, or the name of the template of a mail of the host.
        pub kind: String,
        /// `waiting` or `dead`.
        pub state: String,
        /// The number of attempts.
        pub attempts: i64,
        /// The earliest next attempt of a waiting mail. While an attempt runs, it is the end of its time.
        pub next_at: Timestamp,
        /// The reason of the latest failure.
        pub reason: Option<String>,
        /// The size in the queue.
        pub bytes: i64,
        /// When it was queued.
        pub created_at: Timestamp,
        /// When it was given up.
        pub ended_at: Option<Timestamp>,
    }
}

row! {
    /// The rest of a mail.
    #[derive(Debug, Clone)]
    pub struct Payload {
        /// JSON: a `message::PluginMail`, or an entry of the host (`email::mail`).
        pub payload: String,
    }
}

/// The source of mails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The host.
    Host,
    /// One plugin.
    Plugin(PluginName),
}

impl Source {
    /// Returns it as it is stored.
    fn stored(&self) -> String {
        match self {
            Self::Host => super::HOST.to_owned(),
            Self::Plugin(plugin) => plugin.to_string(),
        }
    }

    /// Returns the word of an audit entry.
    fn word(&self) -> &str {
        match self {
            Self::Host => "the host",
            Self::Plugin(plugin) => plugin.as_str(),
        }
    }
}

/// A page of a list.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// The number of the mail to continue behind.
    pub after: Option<i64>,
    /// Whether the oldest mails come first.
    pub oldest_first: bool,
    /// The most mails.
    pub limit: i64,
}

/// Returns a page of the mails of a source, or of all, that have the state.
///
/// # Errors
/// The database fails.
pub async fn list(
    db: &Db,
    source: Option<&Source>,
    state: Option<&'static str>,
    page: Page,
) -> Result<Vec<QueuedMail>> {
    const SELECT: &str = concat!("SELECT ", columns!(), " FROM mail_queue WHERE 1 = 1");
    on!(db, pool => {
        let mut query = sqlx::QueryBuilder::new(SELECT);
        if let Some(source) = source {
            query.push(" AND source = ").push_bind(source.stored());
        }
        if let Some(state) = state {
            query.push(" AND state = '").push(state).push("'");
        }
        if let Some(after) = page.after {
            query.push(if page.oldest_first { " AND id > " } else { " AND id < " }).push_bind(after);
        }
        query.push(if page.oldest_first { " ORDER BY id" } else { " ORDER BY id DESC" });
        query.push(" LIMIT ").push_bind(page.limit);
        Ok(query.build_query_as::<QueuedMail>().fetch_all(pool).await?)
    })
}

/// Returns a mail with its payload.
///
/// # Errors
/// 404 `mail_not_found`.
pub async fn find(db: &Db, seq: i64) -> Result<(QueuedMail, Payload)> {
    use sqlx::FromRow as _;

    const SQL: &str = concat!("SELECT ", columns!(), ", payload FROM mail_queue WHERE id = $1");
    let found = on!(db, pool => {
        let row = sqlx::query(SQL).bind(seq).fetch_optional(pool).await?;
        row.map(|row| Ok::<_, sqlx::Error>((QueuedMail::from_row(&row)?, Payload::from_row(&row)?))).transpose()?
    });
    found.ok_or_else(|| mail_not_found(seq))
}

fn mail_not_found(seq: i64) -> Error {
    Error::not_found(code::MAIL_NOT_FOUND, format!("There is no mail {seq} in the queue: it was sent or deleted"))
}

row! {
    /// The mails of one source with one state.
    #[derive(Debug, Clone)]
    pub struct Count {
        /// The plugin; `None`: the host.
        pub plugin: Option<PluginName>,
        /// `waiting` or `dead`.
        pub state: String,
        /// Their number.
        pub mails: i64,
        /// Their size in the queue.
        pub bytes: i64,
        /// Since when the first of them is tried.
        pub oldest_at: Timestamp,
    }
}

const COUNTS: &str = "SELECT NULLIF(source, '') AS plugin, state, COUNT(*) AS mails, \
    CAST(SUM(bytes) AS BIGINT) AS bytes, MIN(waiting_since) AS oldest_at FROM mail_queue GROUP BY source, state ORDER BY source, state";

/// Returns the counts of all sources, the host first. Reads one index, once.
///
/// # Errors
/// The database fails.
pub async fn counts(db: &Db) -> Result<Vec<Count>> {
    Ok(on!(db, pool => sqlx::query_as::<_, Count>(COUNTS).fetch_all(pool).await)?)
}

/// A change by an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A dead mail waits again, as if it were new, and one that waits for another attempt is due at once. The reason of its
    /// latest failure stays.
    Retry,
    /// A mail is deleted. One that is being sent may still arrive.
    Drop,
}

impl Change {
    /// Returns the action of the audit entry.
    fn action(self) -> &'static str {
        match self {
            Self::Retry => "mail.retry",
            Self::Drop => "mail.drop",
        }
    }
}

row! {
    /// A mail that may be changed.
    #[derive(Debug)]
    struct Candidate {
        plugin: Option<PluginName>,
        kind: String,
        state: String,
    }
}

/// Changes one mail.
///
/// # Errors
/// 404 `mail_not_found`; 409 `mail_state`: a mail that is due or is being sent is not retried.
pub async fn change_one(db: &Db, change: Change, seq: i64, by: &Initiator, at: Timestamp) -> Result<()> {
    const SQL: &str = "SELECT NULLIF(source, '') AS plugin, kind, state FROM mail_queue WHERE id = $1";
    let found = on!(db, pool => sqlx::query_as::<_, Candidate>(SQL).bind(seq).fetch_optional(pool).await)?;
    let mail = found.ok_or_else(|| mail_not_found(seq))?;
    let detail = json!({ "plugin": mail.plugin, "kind": mail.kind, "state": mail.state });
    let entry = |_: u64| Entry::of(by, at, change.action(), format!("mail:{seq}")).with_detail(detail.clone());
    let state = if mail.state == "dead" { "dead" } else { "waiting" };
    match apply(db, change, state, &[seq], at, entry).await? {
        0 if change == Change::Retry && state == "waiting" => {
            let next = format!("`wharf mail show {seq}` shows its next attempt, once this one has failed");
            Err(Error::conflict(code::MAIL_STATE, format!("Mail {seq} is due already, or is being sent. {next}")))
        }
        0 => {
            let text = format!("Mail {seq} has changed meanwhile. `wharf mail show {seq}` shows it");
            Err(Error::conflict(code::MAIL_STATE, text))
        }
        _ => Ok(()),
    }
}

/// Changes all mails of a source, or of all sources, that have the state. Returns how many were changed.
///
/// # Errors
/// The database fails. Batches that were completed stay so.
pub async fn change_all(
    db: &Db,
    change: Change,
    source: Option<&Source>,
    state: &'static str,
    by: &Initiator,
    at: Timestamp,
) -> Result<u64> {
    const LAST: &str = "SELECT MAX(id) FROM mail_queue";
    let last = on!(db, pool => sqlx::query_scalar::<_, Option<i64>>(LAST).fetch_one(pool).await)?;
    let Some(last) = last else { return Ok(0) };
    let entry = |mails: u64| {
        let detail = json!({ "source": source.map(Source::word), "state": state, "mails": mails });
        Entry::of(by, at, change.action(), "mails").with_detail(detail)
    };
    let (mut low, mut changed) = (0, 0_u64);
    loop {
        let batch: Vec<i64> = on!(db, pool => {
            let mut query = sqlx::QueryBuilder::new("SELECT id FROM mail_queue WHERE state = '");
            query.push(state).push("' AND id > ").push_bind(low).push(" AND id <= ").push_bind(last);
            if let Some(source) = source {
                query.push(" AND source = ").push_bind(source.stored());
            }
            query.push(" ORDER BY id LIMIT ").push_bind(BATCH);
            query.build_query_scalar::<i64>().fetch_all(pool).await
        })?;
        let Some(end) = batch.last() else { return Ok(changed) };
        low = *end;
        changed = changed.saturating_add(apply(db, change, state, &batch, at, entry).await?);
    }
}

/// Changes those of the mails that still have the state, and appends the audit entry if there are any. Returns their
/// number.
async fn apply(
    db: &Db,
    change: Change,
    state: &'static str,
    mails: &[i64],
    at: Timestamp,
    entry: impl Fn(u64) -> Entry,
) -> Result<u64> {
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let mut query = sqlx::QueryBuilder::new("");
        match change {
            Change::Retry => {
                query.push("UPDATE mail_queue SET next_at = ").push_bind(at);
                if state == "dead" {
                    query.push(", state = 'waiting', attempts = 0, unconfirmed = 0, waits_for = NULL, ended_at = NULL");
                    query.push(", waiting_since = ").push_bind(at);
                }
            }
            Change::Drop => {
                query.push("DELETE FROM mail_queue");
            }
        }
        query.push(" WHERE state = '").push(state).push("' AND id IN (");
        let mut list = query.separated(", ");
        for mail in mails {
            list.push_bind(*mail);
        }
        query.push(")");
        if change == Change::Retry && state == "waiting" {
            // Not one that is being sent: another worker would send it too.
            query.push(" AND waits_for IS NOT NULL AND next_at > ").push_bind(at);
        }
        let changed = query.build().execute(&mut *tx).await?.rows_affected();
        if changed > 0 {
            append!(&entry(changed)).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(changed)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lists_and_counts_read_indexes() {
        let (_dir, db) = crate::db::tests::sqlite().await;
        let Db::Sqlite(pool) = &db else { unreachable!() };
        let page = |condition: &str, order: &str| {
            format!("SELECT id FROM mail_queue WHERE 1 = 1 AND {condition} ORDER BY id {order} LIMIT 50")
        };
        for (sql, index) in [
            (COUNTS.to_owned(), "COVERING INDEX mail_queue_states"),
            (page("state = 'dead'", "DESC"), "INDEX mail_queue_dead"),
            (page("source = 'a' AND state = 'dead'", ""), "INDEX mail_queue_states (source=? AND state=?)"),
        ] {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).fetch_all(pool).await.unwrap();
            assert!(plan.iter().any(|step| step.3.contains(index)), "{sql}: {plan:?}");
        }
    }
}
