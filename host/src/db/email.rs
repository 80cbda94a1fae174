//! The queue of outgoing mail. Owns the SQL on `mail_queue`; the module `email` owns the format of payloads.

use super::row::row;
use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::Result;

row! {
    /// A mail to send, claimed until its lease ends.
    #[derive(Debug)]
    pub(crate) struct MailRow {
        pub(crate) id: i64,
        pub(crate) kind: String,
        pub(crate) payload: String,
        /// The number of attempts, this one included.
        pub(crate) attempts: i64,
    }
}

/// A mail to be queued.
#[derive(Debug)]
pub struct NewMail {
    pub(crate) kind: &'static str,
    pub(crate) payload: String,
    pub(crate) at: Timestamp,
}

pub(crate) async fn insert(db: &Db, mail: &NewMail) -> Result<()> {
    on!(db, pool => insert_with(mail).execute(pool).await.map(drop))?;
    Ok(())
}

/// Returns the statement that queues a mail, for the transaction of another table.
pub(super) fn insert_with<'q, D>(mail: &'q NewMail) -> sqlx::query::Query<'q, D, D::Arguments>
where
    D: sqlx::Database,
    Timestamp: sqlx::Encode<'q, D> + sqlx::Type<D>,
    &'q str: sqlx::Encode<'q, D> + sqlx::Type<D>,
{
    const SQL: &str = "INSERT INTO mail_queue (kind, payload, next_at, created_at) VALUES ($1, $2, $3, $3)";
    sqlx::query(SQL).bind(mail.kind).bind(mail.payload.as_str()).bind(mail.at)
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
                ") RETURNING id, kind, payload, attempts"
            )
        };
    }
    let sql = db.dialect(claim!(""), claim!(" FOR UPDATE SKIP LOCKED"));
    let row = on!(db, pool => {
        sqlx::query_as::<_, MailRow>(sql).bind(now).bind(lease_until).fetch_optional(pool).await
    })?;
    Ok(row)
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

/// Returns the number of mails that wait or are being sent.
///
/// # Errors
/// The database fails.
pub(crate) async fn count(db: &Db) -> Result<i64> {
    Ok(on!(db, pool => sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM mail_queue").fetch_one(pool).await)?)
}
