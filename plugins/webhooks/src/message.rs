//! A message: an event as receivers get it. Owns the tables of messages and deliveries while they are filled.

use crate::retention;
use crate::sending::{self, Delivery};
use serde::Serialize;
use wharf_sdk::prelude::*;
use wharf_sdk::serde_json::json;
use wharf_sdk::sql::{self, params};

/// The most deliveries of one endpoint that wait. A receiver that is down for long does not fill the queue.
pub(crate) const MAX_WAITING: i64 = 1_000;

/// The log's text about a delivery beyond [`MAX_WAITING`].
const TOO_MANY: &str = "Too many deliveries of the endpoint were waiting. Try again when the receiver works";

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
        let now = Timestamp::now();
        let mut planned = Vec::new();
        for endpoint in endpoints {
            // Outside the transaction, so that events at the same time do not conflict: some more may wait or be kept.
            retention::make_room(*endpoint)?;
            planned.push((Uuid::new_v4(), *endpoint, has_room(*endpoint)?));
        }
        sql::transaction(|tx| {
            tx.execute(
                "INSERT INTO message (id, topic, audience, body, created_at) VALUES ($1, $2, $3, $4, $5)
                ON CONFLICT (id) DO NOTHING",
                params![self.id, &self.topic, self.audience, &self.body, now],
            )?;
            let mut added = Vec::new();
            for (delivery, endpoint, has_room) in planned.iter().copied() {
                let (state, error) = if has_room { ("waiting", None) } else { ("failed", Some(TOO_MANY)) };
                let is_new = tx.execute(
                    "INSERT INTO delivery (id, message_id, endpoint_id, state, attempts, error, created_at)
                    VALUES ($1, $2, $3, $4, 0, $5, $6) ON CONFLICT (message_id, endpoint_id) DO NOTHING",
                    params![delivery, self.id, endpoint, state, error, now],
                )? == 1;
                if is_new && has_room {
                    sending::deliver::job(&Delivery { id: delivery }).dedup(delivery).enqueue()?;
                }
                if is_new {
                    added.push(delivery);
                }
            }
            Ok(added)
        })
    }
}

/// Returns whether another delivery of the endpoint may wait.
pub(crate) fn has_room(endpoint: Uuid) -> Result<bool> {
    const WAITING: &str = "SELECT COUNT(*) FROM
        (SELECT id FROM delivery WHERE endpoint_id = $1 AND state = 'waiting' LIMIT $2) AS waiting";
    let waiting: i64 = sql::query_value(WAITING, params![endpoint, MAX_WAITING])?;
    Ok(waiting < MAX_WAITING)
}
