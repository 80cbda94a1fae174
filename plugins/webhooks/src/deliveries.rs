//! The log of the deliveries of an endpoint, for its owner, who can also test the endpoint and retry a delivery.

use crate::endpoints;
use crate::message::{self, Message};
use crate::stored::read_word;
use crate::topic::PING;
use serde::{Deserialize, Serialize};
use wharf_sdk::prelude::*;
use wharf_sdk::serde_json::json;
use wharf_sdk::sql::{self, FromRow, FromValue, Value, params, statement};

#[derive(Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Page {
    /// The number of the newest deliveries to skip.
    #[schemars(range(min = 0))]
    skip: i64,
    #[schemars(range(min = 0, max = 1000))]
    limit: i64,
}

impl Default for Page {
    fn default() -> Self {
        Self { skip: 0, limit: 100 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum DeliveryState {
    Waiting,
    Delivered,
    Failed,
}

impl FromValue for DeliveryState {
    fn from_value(value: Value) -> Result<Self, String> {
        read_word(value)
    }
}

#[derive(Serialize, JsonSchema, FromRow)]
pub(crate) struct DeliveryPublic {
    id: Uuid,
    /// The `webhook-id` that the receiver gets.
    message_id: Uuid,
    topic: String,
    state: DeliveryState,
    /// The number of requests so far.
    attempts: i64,
    /// The status of the latest response.
    response_status: Option<i64>,
    /// Why the latest attempt failed, or why there was none.
    error: Option<String>,
    attempted_at: Option<Timestamp>,
    created_at: Timestamp,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct DeliveriesPublic {
    data: Vec<DeliveryPublic>,
    /// The number of deliveries on all pages.
    count: i64,
}

const COLUMNS: &str = "delivery.id AS id, message_id, topic, state, attempts, response_status, error, attempted_at,
    delivery.created_at AS created_at";

/// Read Deliveries
///
/// The deliveries of an endpoint, newest first.
#[get("/{id}/deliveries")]
pub(crate) fn read_deliveries(
    caller: Caller,
    Path(id): Path<Uuid>,
    Query(page): Query<Page>,
) -> Result<Json<DeliveriesPublic>> {
    endpoints::find(id, &caller)?;
    let list = format!(
        "SELECT {COLUMNS} FROM delivery JOIN message ON message.id = message_id WHERE endpoint_id = $1
        ORDER BY delivery.created_at DESC, delivery.id LIMIT $2 OFFSET $3"
    );
    let [data, count] = sql::batch([
        statement(list, params![id, page.limit, page.skip]),
        statement("SELECT COUNT(*) FROM delivery WHERE endpoint_id = $1", params![id]),
    ])?;
    Ok(Json(DeliveriesPublic { data: data.all()?, count: count.value()? }))
}

/// Retry Delivery
///
/// Sends the message again, also one that was delivered. A delivery that waits already keeps the time of its next attempt. If
/// an operator has dropped the job of one that waits, it gets another one.
#[post("/{id}/deliveries/{delivery}/retry", status = 202)]
pub(crate) fn retry_delivery(caller: Caller, Path((id, delivery)): Path<(Uuid, Uuid)>) -> Result<Json<DeliveryPublic>> {
    let backlog = endpoints::check_active(id, &caller)?;
    // One that waits has its room already.
    if find(id, delivery)?.state != DeliveryState::Waiting {
        endpoints::check_room(backlog)?;
    }
    sql::transaction(|tx| {
        const WAIT: &str = "UPDATE delivery SET state = 'waiting',
                retries = CASE WHEN state = 'waiting' THEN retries ELSE retries + 1 END
            WHERE id = $1 AND endpoint_id = $2 RETURNING retries";
        let retried: Option<(i64,)> = tx.query_optional(WAIT, params![delivery, id])?;
        let (retries,) = retried.ok_or_else(not_found)?;
        match message::enqueue(delivery, retries, backlog)? {
            true => Ok(()),
            false => Err(Problem::conflict("too_many_deliveries", "Too many deliveries of all endpoints wait")),
        }
    })?;
    Ok(Json(find(id, delivery)?))
}

/// Test Endpoint
///
/// Sends the message `webhooks.ping` to the endpoint. The log of deliveries shows the result.
#[post("/{id}/test", status = 202)]
pub(crate) fn test_endpoint(caller: Caller, Path(id): Path<Uuid>) -> Result<Json<DeliveryPublic>> {
    endpoints::check_room(endpoints::check_active(id, &caller)?)?;
    let sent = Message::new(PING, caller.id, &json!({ "endpoint_id": id })).send_to(&[id])?;
    let delivery = sent.first().ok_or_else(|| Problem::internal("a new message has no delivery"))?;
    Ok(Json(find(id, *delivery)?))
}

/// Finds a delivery of an endpoint.
pub(crate) fn find(endpoint: Uuid, id: Uuid) -> Result<DeliveryPublic> {
    let sql = format!(
        "SELECT {COLUMNS} FROM delivery JOIN message ON message.id = message_id
        WHERE delivery.id = $1 AND endpoint_id = $2"
    );
    sql::query_optional(&sql, params![id, endpoint])?.ok_or_else(not_found)
}

fn not_found() -> Problem {
    Problem::not_found("delivery_not_found", "Delivery not found")
}
