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
use wharf_sdk::events::{UserCreated, UserDeleted};
use wharf_sdk::prelude::*;
use wharf_sdk::sql::{self, params, statement};

mod summary;
#[cfg(test)]
mod tests;

plugin! {
    name: "digest",
    summary: "A daily mail about the items of each user who wants it",
    migrations: "migrations",
    routes: [read_digest, opt_in, opt_out],
    subscriptions: [item_created, item_updated, item_deleted, user_deleted, user_created],
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
    sql::transaction(|tx| {
        let departed: i64 = tx.query_value("SELECT COUNT(*) FROM departed_user WHERE id = $1", params![caller.id])?;
        if departed > 0 {
            // The caller was deleted after the host admitted this request.
            return Err(Problem::not_found("user_not_found", "User not found"));
        }
        tx.execute(
            "INSERT INTO recipient (user_id, since) VALUES ($1, $2) ON CONFLICT (user_id) DO NOTHING",
            params![caller.id, Timestamp::now()],
        )?;
        Ok(())
    })
}

/// Deletes a recipient. Their changes go with them.
const DELETE_RECIPIENT: &str = "DELETE FROM recipient WHERE user_id = $1";

/// Opt Out
///
/// The caller gets no more digests, and what was stored for them is deleted.
#[delete("/")]
fn opt_out(caller: Caller) -> Result<()> {
    sql::execute(DELETE_RECIPIENT, params![caller.id])?;
    Ok(())
}

/// Deletes a recipient with their account. A request of theirs may opt in at the same time. Both are serializable
/// transactions, and each reads what the other writes. So either the deletion sees the recipient, or the request sees that
/// the user has departed and is refused. On SQLite, one of them waits for the other. On PostgreSQL, one that saw too little
/// fails with a conflict: the host repeats the deletion, and the SDK the request.
#[subscribe("user.deleted")]
fn user_deleted(event: Event<UserDeleted>) -> Result<(), sql::Error> {
    const DEPART: &str = "INSERT INTO departed_user (id) VALUES ($1) ON CONFLICT (id) DO NOTHING";
    sql::batch([DEPART, DELETE_RECIPIENT].map(|sql| statement(sql, params![event.payload.id]))).map(|_| ())
}

/// Lets the user of a new account opt in. An account that `wharf user import` brings back has its earlier id. The events
/// about an account arrive in their order, so an earlier deletion does not undo this. The exception is a deletion that became
/// a dead letter and that an operator retries: it comes after later events. Then the user cannot opt in any more.
#[subscribe("user.created")]
fn user_created(event: Event<UserCreated>) -> Result<(), sql::Error> {
    sql::execute("DELETE FROM departed_user WHERE id = $1", params![event.payload.id]).map(|_| ())
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
/// their order, so only the latest one can be repeated. The exception is an event that became a dead letter and that an
/// operator retries: it comes after later ones. So an item that was deleted stays deleted.
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
        WHERE item_change.event_id <> excluded.event_id AND item_change.kind <> 'deleted'";

    let Item { id, owner_id, title } = event.payload;
    sql::execute(UPSERT, params![owner_id, id, kind.name(), title, event.id]).map(|_| ())
}

/// The most recipients whose digests are enqueued together. As many jobs begin in each second, which is below the rate that
/// the host allows (`jobs.rate`).
const PAGE: i64 = 100;

/// The most parts into which recipients are divided at once.
const PARTS: i64 = 100;

/// Recipients with neighbouring ids.
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

/// Begins the digests of a day.
#[schedule("0 6 * * *", tz = "Europe/Berlin", missed = once, retries = 20)]
fn daily(job: Job<()>) -> Result<(), TaskError> {
    // The date is the first part of the text. It is that of UTC, which at six in the morning is that of Berlin too.
    let day = format!("{:.10}", job.scheduled_at.unwrap_or_else(Timestamp::now));
    enqueue(&Page { day, first: Uuid::nil(), last: Uuid::max() })
}

/// Goes on with a part of the recipients.
#[job(retries = 20)]
fn enqueue_page(job: Job<Page>) -> Result<(), TaskError> {
    enqueue(&job.payload)
}

/// Enqueues the digests of some recipients, or first jobs for parts of them if they are many. A job that enqueues a job makes
/// a chain, and the host bounds its length. So a part is divided again, and does not enqueue the part behind it: any number of
/// recipients needs a few steps.
fn enqueue(page: &Page) -> Result<(), TaskError> {
    const COUNT: &str = "SELECT COUNT(*) FROM recipient WHERE user_id >= $1 AND user_id <= $2";
    let recipients: i64 = sql::query_value(COUNT, params![page.first, page.last])?;
    match recipients > PAGE {
        true => divide(page, recipients),
        false => enqueue_digests(page),
    }
}

/// Enqueues a job for each part of the recipients: all of them or none. The parts start one after the other, and each has as
/// many seconds as pages.
fn divide(page: &Page, recipients: i64) -> Result<(), TaskError> {
    const RANGES: &str = "SELECT MIN(user_id), MAX(user_id)
        FROM (SELECT user_id, (ROW_NUMBER() OVER (ORDER BY user_id) - 1) / $3 AS part
            FROM recipient WHERE user_id >= $1 AND user_id <= $2) AS numbered
        GROUP BY part ORDER BY part";

    let Page { day, first, last } = page;
    let size = PAGE.max(recipients / PARTS + 1);
    let seconds_of_part = u64::try_from(size / PAGE + i64::from(size % PAGE > 0)).unwrap_or(1);
    let ranges: Vec<(Uuid, Uuid)> = sql::query(RANGES, params![first, last, size])?;
    sql::transaction(|_| {
        let mut delay = 0;
        for (first, last) in &ranges {
            let part = Page { day: day.clone(), first: *first, last: *last };
            // The size tells a part from the one that it is the first part of.
            let key = format!("{day}/{first}/{size}");
            enqueue_page::job(&part).delay(Duration::from_secs(delay)).dedup(key).enqueue()?;
            delay += seconds_of_part;
        }
        Ok(())
    })
}

/// Enqueues the digests of the recipients of a page who have changes: all of them or none.
fn enqueue_digests(page: &Page) -> Result<(), TaskError> {
    const RECIPIENTS: &str = "SELECT user_id FROM recipient WHERE user_id >= $1 AND user_id <= $2
        AND EXISTS (SELECT 1 FROM item_change WHERE item_change.user_id = recipient.user_id AND day IS NULL)
        ORDER BY user_id";

    let Page { day, first, last } = page;
    let recipients: Vec<(Uuid,)> = sql::query(RECIPIENTS, params![first, last])?;
    sql::transaction(|_| {
        for (user_id,) in &recipients {
            let digest = Digest { day: day.clone(), user_id: *user_id };
            send_digest::job(&digest).dedup(format_args!("{user_id}/{day}")).enqueue()?;
        }
        Ok(())
    })
}

/// Sends a digest. The mail and the marks of what it has belong to one transaction, so none of them exists without the others.
///
/// A mail that the host refuses for now, such as one above the rate of the grant, is tried again for almost a day. With more
/// digests than `email.rate` lets through in that time, the rest becomes dead letters, and the next digests have their changes.
#[job(retries = 50, backoff = "1m", concurrency = 2)]
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
