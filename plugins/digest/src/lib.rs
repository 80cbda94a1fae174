//! Digest: users who opt in get a mail each morning that lists the changes of their items.
//!
//! The plugin hears the events of `items` and stores them for its recipients. A schedule enqueues one job for each recipient
//! with changes, and the job sends the mail. The host repeats events and jobs after a failure, so each step recognises what
//! was done before: nobody gets two digests of one day.
//!
//! [`summary`] is the mail.

use serde::{Deserialize, Serialize};
use std::time::Duration;
use summary::{HtmlDigest, Kind, Summary, TextDigest};
use wharf_sdk::email;
use wharf_sdk::events::UserDeleted;
use wharf_sdk::prelude::*;
use wharf_sdk::sql::{self, params};

mod summary;
#[cfg(test)]
mod tests;

plugin! {
    name: "digest",
    summary: "A daily mail about the items of each user who wants it",
    migrations: "migrations",
    routes: [read_digest, opt_in, opt_out],
    subscriptions: [item_created, item_updated, item_deleted, user_deleted],
    jobs: [enqueue_page, send_digest],
    schedules: [daily],
}

/// The most changes that a mail lists.
const MAX_LISTED: i64 = 100;

#[derive(Serialize, JsonSchema)]
struct DigestPublic {
    subscribed: bool,
    /// When the caller opted in.
    since: Option<Timestamp>,
    /// The number of changes that the next digest has.
    changes: i64,
}

/// Read Digest
///
/// Whether the caller gets digests.
#[get("/")]
fn read_digest(caller: Caller) -> Result<Json<DigestPublic>> {
    const ONE: &str = "SELECT since,
            (SELECT COUNT(*) FROM item_change WHERE item_change.user_id = recipient.user_id AND day IS NULL) AS changes
        FROM recipient WHERE user_id = $1";
    let found: Option<(Timestamp, i64)> = sql::query_optional(ONE, params![caller.id])?;
    let changes = found.map_or(0, |(_, changes)| changes);
    Ok(Json(DigestPublic { subscribed: found.is_some(), since: found.map(|(since, _)| since), changes }))
}

/// Opt In
///
/// From now on, the caller gets digests. Repeating it changes nothing.
#[put("/")]
fn opt_in(caller: Caller) -> Result<()> {
    // Such as an API key that belongs to nobody.
    if caller.email.is_empty() {
        return Err(Problem::forbidden("needs_account", "Only users get digests"));
    }
    sql::execute(
        "INSERT INTO recipient (user_id, since) VALUES ($1, $2) ON CONFLICT (user_id) DO NOTHING",
        params![caller.id, Timestamp::now()],
    )?;
    Ok(())
}

/// Opt Out
///
/// The caller gets no more digests, and what was stored for them is deleted.
#[delete("/")]
fn opt_out(caller: Caller) -> Result<()> {
    delete_recipient(caller.id)?;
    Ok(())
}

#[subscribe("user.deleted")]
fn user_deleted(event: Event<UserDeleted>) -> Result<(), sql::Error> {
    delete_recipient(event.payload.id)
}

/// Deletes a recipient. Their changes go with them.
fn delete_recipient(id: Uuid) -> Result<(), sql::Error> {
    sql::execute("DELETE FROM recipient WHERE user_id = $1", params![id]).map(|_| ())
}

/// The payload of the events of `items`.
#[derive(Deserialize)]
struct Item {
    id: Uuid,
    owner_id: Uuid,
    /// Not that of a deleted item.
    title: Option<String>,
}

#[subscribe("items.created")]
fn item_created(event: Event<Item>) -> Result<(), sql::Error> {
    store(event, Kind::Created)
}

#[subscribe("items.updated")]
fn item_updated(event: Event<Item>) -> Result<(), sql::Error> {
    store(event, Kind::Changed)
}

#[subscribe("items.deleted")]
fn item_deleted(event: Event<Item>) -> Result<(), sql::Error> {
    store(event, Kind::Deleted)
}

/// Stores a change of an item, unless its owner is no recipient or the event is a repetition. The events of an item arrive in
/// their order, so only the latest one can be repeated.
fn store(event: Event<Item>, kind: Kind) -> Result<(), sql::Error> {
    const UPSERT: &str = "INSERT INTO item_change (user_id, item_id, kind, title, event_id)
        SELECT user_id, $2, $3, $4, $5 FROM recipient WHERE user_id = $1
        ON CONFLICT (user_id, item_id) DO UPDATE SET
            kind = CASE
                WHEN item_change.day IS NULL AND item_change.kind = 'created' AND excluded.kind = 'changed' THEN 'created'
                ELSE excluded.kind
            END,
            title = COALESCE(excluded.title, item_change.title),
            event_id = excluded.event_id,
            day = NULL
        WHERE item_change.event_id <> excluded.event_id";

    let Item { id, owner_id, title } = event.payload;
    sql::execute(UPSERT, params![owner_id, id, kind.name(), title, event.id]).map(|_| ())
}

/// Recipients with neighbouring ids, whose jobs are enqueued together.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Page {
    day: String,
    first: Uuid,
    last: Uuid,
}

/// One digest.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Digest {
    day: String,
    user_id: Uuid,
}

/// Begins the digests of a day. The pages start one second after the other, which keeps their jobs below the rate that
/// the host allows.
#[schedule("0 6 * * *", tz = "Europe/Berlin", missed = once)]
fn daily(job: Job<()>) -> Result<(), TaskError> {
    const PAGES: &str = "SELECT MIN(user_id), MAX(user_id)
        FROM (SELECT user_id, (ROW_NUMBER() OVER (ORDER BY user_id) - 1) / 100 AS page FROM recipient) AS numbered
        GROUP BY page ORDER BY page";

    // The date is the first part of the text.
    let day = format!("{:.10}", job.scheduled_at.unwrap_or_else(Timestamp::now));
    let pages: Vec<(Uuid, Uuid)> = sql::query(PAGES, params![])?;
    for (seconds, (first, last)) in (0..).zip(pages) {
        let page = Page { day: day.clone(), first, last };
        enqueue_page::job(&page).delay(Duration::from_secs(seconds)).dedup(format_args!("{day}/{first}")).enqueue()?;
    }
    Ok(())
}

/// Enqueues the digests of the recipients of a page who have changes: all of them or none.
#[job]
fn enqueue_page(job: Job<Page>) -> Result<(), TaskError> {
    const RECIPIENTS: &str = "SELECT DISTINCT user_id FROM item_change
        WHERE user_id >= $1 AND user_id <= $2 AND day IS NULL ORDER BY user_id";

    let Page { day, first, last } = job.payload;
    sql::transaction(|tx| {
        let recipients: Vec<(Uuid,)> = tx.query(RECIPIENTS, params![first, last])?;
        for (user_id,) in recipients {
            let digest = Digest { day: day.clone(), user_id };
            send_digest::job(&digest).dedup(format_args!("{user_id}/{day}")).enqueue()?;
        }
        Ok(())
    })
}

/// Sends a digest. The mail and the marks of what it has belong to one transaction, so none of them exists without the others.
///
/// A mail that the host refuses for now, such as one above the rate of the grant, is tried again for hours.
#[job(retries = 30, backoff = "1m", concurrency = 2)]
fn send_digest(job: Job<Digest>) -> Result<(), TaskError> {
    const BEGIN: &str = "UPDATE recipient SET last_day = $2 WHERE user_id = $1 AND (last_day IS NULL OR last_day < $2)";
    const FORGET: &str = "DELETE FROM item_change WHERE user_id = $1 AND day IS NOT NULL";
    const MARK: &str = "UPDATE item_change SET day = $2 WHERE user_id = $1 AND day IS NULL";
    const LISTED: &str = "SELECT kind, title FROM item_change WHERE user_id = $1
        ORDER BY kind, title NULLS LAST, item_id LIMIT $2";

    let Digest { day, user_id } = job.payload;
    sql::transaction(|tx| {
        if tx.execute(BEGIN, params![user_id, &day])? == 0 {
            // The digest of this day or of a later one was sent, or the user does not want it any more.
            return Ok(());
        }
        tx.execute(FORGET, params![user_id])?;
        let count = tx.execute(MARK, params![user_id, &day])?;
        if count == 0 {
            return Ok(());
        }
        let listed: Vec<(String, Option<String>)> = tx.query(LISTED, params![user_id, MAX_LISTED])?;
        let summary = Summary::new(&day, listed, count);
        email::Message::to_account(user_id)
            .subject(format_args!("Your items, {day}"))
            .text(TextDigest { summary: &summary })
            .html(HtmlDigest { summary: &summary })
            .dedup_key(format_args!("{user_id}/{day}"))
            .send()?;
        Ok(())
    })
}
