//! A message: an event as receivers get it. Owns the tables of messages and deliveries while they are filled.

use crate::retention;
use crate::sending::{self, Delivery};
use serde::Serialize;
use wharf_sdk::jobs::{Error, Priority};
use wharf_sdk::prelude::*;
use wharf_sdk::serde_json::json;
use wharf_sdk::sql::{self, params};

/// The most deliveries of one endpoint that wait. A receiver that is down for long does not fill the queue.
const MAX_WAITING: i64 = 1_000;

/// The most deliveries of one account that wait with the usual priority. Further ones come after those of other accounts, so
/// nobody delays them with slow receivers or many messages.
const MAX_FIRST: i64 = 5;

/// How many deliveries are stored in one transaction. The host bounds the jobs of a second. An event with more receivers than
/// that is delivered again, and the repetition goes on where this one ended.
const TOGETHER: usize = 50;

/// The log's text about a delivery beyond [`MAX_WAITING`].
const TOO_MANY: &str = "Too many deliveries of the endpoint were waiting. Try again when the receiver works";

/// The log's text about a delivery for whose job the host has no room.
const NO_ROOM: &str = "Too many deliveries of all endpoints were waiting. Try again later";

/// A message.
pub(crate) struct Message {
    /// That of the event.
    id: Uuid,
    topic: String,
    audience: Option<Uuid>,
    body: String,
}

impl Message {
    /// Creates the message about an event. All receivers get the same body.
    pub(crate) fn about<T: Serialize>(event: &Event<T>) -> Self {
        let body = json!({ "type": event.topic, "timestamp": event.published_at, "data": event.payload });
        Self { id: event.id, topic: event.topic.clone(), audience: event.audience, body: body.to_string() }
    }

    /// Creates a message without an event.
    pub(crate) fn new(topic: &str, audience: Uuid, data: &impl Serialize) -> Self {
        let body = json!({ "type": topic, "timestamp": Timestamp::now(), "data": data });
        Self { id: Uuid::new_v4(), topic: topic.to_owned(), audience: Some(audience), body: body.to_string() }
    }

    /// Stores the message with a delivery and a job for each endpoint. A delivery that is stored already is left out, so an
    /// event that comes twice is sent once. Returns the new deliveries.
    pub(crate) fn send_to(&self, endpoints: &[Uuid]) -> Result<Vec<Uuid>> {
        let mut added = Vec::new();
        for together in endpoints.chunks(TOGETHER) {
            added.extend(self.store(together)?);
        }
        Ok(added)
    }

    fn store(&self, endpoints: &[Uuid]) -> Result<Vec<Uuid>> {
        const FAIL: &str = "UPDATE delivery SET state = 'failed', error = $2 WHERE id = $1";
        let now = Timestamp::now();
        let mut planned = Vec::new();
        for endpoint in endpoints {
            // Outside the transaction, so that events at the same time do not conflict: some more may wait or be kept.
            retention::make_room(*endpoint)?;
            planned.push((Uuid::new_v4(), *endpoint, Backlog::of(*endpoint)?));
        }
        sql::transaction(|tx| {
            tx.execute(
                "INSERT INTO message (id, topic, audience, body, created_at) VALUES ($1, $2, $3, $4, $5)
                ON CONFLICT (id) DO NOTHING",
                params![self.id, &self.topic, self.audience, &self.body, now],
            )?;
            let mut added = Vec::new();
            for (delivery, endpoint, backlog) in planned.iter().copied() {
                let (state, error) = if backlog.has_room() { ("waiting", None) } else { ("failed", Some(TOO_MANY)) };
                let is_new = tx.execute(
                    "INSERT INTO delivery (id, message_id, endpoint_id, state, attempts, error, created_at)
                    VALUES ($1, $2, $3, $4, 0, $5, $6) ON CONFLICT (message_id, endpoint_id) DO NOTHING",
                    params![delivery, self.id, endpoint, state, error, now],
                )? == 1;
                if !is_new {
                    continue;
                }
                if backlog.has_room() && !enqueue(delivery, 0, backlog)? {
                    tx.execute(FAIL, params![delivery, NO_ROOM])?;
                }
                added.push(delivery);
            }
            Ok(added)
        })
    }
}

/// Enqueues the job of a delivery that its owner has retried so many times. Returns whether the host had room for it. While it
/// waits, it has one job. Each retry has a key of its own, so the job before it, whose end the host may not have recorded yet,
/// does not keep it out.
pub(crate) fn enqueue(delivery: Uuid, retries: i64, backlog: Backlog) -> Result<bool> {
    let job = sending::deliver::job(&Delivery { id: delivery });
    let job = job.dedup(format_args!("{delivery}/{retries}")).priority(backlog.priority());
    match job.enqueue() {
        Ok(_) => Ok(true),
        Err(error) if is_full(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Returns whether the queue is full. Waiting would not help, because its jobs are tried for a day. The event must not become
/// a dead letter of all receivers for that, so its deliveries end in the logs.
fn is_full(error: &Error) -> bool {
    matches!(error, Error::Limit(limit) if limit.starts_with("waiting:"))
}

/// The deliveries that wait, counted up to the bounds.
#[derive(Clone, Copy)]
pub(crate) struct Backlog {
    of_endpoint: i64,
    of_account: i64,
}

impl Backlog {
    /// Counts those of an endpoint and of its account.
    pub(crate) fn of(endpoint: Uuid) -> Result<Self> {
        const WAITING: &str = "SELECT
            (SELECT COUNT(*) FROM
                (SELECT id FROM delivery WHERE endpoint_id = $1 AND state = 'waiting' LIMIT $2) AS own) AS of_endpoint,
            (SELECT COUNT(*) FROM
                (SELECT delivery.id FROM endpoint JOIN delivery ON endpoint_id = endpoint.id
                WHERE owner_id = (SELECT owner_id FROM endpoint WHERE id = $1) AND state = 'waiting' LIMIT $3) AS owned)
                AS of_account";
        let (of_endpoint, of_account): (i64, i64) = sql::query_one(WAITING, params![endpoint, MAX_WAITING, MAX_FIRST])?;
        Ok(Self { of_endpoint, of_account })
    }

    /// Returns whether another delivery of the endpoint may wait.
    pub(crate) fn has_room(self) -> bool {
        self.of_endpoint < MAX_WAITING
    }

    fn priority(self) -> Priority {
        if self.of_account < MAX_FIRST { Priority::Normal } else { Priority::Low }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_differs_from_a_rate_that_passes() {
        let limit = |text: &str| Error::Limit(text.to_owned());
        assert!(is_full(&limit("waiting: 200000")));
        assert!(!is_full(&limit("rate: 200")) && !is_full(&Error::Unavailable) && !is_full(&Error::Conflict));
    }
}
