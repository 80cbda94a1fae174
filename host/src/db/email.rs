//! The queue of outgoing mail, and the mails that were sent a short time ago. Owns the SQL on `mail_queue` and
//! `recent_mails`; the module `email` owns the format of payloads. `plugin_mail` has the mails of plugins, and `operator`
//! those that were given up, as operators see and change them.
//!
//! A mail has a source: the host, or a plugin. Each source has bounds of its own, and is claimed from on its own, so the mails
//! of one never wait for those of another. Of mails with the same repeat key, only one waits, and another one is not sent
//! for a while. A mail that is given up becomes dead: it stays for a while, and nothing waits for it.
//!
//! The conditions on `state` repeat those of the partial indexes word by word: SQLite uses such an index for nothing else.

pub mod operator;
pub mod plugin_mail;

use std::time::Duration;

use uuid::Uuid;

use super::row::row;
use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result, code};
use crate::id::MailId;

/// The wait that is proposed to a client while the queue is full.
const FULL_RETRY: Duration = Duration::from_secs(60);

/// The source of the host's own mails. No plugin has this name.
pub(crate) const HOST: &str = "";

row! {
    /// A mail to send, claimed until its lease ends.
    #[derive(Debug)]
    pub(crate) struct MailRow {
        pub(crate) id: i64,
        pub(crate) kind: String,
        pub(crate) payload: String,
        /// The number of attempts, this one included.
        pub(crate) attempts: i64,
        /// The number of attempts in which the mail server may have taken it and did not say so.
        pub(crate) unconfirmed: i64,
        /// The key of mails that are not sent twice.
        pub(crate) repeat_key: Option<Vec<u8>>,
        /// A plugin, or [`HOST`].
        pub(crate) source: String,
        /// The id; `None` if an earlier version queued it.
        pub(crate) mail_id: Option<MailId>,
        /// When it was queued.
        pub(crate) created_at: Timestamp,
        /// Since when it is tried: since it was queued, or since an operator retried it.
        pub(crate) waiting_since: Timestamp,
    }
}

impl MailRow {
    /// Returns the id of the mail, which is the same at each attempt.
    pub(crate) fn mail_id(&self) -> MailId {
        let of_row = || Uuid::from_u64_pair(self.created_at.0.unsigned_abs(), self.id.unsigned_abs());
        self.mail_id.unwrap_or_else(|| MailId(of_row()))
    }
}

/// A mail of the host to be queued.
#[derive(Debug)]
pub struct NewMail {
    pub(crate) id: MailId,
    pub(crate) kind: &'static str,
    pub(crate) payload: String,
    pub(crate) at: Timestamp,
    /// The mail is not queued while another one with this key waits.
    pub(crate) repeat_key: Option<Vec<u8>>,
    /// The number of waiting mails of the host from which on this one is refused.
    pub(crate) bound: i64,
}

/// Counts the waiting mails of the host up to `$1`.
pub(super) const WAITING: &str = "SELECT COUNT(*) FROM \
    (SELECT 1 AS one FROM mail_queue WHERE source = '' AND state = 'waiting' LIMIT $1) AS waiting";

/// Queues a mail in the body of `on!`, on a connection that may have a transaction open. Returns from the function with
/// `mail_queue_full` if the queue is full.
macro_rules! enqueue {
    ($executor:expr, $mail:expr) => {{
        let mail: &$crate::db::email::NewMail = $mail;
        let waiting: i64 = sqlx::query_scalar($crate::db::email::WAITING).bind(mail.bound).fetch_one($executor).await?;
        if waiting >= mail.bound {
            return Err($crate::db::email::full());
        }
        $crate::db::email::insert_with(mail).execute($executor).await?;
    }};
}
pub(super) use enqueue;

/// Queues a mail, unless another one with its repeat key waits.
///
/// # Errors
/// `mail_queue_full`.
pub(crate) async fn insert(db: &Db, mail: &NewMail) -> Result<()> {
    on!(db, pool => enqueue!(pool, mail));
    Ok(())
}

pub(super) fn full() -> Error {
    let text = "Too many mails wait to be sent; try again later";
    Error::new(Kind::Unavailable(FULL_RETRY), code::MAIL_QUEUE_FULL, text)
}

/// Returns the statement that queues a mail. `enqueue!` checks the bound before.
pub(super) fn insert_with<'q, D>(mail: &'q NewMail) -> sqlx::query::Query<'q, D, D::Arguments>
where
    D: sqlx::Database,
    Timestamp: sqlx::Encode<'q, D> + sqlx::Type<D>,
    MailId: sqlx::Encode<'q, D> + sqlx::Type<D>,
    &'q str: sqlx::Encode<'q, D> + sqlx::Type<D>,
    Option<&'q [u8]>: sqlx::Encode<'q, D> + sqlx::Type<D>,
{
    // A mail that waits already is written too. Otherwise a request would take less time while a mail to its address
    // waits, and so tell whether the address has an account: a mail without an account leaves the queue at once.
    const SQL: &str = "INSERT INTO mail_queue (kind, payload, next_at, created_at, waiting_since, repeat_key, mail_id) \
        VALUES ($1, $2, $3, $3, $3, $4, $5) ON CONFLICT (repeat_key) DO UPDATE SET repeat_key = excluded.repeat_key";
    let insert = sqlx::query(SQL).bind(mail.kind).bind(mail.payload.as_str()).bind(mail.at);
    insert.bind(mail.repeat_key.as_deref()).bind(mail.id)
}

/// Claims the mail of a source that has been due longest until `lease_until`, unless the source is a plugin that is paused.
/// If this node dies, another node can claim it afterwards.
pub(crate) async fn claim(db: &Db, source: &str, now: Timestamp, lease_until: Timestamp) -> Result<Option<MailRow>> {
    macro_rules! claim {
        ($lock:literal) => {
            concat!(
                "UPDATE mail_queue SET attempts = attempts + 1, next_at = $2, waits_for = NULL WHERE id = \
                 (SELECT id FROM mail_queue WHERE source = $3 AND state = 'waiting' AND next_at <= $1 \
                 AND NOT EXISTS (SELECT 1 FROM plugins WHERE name = $3 AND paused) ORDER BY next_at, id LIMIT 1",
                $lock,
                ") RETURNING id, kind, payload, attempts, unconfirmed, repeat_key, source, mail_id, created_at, waiting_since"
            )
        };
    }
    let sql = db.dialect(claim!(""), claim!(" FOR UPDATE SKIP LOCKED"));
    let row = on!(db, pool => {
        sqlx::query_as::<_, MailRow>(sql).bind(now).bind(lease_until).bind(source).fetch_optional(pool).await
    })?;
    Ok(row)
}

/// Returns whether a mail with this key was sent within `time`. A time in the future does not count: the clock was set back,
/// and nobody would get such a mail for as long as it was ahead.
pub(crate) async fn was_sent(db: &Db, repeat_key: &[u8], now: Timestamp, time: Duration) -> Result<bool> {
    const SQL: &str = "SELECT until FROM recent_mails WHERE repeat_key = $1 AND until > $2 AND until <= $3";
    let until = on!(db, pool => {
        let find = sqlx::query_scalar::<_, Timestamp>(SQL).bind(repeat_key).bind(now);
        find.bind(now.plus(time)).fetch_optional(pool).await
    })?;
    Ok(until.is_some())
}

/// The event that a mail waits for after an attempt. The database has null instead while no attempt was made yet, while one
/// runs, and after one that ended with its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    /// The mail server was away: its return, or the time of the next attempt.
    Server,
    /// The time of the next attempt.
    Retry,
    /// The same, after an attempt in which the mail server may have taken the mail.
    Unconfirmed,
}

impl WaitsFor {
    fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Retry | Self::Unconfirmed => "retry",
        }
    }
}

/// Returns a claimed mail to the queue; it is due at `next_at`. Does nothing if another node has claimed it meanwhile.
pub(crate) async fn postpone(
    db: &Db,
    mail: &MailRow,
    next_at: Timestamp,
    waits_for: WaitsFor,
    reason: &str,
) -> Result<()> {
    const SQL: &str = "UPDATE mail_queue SET next_at = $3, waits_for = $4, reason = $5, unconfirmed = unconfirmed + $6 \
        WHERE id = $1 AND attempts = $2 AND state = 'waiting'";
    let unconfirmed = i64::from(waits_for == WaitsFor::Unconfirmed);
    on!(db, pool => {
        let postpone = sqlx::query(SQL).bind(mail.id).bind(mail.attempts).bind(next_at).bind(waits_for.as_str());
        postpone.bind(reason).bind(unconfirmed).execute(pool).await.map(drop)
    })?;
    Ok(())
}

/// Makes mails due that wait for the return of the mail server, the oldest first and at most `most`. Returns their number.
/// Not among them are a mail that is being sent, and those with `attempts` or more.
pub(crate) async fn end_outage(db: &Db, now: Timestamp, attempts: i64, most: i64) -> Result<u64> {
    const SQL: &str = "UPDATE mail_queue SET waits_for = 'retry', \
            next_at = CASE WHEN next_at > $1 THEN $1 ELSE next_at END \
        WHERE state = 'waiting' AND waits_for = 'server' AND id IN (SELECT id FROM mail_queue \
            WHERE state = 'waiting' AND waits_for = 'server' AND attempts < $2 ORDER BY id LIMIT $3)";
    Ok(on!(db, pool => {
        let end = sqlx::query(SQL).bind(now).bind(attempts).bind(most);
        end.execute(pool).await.map(|done| done.rows_affected())
    })?)
}

/// Gives a claimed mail up: it becomes dead. Another one with its repeat key can be queued again. Does nothing if another
/// node has claimed it meanwhile.
pub(crate) async fn bury(db: &Db, mail: &MailRow, reason: &str, now: Timestamp) -> Result<()> {
    const SQL: &str = "UPDATE mail_queue SET state = 'dead', repeat_key = NULL, reason = $3, ended_at = $4 \
        WHERE id = $1 AND attempts = $2 AND state = 'waiting'";
    on!(db, pool => {
        let bury = sqlx::query(SQL).bind(mail.id).bind(mail.attempts).bind(reason).bind(now);
        bury.execute(pool).await.map(drop)
    })?;
    Ok(())
}

/// Removes a mail from the queue.
pub(crate) async fn delete(db: &Db, id: i64) -> Result<()> {
    on!(db, pool => sqlx::query("DELETE FROM mail_queue WHERE id = $1").bind(id).execute(pool).await.map(drop))?;
    Ok(())
}

/// Removes a mail that was sent from the queue. Another mail with its key is not sent before `until`.
pub(crate) async fn delete_sent(db: &Db, id: i64, repeat_key: &[u8], now: Timestamp, until: Timestamp) -> Result<()> {
    const REMEMBER: &str = "INSERT INTO recent_mails (repeat_key, until) VALUES ($1, $2) \
        ON CONFLICT (repeat_key) DO UPDATE SET until = excluded.until";
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        sqlx::query("DELETE FROM recent_mails WHERE until <= $1").bind(now).execute(&mut *tx).await?;
        sqlx::query(REMEMBER).bind(repeat_key).bind(until).execute(&mut *tx).await?;
        sqlx::query("DELETE FROM mail_queue WHERE id = $1").bind(id).execute(&mut *tx).await?;
        tx.commit().await?;
    });
    Ok(())
}

/// Makes mails due that would wait longer than any mail does, because the clock was set back. Returns their number. A mail
/// that is being sent is not among them.
pub(crate) async fn end_long_waits(db: &Db, now: Timestamp, longest: Duration) -> Result<u64> {
    const SQL: &str = "UPDATE mail_queue SET next_at = $1 \
        WHERE state = 'waiting' AND next_at > $2 AND (attempts = 0 OR waits_for IS NOT NULL)";
    Ok(on!(db, pool => {
        let end = sqlx::query(SQL).bind(now).bind(now.plus(longest));
        end.execute(pool).await.map(|done| done.rows_affected())
    })?)
}

/// The bounds of dead mails.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeadBounds {
    /// How long they are kept.
    pub(crate) keep: Duration,
    /// How many of one source.
    pub(crate) mails: i64,
    /// How many bytes of one source.
    pub(crate) bytes: i64,
}

/// Deletes the dead mails beyond their bounds, the oldest first, and the receipts that are not needed any more. Returns
/// the number of dead mails that were deleted.
pub(crate) async fn prune(db: &Db, bounds: DeadBounds, now: Timestamp) -> Result<u64> {
    const OLD: &str = "DELETE FROM mail_queue WHERE state = 'dead' AND ended_at <= $1";
    const EXCESS: &str = "DELETE FROM mail_queue WHERE state = 'dead' AND id IN (SELECT id FROM (SELECT id, \
            ROW_NUMBER() OVER (PARTITION BY source ORDER BY id DESC) AS place, \
            CAST(SUM(bytes) OVER (PARTITION BY source ORDER BY id DESC) AS BIGINT) AS total \
            FROM mail_queue WHERE state = 'dead') AS counted WHERE place > $1 OR total > $2)";
    let old = on!(db, pool => {
        sqlx::query(OLD).bind(now.minus(bounds.keep)).execute(pool).await.map(|done| done.rows_affected())
    })?;
    let excess = on!(db, pool => {
        let excess = sqlx::query(EXCESS).bind(bounds.mails).bind(bounds.bytes);
        excess.execute(pool).await.map(|done| done.rows_affected())
    })?;
    plugin_mail::prune_receipts(db, now).await?;
    Ok(old + excess)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_claims_of_mails_read_the_index_of_their_source() {
        let (_dir, db) = crate::db::tests::sqlite().await;
        let Db::Sqlite(pool) = &db else { unreachable!() };
        for sql in [
            "SELECT id FROM mail_queue WHERE source = '' AND state = 'waiting' AND next_at <= $1 \
                AND NOT EXISTS (SELECT 1 FROM plugins WHERE name = '' AND paused) ORDER BY next_at, id",
            WAITING,
        ] {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).bind(1_i64).fetch_all(pool).await.unwrap();
            let reads = plan.iter().filter(|step| step.3.contains("mail_queue"));
            assert!(reads.map(|step| step.3.as_str()).all(|step| step.contains("(source=?")), "{plan:?}");
        }
        let explain = "EXPLAIN QUERY PLAN SELECT id FROM mail_queue WHERE state = 'waiting' AND waits_for = 'server' \
            AND attempts < 50 ORDER BY id LIMIT 10";
        let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).fetch_all(pool).await.unwrap();
        assert!(plan.iter().any(|step| step.3.contains("INDEX mail_queue_server")), "{plan:?}");
    }
}
