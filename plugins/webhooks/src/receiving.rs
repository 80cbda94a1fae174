//! The subscriptions: which endpoints get an event.

use crate::message::Message;
use crate::retention;
use crate::rights::{Owners, Scope};
use crate::topic::Topics;
use serde::Serialize;
use wharf_sdk::events::UserDeleted;
use wharf_sdk::prelude::*;
use wharf_sdk::serde_json::Value;
use wharf_sdk::sql::{self, FromRow, params};

#[subscribe("items.created", retries = 20)]
pub(crate) fn item_created(event: Event<Value>) -> Result<()> {
    forward(&event)
}

#[subscribe("items.updated", retries = 20)]
pub(crate) fn item_updated(event: Event<Value>) -> Result<()> {
    forward(&event)
}

#[subscribe("items.deleted", retries = 20)]
pub(crate) fn item_deleted(event: Event<Value>) -> Result<()> {
    forward(&event)
}

#[subscribe("user.created", retries = 20)]
pub(crate) fn user_created(event: Event<Value>) -> Result<()> {
    forward(&event)
}

#[subscribe("user.updated", retries = 20)]
pub(crate) fn user_updated(event: Event<Value>) -> Result<()> {
    forward(&event)
}

/// Deletes the endpoints of the user too, with their deliveries. A repetition finds nothing to delete.
#[subscribe("user.deleted", retries = 20)]
pub(crate) fn user_deleted(event: Event<UserDeleted>) -> Result<()> {
    retention::delete_endpoints_of(event.payload.id)?;
    forward(&event)
}

/// Sends an event to the endpoints that may have it.
fn forward<T: Serialize>(event: &Event<T>) -> Result<()> {
    let receivers = receivers(&event.topic, event.audience)?;
    if !receivers.is_empty() {
        Message::about(event).send_to(&receivers)?;
    }
    Ok(())
}

#[derive(FromRow)]
struct Candidate {
    id: Uuid,
    owner_id: Uuid,
    topics: Topics,
    scope: Scope,
}

/// Returns the endpoints that may have an event. Reads the endpoints of one account and those of superusers, however many
/// others there are.
fn receivers(topic: &str, audience: Option<Uuid>) -> Result<Vec<Uuid>> {
    const CANDIDATES: &str = "SELECT id, owner_id, topics, scope FROM endpoint WHERE owner_id = $1 AND active
        UNION SELECT id, owner_id, topics, scope FROM endpoint WHERE scope = 'all' AND active";
    let mut candidates: Vec<Candidate> = sql::query(CANDIDATES, params![audience])?;
    candidates.retain(|endpoint| endpoint.topics.contain(topic));
    let owners = Owners::find(candidates.iter().map(|endpoint| endpoint.owner_id))?;
    let admitted = candidates.iter().filter(|one| owners.may_receive(one.owner_id, one.scope, audience));
    Ok(admitted.map(|endpoint| endpoint.id).collect())
}
