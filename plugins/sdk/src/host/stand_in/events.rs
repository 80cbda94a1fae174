//! The events of a test: they are kept, and delivered to the plugin's own subscriptions.

use super::messages::{MAX_DEPTH, Message, StoredEvent, check_key, check_length, check_payload};
use super::state::with;
use crate::Uuid;
use crate::bindings::imports::wharf::events::publisher::{Error, Event};

pub(crate) fn publish(event: &Event) -> Result<String, Error> {
    let published_at = super::now_micros();
    with(|host| {
        let Some(validator) = host.messages.declared.topics.get(event.topic.as_str()) else {
            return Err(Error::Invalid(format!("`topics: […]` does not list the topic `{}`", event.topic)));
        };
        check_key(event.key.as_deref()).map_err(Error::Invalid)?;
        check_length(&event.payload).map_err(Error::Limit)?;
        let depth = host.messages.next_depth().ok_or_else(|| Error::Limit(format!("depth: {MAX_DEPTH}")))?;
        check_payload(validator, &event.payload).map_err(Error::Invalid)?;
        let id = Uuid::new_v4();
        let Event { topic, key, payload, audience } = event.clone();
        let request_id = host.request_id.clone();
        host.hand_over(Message::Event(StoredEvent {
            id,
            topic,
            key,
            payload,
            audience,
            published_at,
            depth,
            request_id,
        }));
        Ok(id.to_string())
    })
}
