//! Mails of plugins in the queue: each is queued once, and another one with its key not within a day. Owns the table
//! `mail_receipts`, which remembers them, also after they were sent.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::db::row::row;
use crate::db::{Db, on};
use crate::error::Result;
use crate::id::PluginName;

/// How long another mail with the same key is left out.
pub(crate) const KEY_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the id of a mail is remembered. A relay that repeats itself does so within seconds, and after an outage of the
/// database of the plugin later.
const RECEIPT_TIME: Duration = Duration::from_secs(2 * 24 * 60 * 60);

/// The share of the smallest mail in the bounds of its plugin, so that they bound the number of mails too.
pub(crate) const LEAST_BYTES: usize = 1024;

/// The most rows that one statement changes.
const BATCH: i64 = 1_000;

/// Frees the key of a mail that is older than a day, or newer by a day: the clock was set back.
pub(in crate::db) const FREE_KEY: &str = "UPDATE mail_receipts SET dedup_key = NULL \
    WHERE source = $1 AND dedup_key = $2 AND (queued_at <= $3 OR queued_at >= $4)";

/// Changes nothing if the mail was queued before, or another one with its key.
pub(in crate::db) const RECEIPT: &str = "INSERT INTO mail_receipts (mail_id, source, dedup_key, queued_at) \
    VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";

pub(in crate::db) const INSERT: &str = "INSERT INTO mail_queue \
    (kind, payload, next_at, created_at, waiting_since, mail_id, source, bytes) \
    VALUES ('plugin', $1, $2, $2, $2, $3, $4, $5)";

/// Queues a mail of a plugin in the body of `on!`, in the transaction `$tx`.
macro_rules! store_mail {
    ($tx:expr, $plugin:expr, $mail:expr) => {{
        let (plugin, mail): (&$crate::id::PluginName, &$crate::message::PluginMail) = ($plugin, $mail);
        let payload = serde_json::to_string(mail)
            .map_err(|error| $crate::error::Error::internal("a mail cannot be written as JSON").with_source(error))?;
        let key = mail.dedup_key.as_deref();
        if let Some(key) = key {
            let free = sqlx::query($crate::db::email::plugin_mail::FREE_KEY).bind(plugin.clone()).bind(key);
            let free = free.bind(mail.at.minus($crate::db::email::plugin_mail::KEY_TIME));
            free.bind(mail.at.plus($crate::db::email::plugin_mail::KEY_TIME)).execute(&mut *$tx).await?;
        }
        let receipt = sqlx::query($crate::db::email::plugin_mail::RECEIPT).bind(mail.id).bind(plugin.clone());
        if receipt.bind(key).bind(mail.at).execute(&mut *$tx).await?.rows_affected() == 1 {
            $tx.stores_mails();
            let bytes = $crate::db::email::plugin_mail::stored_bytes(&payload);
            let insert = sqlx::query($crate::db::email::plugin_mail::INSERT).bind(payload).bind(mail.at).bind(mail.id);
            insert.bind(plugin.clone()).bind(bytes).execute(&mut *$tx).await?;
        }
    }};
}
pub(in crate::db) use store_mail;

/// Returns the share of a mail in the bounds of its plugin.
pub(in crate::db) fn stored_bytes(payload: &str) -> i64 {
    i64::try_from(payload.len().max(LEAST_BYTES)).unwrap_or(i64::MAX)
}

/// Returns the bytes of the mails of a plugin that wait.
///
/// # Errors
/// The database fails.
pub async fn waiting_bytes(db: &Db, plugin: &PluginName) -> Result<u64> {
    const SQL: &str = "SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM mail_queue \
        WHERE source = $1 AND state = 'waiting'";
    let bytes = on!(db, pool => sqlx::query_scalar::<_, i64>(SQL).bind(plugin.clone()).fetch_one(pool).await)?;
    Ok(u64::try_from(bytes).unwrap_or_default())
}

row! {
    /// A plugin with a mail that waits.
    struct Waiting {
        source: Option<String>,
        next_at: Option<Timestamp>,
    }
}

/// Returns the plugins with a mail that is due, in any order. Each is found by one look into the index. The mails of a plugin
/// that is paused wait.
pub(crate) async fn due(db: &Db, now: Timestamp) -> Result<Vec<String>> {
    const SQL: &str = "WITH RECURSIVE found (source) AS ( \
            SELECT MIN(source) FROM mail_queue WHERE state = 'waiting' AND source > '' \
            UNION ALL \
            SELECT (SELECT MIN(m.source) FROM mail_queue m WHERE m.state = 'waiting' AND m.source > found.source) \
            FROM found WHERE found.source IS NOT NULL) \
        SELECT found.source AS source, \
            (SELECT MIN(m.next_at) FROM mail_queue m WHERE m.state = 'waiting' AND m.source = found.source) AS next_at \
        FROM found WHERE found.source IS NOT NULL \
            AND NOT EXISTS (SELECT 1 FROM plugins p WHERE p.name = found.source AND p.paused)";
    let waiting = on!(db, pool => sqlx::query_as::<_, Waiting>(SQL).fetch_all(pool).await)?;
    let is_due = |waiting: &Waiting| waiting.next_at.is_some_and(|at| at <= now);
    Ok(waiting.into_iter().filter(is_due).filter_map(|waiting| waiting.source).collect())
}

/// Why mails are given up after their grant was revoked.
pub const REVOKED: &str = "the grant 'email' was revoked";

/// Gives up all waiting mails of a plugin.
///
/// # Errors
/// The database fails. Some may have been given up.
pub async fn bury_of_plugin(db: &Db, plugin: &PluginName, reason: &str, now: Timestamp) -> Result<u64> {
    const SQL: &str = "UPDATE mail_queue SET state = 'dead', reason = $2, ended_at = $3 WHERE state = 'waiting' AND id IN \
        (SELECT id FROM mail_queue WHERE source = $1 AND state = 'waiting' ORDER BY id LIMIT $4)";
    let mut given_up = 0_u64;
    loop {
        let batch = on!(db, pool => {
            let bury = sqlx::query(SQL).bind(plugin.clone()).bind(reason).bind(now).bind(BATCH);
            bury.execute(pool).await.map(|done| done.rows_affected())
        })?;
        if batch == 0 {
            return Ok(given_up);
        }
        given_up = given_up.saturating_add(batch);
    }
}

/// Deletes all mails of a plugin, whose data is deleted.
///
/// # Errors
/// The database fails.
pub async fn delete_of_plugin(db: &Db, plugin: &PluginName) -> Result<()> {
    const MAILS: &str = "DELETE FROM mail_queue WHERE id IN \
        (SELECT id FROM mail_queue WHERE source = $1 ORDER BY state, id LIMIT $2)";
    const RECEIPTS: &str = "DELETE FROM mail_receipts WHERE mail_id IN \
        (SELECT mail_id FROM mail_receipts WHERE source = $1 LIMIT $2)";
    for sql in [MAILS, RECEIPTS] {
        loop {
            let deleted = on!(db, pool => {
                let delete = sqlx::query(sql).bind(plugin.clone()).bind(BATCH);
                delete.execute(pool).await.map(|done| done.rows_affected())
            })?;
            if deleted == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// Deletes the receipts that are not needed any more.
pub(super) async fn prune_receipts(db: &Db, now: Timestamp) -> Result<()> {
    const SQL: &str = "DELETE FROM mail_receipts WHERE mail_id IN \
        (SELECT mail_id FROM mail_receipts WHERE queued_at <= $1 ORDER BY queued_at LIMIT $2)";
    loop {
        let deleted = on!(db, pool => {
            let delete = sqlx::query(SQL).bind(now.minus(RECEIPT_TIME)).bind(BATCH);
            delete.execute(pool).await.map(|done| done.rows_affected())
        })?;
        if deleted == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::db::intake;
    use crate::id::MailId;
    use crate::message::{MailRecipient, Message, PluginMail};

    fn mail(id: u128, key: Option<&str>, at: Timestamp) -> Message {
        Message::Mail(PluginMail {
            id: MailId(Uuid::from_u128(id)),
            to: MailRecipient::Address("jane@example.com".parse().unwrap()),
            subject: "Hello".to_owned(),
            text: String::new(),
            html: None,
            attachments: Vec::new(),
            dedup_key: key.map(str::to_owned),
            request_id: None,
            at,
        })
    }

    async fn waiting(db: &Db, plugin: &PluginName) -> u64 {
        waiting_bytes(db, plugin).await.unwrap() / 1024
    }

    #[tokio::test]
    async fn a_mail_is_queued_once_also_after_it_was_sent() {
        let (_dir, db) = crate::db::tests::sqlite().await;
        let plugin: PluginName = "items".parse().unwrap();
        let at = Timestamp(1_700_000_000_000_000);
        let queued = [mail(1, None, at), mail(2, None, at), mail(1, None, at)];
        intake::store(&db, &plugin, &queued).await.unwrap();
        assert_eq!((waiting(&db, &plugin).await, due(&db, at).await.unwrap()), (2, vec!["items".to_owned()]));
        let claimed = super::super::claim(&db, "items", at, at).await.unwrap().unwrap();
        assert_eq!((claimed.attempts, claimed.mail_id), (1, Some(MailId(Uuid::from_u128(1)))));
        super::super::delete(&db, claimed.id).await.unwrap();
        intake::store(&db, &plugin, &queued).await.unwrap();
        assert_eq!(waiting(&db, &plugin).await, 1);
        assert!(due(&db, at.minus(Duration::from_secs(1))).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_key_is_used_once_in_a_day_by_each_plugin() {
        let (_dir, db) = crate::db::tests::sqlite().await;
        let (plugin, other): (PluginName, PluginName) = ("items".parse().unwrap(), "other".parse().unwrap());
        let at = Timestamp(1_700_000_000_000_000);
        let almost = at.plus(KEY_TIME).minus(Duration::from_micros(1));
        for message in [mail(1, Some("k"), at), mail(2, Some("k"), almost), mail(3, Some("l"), at)] {
            intake::store(&db, &plugin, &[message]).await.unwrap();
        }
        intake::store(&db, &other, &[mail(4, Some("k"), at)]).await.unwrap();
        assert_eq!((waiting(&db, &plugin).await, waiting(&db, &other).await), (2, 1));
        intake::store(&db, &plugin, &[mail(5, Some("k"), at.plus(KEY_TIME))]).await.unwrap();
        assert_eq!(waiting(&db, &plugin).await, 3);
        // The clock was ahead then.
        intake::store(&db, &other, &[mail(6, Some("k"), at.minus(KEY_TIME))]).await.unwrap();
        assert_eq!(waiting(&db, &other).await, 2);
        // The receipt of the first one is still there, so it is not queued again.
        intake::store(&db, &plugin, &[mail(1, Some("k"), at)]).await.unwrap();
        assert_eq!(waiting(&db, &plugin).await, 3);

        prune_receipts(&db, at.plus(RECEIPT_TIME)).await.unwrap();
        delete_of_plugin(&db, &plugin).await.unwrap();
        assert_eq!((waiting(&db, &plugin).await, waiting(&db, &other).await), (0, 2));
    }

    #[tokio::test]
    async fn mails_of_a_revoked_grant_are_given_up_and_can_be_retried() {
        let (_dir, db) = crate::db::tests::sqlite().await;
        let plugin: PluginName = "items".parse().unwrap();
        let at = Timestamp(1_700_000_000_000_000);
        intake::store(&db, &plugin, &[mail(1, None, at), mail(2, None, at)]).await.unwrap();
        assert_eq!(bury_of_plugin(&db, &plugin, "revoked", at).await.unwrap(), 2);
        assert_eq!(bury_of_plugin(&db, &plugin, "revoked", at).await.unwrap(), 0);
        assert!(due(&db, at).await.unwrap().is_empty());
    }
}
