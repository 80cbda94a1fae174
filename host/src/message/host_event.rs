//! The events of the host: what happened, and the message that says so. Their payloads hold ids only, so a subscriber
//! learns nothing about an account that its grants do not give.

use serde_json::json;

use super::{HostTopic, NewEvent};
use crate::clock::Timestamp;
use crate::id::{EventId, PluginName, SessionId, UserId};

/// A change of the host that it publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEvent {
    /// An account was created.
    UserCreated {
        /// The account.
        id: UserId,
    },
    /// The address, the name, the activity, the roles or the privilege of an account changed.
    UserUpdated {
        /// The account.
        id: UserId,
    },
    /// An account was deleted, and its sessions with it.
    UserDeleted {
        /// The account.
        id: UserId,
    },
    /// A session was ended before its time.
    SessionRevoked {
        /// The session.
        id: SessionId,
        /// Its account.
        user_id: UserId,
    },
    /// A release became the live one.
    ReleaseActivated {
        /// The plugin.
        plugin: PluginName,
        /// The number of the release.
        release: i64,
    },
}

/// The time of a change and the request that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause<'a> {
    /// The time.
    pub at: Timestamp,
    /// The request; `None` if the host or an operator on the machine made the change.
    pub request_id: Option<&'a str>,
}

impl HostEvent {
    /// Returns the message about the change. Its key is the account or the plugin, so subscribers get the events about one
    /// of them in order.
    pub fn published(self, id: EventId, cause: Cause<'_>) -> NewEvent {
        let (topic, key, payload) = match self {
            Self::UserCreated { id } => (HostTopic::UserCreated, id.to_string(), json!({ "id": id })),
            Self::UserUpdated { id } => (HostTopic::UserUpdated, id.to_string(), json!({ "id": id })),
            Self::UserDeleted { id } => (HostTopic::UserDeleted, id.to_string(), json!({ "id": id })),
            Self::SessionRevoked { id, user_id } => {
                (HostTopic::SessionRevoked, user_id.to_string(), json!({ "id": id, "user_id": user_id }))
            }
            Self::ReleaseActivated { plugin, release } => {
                let payload = json!({ "plugin": plugin, "release": release });
                (HostTopic::ReleaseActivated, plugin.to_string(), payload)
            }
        };
        NewEvent {
            id,
            topic: topic.into(),
            key: Some(key),
            payload: payload.to_string(),
            audience: None,
            depth: 0,
            request_id: cause.request_id.map(ToOwned::to_owned),
            at: cause.at,
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_message_names_the_object_and_the_request() {
        let (user, session) = (UserId(Uuid::from_u128(1)), SessionId(Uuid::from_u128(2)));
        let cause = Cause { at: Timestamp(7), request_id: Some("r") };
        let published = |event: HostEvent| event.published(EventId(Uuid::nil()), cause);
        let event = published(HostEvent::SessionRevoked { id: session, user_id: user });
        assert_eq!((event.topic.as_str(), event.key), ("session.revoked", Some(user.to_string())));
        assert_eq!(event.payload, format!(r#"{{"id":"{session}","user_id":"{user}"}}"#));
        assert_eq!((event.request_id.as_deref(), event.at, event.depth), (Some("r"), Timestamp(7), 0));
        let event = published(HostEvent::ReleaseActivated { plugin: "items".parse().unwrap(), release: 3 });
        assert_eq!((event.topic.as_str(), event.lane().as_deref()), ("release.activated", Some("release/items")));
        assert_eq!(event.payload, r#"{"plugin":"items","release":3}"#);
        for (event, topic) in [
            (HostEvent::UserCreated { id: user }, "user.created"),
            (HostEvent::UserUpdated { id: user }, "user.updated"),
            (HostEvent::UserDeleted { id: user }, "user.deleted"),
        ] {
            let event = published(event);
            assert_eq!((event.topic.as_str(), event.payload), (topic, format!(r#"{{"id":"{user}"}}"#)));
        }
    }
}
