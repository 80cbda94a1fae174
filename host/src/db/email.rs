//! The queue of outgoing mail, and the mails that were sent a short time ago. Owns the SQL on `mail_queue` and
//! `recent_mails`; the module `email` owns the format of payloads.
//!
//! The queue has a bound. Of mails with the same repeat key, only one waits, and another one is not sent for a while.

use std::time::Duration;

use super::row::row;
use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result, code};

/// The wait that is proposed to a client while the queue is full.
const FULL_RETRY: Duration = Duration::from_secs(60);

row! {
    /// A mail to send, claimed until its lease ends.
    #[derive(Debug)]
    pub(crate) struct MailRow {
        pub(crate) id: i64,
        pub(crate) kind: String,
        pub(crate) payload: String,
        /// The number of attempts, this one included.
        pub(crate) attempts: i64,
        /// The key of mails that are not sent twice.
        pub(crate) repeat_key: Option<Vec<u8>>,
    }
}

/// A mail to be queued.
#[derive(Debug)]
pub struct NewMail {
    pub(crate) kind: &'static str,
    pub(crate) payload: String,
    pub(crate) at: Timestamp,
    /// The mail is not queued while another one with this key waits.
    pub(crate) repeat_key: Option<Vec<u8>>,
    /// The number of waiting mails from which on this one is refused.
    pub(crate) bound: i64,
}

/// Counts the waiting mails up to `$1`.
pub(super) const WAITING: &str = "SELECT COUNT(*) FROM (SELECT 1 AS one FROM mail_queue LIMIT $1) AS waiting";

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
    &'q str: sqlx::Encode<'q, D> + sqlx::Type<D>,
    Option<&'q [u8]>: sqlx::Encode<'q, D> + sqlx::Type<D>,
{
    // A mail that waits already is written too. Otherwise a request would take less time while a mail to its address
    // waits, and so tell whether the address has an account: a mail without an account leaves the queue at once.
    const SQL: &str = "INSERT INTO mail_queue (kind, payload, next_at, created_at, repeat_key) \
        VALUES ($1, $2, $3, $3, $4) ON CONFLICT (repeat_key) DO UPDATE SET repeat_key = excluded.repeat_key";
    sqlx::query(SQL).bind(mail.kind).bind(mail.payload.as_str()).bind(mail.at).bind(mail.repeat_key.as_deref())
}

/// Claims the mail that has been due longest until `lease_until`. If this node dies, another node can claim it
/// afterwards.
pub(crate) async fn claim(db: &Db, now: Timestamp, lease_until: Timestamp) -> Result<Option<MailRow>> {
    macro_rules! claim {
        ($lock:literal) => {
            concat!(
                "UPDATE mail_queue SET attempts = attempts + 1, next_at = $2 WHERE id = \
                 (SELECT id FROM mail_queue WHERE next_at <= $1 ORDER BY next_at, id LIMIT 1",
                $lock,
                ") RETURNING id, kind, payload, attempts, repeat_key"
            )
        };
    }
    let sql = db.dialect(claim!(""), claim!(" FOR UPDATE SKIP LOCKED"));
    let row = on!(db, pool => {
        sqlx::query_as::<_, MailRow>(sql).bind(now).bind(lease_until).fetch_optional(pool).await
    })?;
    Ok(row)
}

/// Returns whether a mail with this key was sent a short time ago.
pub(crate) async fn was_sent(db: &Db, repeat_key: &[u8], now: Timestamp) -> Result<bool> {
    const SQL: &str = "SELECT until FROM recent_mails WHERE repeat_key = $1 AND until > $2";
    let until = on!(db, pool => {
        sqlx::query_scalar::<_, Timestamp>(SQL).bind(repeat_key).bind(now).fetch_optional(pool).await
    })?;
    Ok(until.is_some())
}

/// Returns a claimed mail to the queue; it is due at `next_at`.
pub(crate) async fn postpone(db: &Db, id: i64, next_at: Timestamp) -> Result<()> {
    const SQL: &str = "UPDATE mail_queue SET next_at = $2 WHERE id = $1";
    on!(db, pool => sqlx::query(SQL).bind(id).bind(next_at).execute(pool).await.map(drop))?;
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

/// Returns the number of mails that wait or are being sent.
///
/// # Errors
/// The database fails.
pub(crate) async fn count(db: &Db) -> Result<i64> {
    Ok(on!(db, pool => sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM mail_queue").fetch_one(pool).await)?)
}
