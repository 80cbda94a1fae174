//! Streams of events (Server-Sent Events) for clients: the events of topics that the caller may read, as they are
//! published, and those since an earlier stream of the same client.

mod sending;
mod subscription;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName};
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;

use self::sending::EventStream;
use self::subscription::Subscription;
use crate::error::{Error, FieldError, Result};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::message::{InvalidTopic, Topic};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Returns the route of the streams.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        // Public, because each topic has an access of its own.
        HostRoute::stream("/api/v1/events", stream_events)
            .public()
            .named("events", "stream_events", "Stream Events")
            .described(
                "Sends events of these topics as they are published (Server-Sent Events). The caller must have the access \
                 that the plugin declares for each topic; the topics of the host need a superuser. The data of an event is \
                 `{\"id\", \"topic\", \"key\", \"payload\", \"published_at\"}`. A client that comes back sends the id of \
                 the latest event in the header `Last-Event-ID`, or in `last_event_id`, and gets the events since then. \
                 An event of the type `reset` says that some of them do not exist any more.",
            )
            .query::<EventsQuery>()
            .replies_text("text/event-stream"),
    ]
}

#[derive(Deserialize, JsonSchema)]
struct EventsQuery {
    /// The topics.
    #[schemars(length(min = 1, max = 32), inner(regex(pattern = r"^[a-z][a-z0-9-]{0,39}\.[a-z][a-z0-9-]{0,39}$")))]
    topic: Vec<String>,
    /// The id of the latest event that the client has. The header `Last-Event-ID` overrides it.
    #[serde(default)]
    #[schemars(with = "i64", range(min = 0))]
    last_event_id: Option<i64>,
}

async fn stream_events(host: Arc<Host>, call: Call) -> Result<Response> {
    let query: EventsQuery = call.query()?;
    // Each topic once.
    let topics: Result<BTreeSet<Topic>, InvalidTopic> =
        query.topic.iter().map(|topic| topic.parse::<Topic>()).collect();
    let topics = topics.map_err(|error| refused(["query", "topic"], error.to_string()))?;
    let latest = latest_event(&call.headers)?.or(query.last_event_id);
    let subscription = Subscription::new(host, topics, &call);
    EventStream::open(subscription, latest).await.map(EventStream::into_response)
}

/// Returns the latest event that a client names in the header.
fn latest_event(headers: &HeaderMap) -> Result<Option<i64>> {
    let Some(value) = headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty()) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse::<i64>().ok()).filter(|number| *number >= 0);
    match number {
        Some(number) => Ok(Some(number)),
        None => Err(refused(["header", "last-event-id"], "The id is not one of an event of this host".to_owned())),
    }
}

fn refused(place: [&'static str; 2], text: String) -> Error {
    Error::invalid(vec![FieldError::new("value_error", place, text)])
}
