//! Events: facts that the plugin publishes, and events of the host and of other plugins that it receives.
//!
//! A topic is a type with `#[topic]`, listed in `topics: […]` of `plugin!`. Its schema is that of the type. While a
//! transaction of [`sql`](crate::sql) is open, an event belongs to it: it is published if the transaction commits.
//!
//! A subscription is a function with `#[subscribe]`, listed in `subscriptions: […]`. It gets each event at least once: at a
//! failure again later, and perhaps although it succeeded. So its work has to be idempotent, or it recognises an event by
//! its [`id`](Event::id). Events of one plugin with the same key arrive in the order of their commits.
//!
//! ```
//! use wharf_sdk::events::{self, UserDeleted};
//! use wharf_sdk::prelude::*;
//! use wharf_sdk::sql::{self, params};
//!
//! plugin! { name: "notes", summary: "Notes", routes: [create], topics: [NoteCreated], subscriptions: [on_user_deleted] }
//!
//! /// A note was created.
//! #[topic("created", access = authenticated)]
//! #[derive(serde::Serialize, JsonSchema)]
//! struct NoteCreated {
//!     id: Uuid,
//! }
//!
//! #[post("/")]
//! fn create(caller: Caller) -> Result<Json<Uuid>> {
//!     let id = Uuid::new_v4();
//!     sql::transaction(|tx| {
//!         tx.execute("INSERT INTO note VALUES ($1, $2)", params![id, caller.id])?;
//!         events::event(&NoteCreated { id }).key(id).audience(caller.id).publish()?;
//!         Ok::<(), Problem>(())
//!     })?;
//!     Ok(Json(id))
//! }
//!
//! #[subscribe("user.deleted", retries = 5, backoff = "1s")]
//! fn on_user_deleted(event: Event<UserDeleted>) -> Result<()> {
//!     sql::execute("DELETE FROM note WHERE owner = $1", params![event.payload.id])?;
//!     Ok(())
//! }
//! ```

mod host_topics;

pub use host_topics::{ReleaseActivated, SessionRevoked, UserCreated, UserDeleted, UserUpdated};

use crate::bindings::imports::wharf::events::publisher as wit;
use crate::bindings::subscriber_role::exports::wharf::events::subscriber;
use crate::host::events as host;
use crate::plugin::TopicDeclaration;
use crate::task::TaskError;
use crate::{Problem, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use uuid::Uuid;

pub use wit::Error;

/// The payload of a topic of this plugin. `#[topic("created")]` implements it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the payload of a topic",
    label = "not a topic",
    note = "write `#[topic(\"created\")]` above the type, and list it in `topics: […]` of `plugin!`"
)]
pub trait Topic: Serialize + JsonSchema {
    #[doc(hidden)]
    const DECLARATION: TopicDeclaration;
}

/// Publishes an event without a key and returns its id. While a transaction is open, the event belongs to it.
///
/// # Errors
/// See [`Error`]; `?` in a handler turns it into a problem response.
pub fn publish<T: Topic>(payload: &T) -> Result<Uuid, Error> {
    event(payload).publish()
}

/// Starts an event that has a key or an audience. [`NewEvent::publish`] publishes it.
pub fn event<T: Topic>(payload: &T) -> NewEvent {
    let (payload, invalid) = match serde_json::to_string(payload) {
        Ok(payload) => (payload, None),
        Err(error) => (String::new(), Some(format!("the payload: {error}"))),
    };
    NewEvent { raw: wit::Event { topic: T::DECLARATION.name.to_owned(), key: None, payload, audience: None }, invalid }
}

/// A builder for an event; [`NewEvent::publish`] publishes it.
#[derive(Clone, Debug)]
#[must_use]
pub struct NewEvent {
    raw: wit::Event,
    /// Why the event cannot be published.
    invalid: Option<String>,
}

impl NewEvent {
    /// Sets the key. Events of this plugin with the same key reach each subscriber in the order of their commits.
    pub fn key(mut self, key: impl Display) -> Self {
        self.raw.key = Some(key.to_string());
        self
    }

    /// Sets the account whose clients may receive the event; those of superusers may too. Without it, all clients that the
    /// access of the topic admits may.
    pub fn audience(mut self, account: Uuid) -> Self {
        self.raw.audience = Some(account.to_string());
        self
    }

    /// Publishes the event and returns its id.
    ///
    /// # Errors
    /// As [`publish`].
    pub fn publish(self) -> Result<Uuid, Error> {
        if let Some(reason) = self.invalid {
            return Err(Error::Invalid(reason));
        }
        let id = host::publish(&self.raw).inspect_err(note_conflict)?;
        Uuid::parse_str(&id).map_err(|_| Error::Invalid("the host returned an id that is no UUID".to_owned()))
    }
}

/// The open transaction has lost if the event cannot be added to it.
fn note_conflict(error: &Error) {
    if *error == Error::Conflict {
        crate::sql::note_conflict();
    }
}

/// An event that a subscription receives. There is no caller.
#[derive(Clone, Debug, PartialEq)]
pub struct Event<T> {
    /// The same at each delivery of this event.
    pub id: Uuid,
    /// The whole name: `user.deleted`, `items.created`.
    pub topic: String,
    /// The key that the publisher gave it.
    pub key: Option<String>,
    /// The account whose clients may receive it beside superusers, as the publisher said. A plugin that hands the event on to
    /// people has to respect it. Without it, only the access of the topic limits its clients. Events of the host have none.
    pub audience: Option<Uuid>,
    /// The payload.
    pub payload: T,
    /// When it was published.
    pub published_at: Timestamp,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The id of the request that caused it, if a request did.
    pub request_id: Option<String>,
}

/// The type of the argument of a subscription.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the argument of a subscription",
    label = "not an event",
    note = "take `Event<T>`, where `T` derives `Deserialize`"
)]
#[doc(hidden)]
pub trait FromDelivery: Sized {
    /// Reads the event.
    ///
    /// # Errors
    /// The payload does not fit the type.
    fn from_delivery(event: subscriber::Event) -> Result<Self, TaskError>;
}

impl<T: DeserializeOwned> FromDelivery for Event<T> {
    fn from_delivery(event: subscriber::Event) -> Result<Self, TaskError> {
        let subscriber::Event { id, topic, key, audience, payload, published_at, attempt, request_id } = event;
        let uuid = |id: &str| Uuid::parse_str(id).map_err(|_| TaskError::reject("the host sent an id that is no UUID"));
        let id = uuid(&id)?;
        let audience = audience.as_deref().map(uuid).transpose()?;
        let payload = serde_json::from_str(&payload)
            .map_err(|error| TaskError::Reject(format!("the payload does not fit the subscription: {error}")))?;
        let published_at = Timestamp::from_unix_micros(published_at);
        Ok(Self { id, topic, key, audience, payload, published_at, attempt, request_id })
    }
}

/// The type that a subscription returns.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the return type of a subscription",
    label = "not an outcome",
    note = "return `()` or `Result<(), E>`, where `E` is `TaskError`, `Problem` or the error of a capability"
)]
#[doc(hidden)]
pub trait EventOutcome {
    /// Returns the outcome for the host.
    ///
    /// # Errors
    /// The error of the handler.
    fn outcome(self) -> Result<(), TaskError>;
}

impl EventOutcome for () {
    fn outcome(self) -> Result<(), TaskError> {
        Ok(())
    }
}

impl<E: Into<TaskError>> EventOutcome for Result<(), E> {
    fn outcome(self) -> Result<(), TaskError> {
        self.map_err(Into::into)
    }
}

/// 409 `transaction_conflict` for a lost transaction, 429 for a rate or a volume, 503 for another limit and while the event
/// cannot be stored, and 500 `plugin_error` for a topic that is not declared or a payload that does not fit it. The message
/// itself goes to the plugin's log only.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(message) => Self::internal(format_args!("events: {message}")),
            Error::Limit(limit) => Self::message_limit("events", &limit),
            Error::Conflict => {
                Self::conflict("transaction_conflict", "The data was changed at the same time, try again")
            }
            Error::Unavailable => Self::new(503, "events_unavailable", "Events cannot be stored now, try again later"),
        }
    }
}
