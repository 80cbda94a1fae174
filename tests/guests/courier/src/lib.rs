//! A guest that stores parcels. With each, in the same transaction, it publishes an event and enqueues a job. It reports
//! every attempt of both to a server outside the host, so that a test sees the work whatever happens to the host.

#![allow(missing_docs, reason = "a guest of the tests")]

use serde::{Deserialize, Serialize};
use wharf_sdk::jobs::Priority;
use wharf_sdk::prelude::*;
use wharf_sdk::serde_json::{Value, json};
use wharf_sdk::sql::{self, FromRow, params};
use wharf_sdk::{events, http};

plugin! {
    name: "courier",
    summary: "Stores parcels and reports what happens to them",
    settings: Destination,
    migrations: "migrations",
    routes: [send, stored, enqueue_many, measure, waits, forget_waits],
    topics: [Sent],
    subscriptions: [announce],
    jobs: [carry, nothing, start],
    schedules: [tick],
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Destination {
    /// The URL that gets the reports; without it there are none.
    #[schemars(length(max = 200))]
    receiver: Option<String>,
}

/// Sends a report, and fails if it is not accepted.
fn report(step: &Value) -> Result<(), TaskError> {
    let Destination { receiver } = Settings::<Destination>::read()?;
    let Some(receiver) = receiver else { return Ok(()) };
    http::post(receiver).json(step).send()?.successful()?;
    Ok(())
}

/// Counts an attempt in the plugin's own database.
fn count(kind: &str, id: Uuid) -> Result<(), TaskError> {
    sql::execute(
        "INSERT INTO step (id, kind, attempts) VALUES ($1, $2, 1)
        ON CONFLICT (id, kind) DO UPDATE SET attempts = step.attempts + 1",
        params![id, kind],
    )?;
    Ok(())
}

#[derive(Deserialize, JsonSchema)]
struct NewParcel {
    #[schemars(length(max = 40))]
    lane: String,
    /// Whether the transaction is rolled back at its end.
    #[serde(default)]
    lost: bool,
}

#[derive(Serialize, JsonSchema, FromRow)]
struct Parcel {
    id: Uuid,
    lane: String,
    place: i64,
}

/// A parcel was sent.
#[topic("sent")]
#[derive(Serialize, Deserialize, JsonSchema)]
struct Sent {
    id: Uuid,
    lane: String,
    place: i64,
}

#[post("/", access = public)]
fn send(Json(new): Json<NewParcel>) -> Result<Json<Parcel>> {
    let NewParcel { lane, lost } = new;
    let id = Uuid::new_v4();
    let parcel = sql::transaction(|transaction| {
        // The row of the lane stays locked until the commit, so the places have the order of the commits.
        transaction.execute(
            "INSERT INTO lane (name, parcels) VALUES ($1, 1) ON CONFLICT (name) DO UPDATE SET parcels = lane.parcels + 1",
            params![&lane],
        )?;
        let place: i64 = transaction.query_value("SELECT parcels FROM lane WHERE name = $1", params![&lane])?;
        transaction.execute("INSERT INTO parcel (id, lane, place) VALUES ($1, $2, $3)", params![id, &lane, place])?;
        events::event(&Sent { id, lane: lane.clone(), place }).key(&lane).publish()?;
        carry::enqueue(&id)?;
        if lost {
            return Err(Problem::conflict("lost", "The parcel was lost"));
        }
        Ok(Parcel { id, lane: lane.clone(), place })
    })?;
    Ok(Json(parcel))
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct After {
    /// The id of the last parcel of the page before.
    after: String,
}

#[get("/", access = public)]
fn stored(Query(After { after }): Query<After>) -> Result<Json<Vec<Parcel>>> {
    const SQL: &str = "SELECT id, lane, place FROM parcel WHERE id > $1 ORDER BY id LIMIT 2000";
    Ok(Json(sql::query(SQL, params![after])?))
}

#[subscribe("courier.sent", retries = 100, backoff = "50ms")]
fn announce(event: Event<Sent>) -> Result<(), TaskError> {
    let Sent { id, lane, place } = event.payload;
    count("event", id)?;
    report(&json!({ "kind": "event", "id": id, "lane": lane, "place": place, "attempt": event.attempt }))
}

#[job(retries = 100, backoff = "50ms", concurrency = 8)]
fn carry(job: Job<Uuid>) -> Result<(), TaskError> {
    count("job", job.payload)?;
    report(&json!({ "kind": "job", "id": job.payload, "attempt": job.attempt }))
}

/// Runs at the beginning of each year, or whenever a test says that it is time.
#[schedule("0 0 1 1 *", retries = 100, backoff = "50ms")]
fn tick(job: Job<()>) -> Result<(), TaskError> {
    report(&json!({ "kind": "tick", "id": job.id, "scheduled_at": job.scheduled_at, "attempt": job.attempt }))
}

/// Enqueues jobs that do nothing, in one transaction.
#[post("/nothing/{count}", access = public)]
fn enqueue_many(Path(count): Path<u32>) -> Result<()> {
    sql::transaction(|_transaction| {
        for _ in 0..count {
            nothing::enqueue()?;
        }
        Ok(())
    })
}

#[job(concurrency = 64, keep = "1s")]
fn nothing() {}

/// Enqueues a job that measures how long it waits for its start.
#[post("/measure", access = public)]
fn measure() -> Result<()> {
    start::job(&Timestamp::now().unix_micros()).priority(Priority::High).enqueue()?;
    Ok(())
}

#[job(concurrency = 64, keep = "1s")]
fn start(job: Job<i64>) -> Result<(), TaskError> {
    let micros = Timestamp::now().unix_micros() - job.payload;
    sql::execute("INSERT INTO wait (id, micros) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING", params![job.id, micros])?;
    Ok(())
}

/// Returns the waits that were measured, in microseconds.
#[get("/waits", access = public)]
fn waits() -> Result<Json<Vec<i64>>> {
    let rows: Vec<(i64,)> = sql::query("SELECT micros FROM wait ORDER BY micros", params![])?;
    Ok(Json(rows.into_iter().map(|(micros,)| micros).collect()))
}

#[delete("/waits", access = public)]
fn forget_waits() -> Result<()> {
    sql::execute("DELETE FROM wait", params![])?;
    Ok(())
}
