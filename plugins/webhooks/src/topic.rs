//! The topics that an endpoint may subscribe to: those of the subscriptions in [`receiving`](crate::receiving).

use crate::stored::word;
use serde::{Deserialize, Serialize};
use wharf_sdk::prelude::*;
use wharf_sdk::serde_json;
use wharf_sdk::sql::{FromValue, Value};

/// The topic of the message that tests an endpoint. It is sent to that endpoint only, so nobody subscribes to it.
pub(crate) const PING: &str = "webhooks.ping";

/// A topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(crate) enum WebhookTopic {
    #[serde(rename = "items.created")]
    ItemCreated,
    #[serde(rename = "items.updated")]
    ItemUpdated,
    #[serde(rename = "items.deleted")]
    ItemDeleted,
    #[serde(rename = "user.created")]
    UserCreated,
    #[serde(rename = "user.updated")]
    UserUpdated,
    #[serde(rename = "user.deleted")]
    UserDeleted,
}

/// The topics of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub(crate) struct Topics(pub(crate) Vec<WebhookTopic>);

impl Topics {
    /// Returns whether a topic is one of them.
    pub(crate) fn contain(&self, topic: &str) -> bool {
        self.0.iter().any(|own| word(*own) == topic)
    }

    /// Returns the stored form.
    pub(crate) fn text(&self) -> String {
        serde_json::json!(self).to_string()
    }
}

impl FromValue for Topics {
    fn from_value(value: Value) -> Result<Self, String> {
        serde_json::from_str(&String::from_value(value)?).map_err(|error| error.to_string())
    }
}
