//! Streams of events for clients: the access of each topic, how a client resumes, and when a stream ends.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;
use wharf::id::UserId;

use super::text;
use crate::plugin::liar;
use crate::support::intake::Intake;
use crate::support::patience::PATIENCE;
use crate::support::polling::until;
use crate::support::{Client, TestHost, both};

both!(
    a_client_receives_the_events_of_its_topics,
    each_topic_has_an_access,
    a_client_resumes_after_its_latest_event,
    a_client_that_cannot_know_what_it_missed_is_told,
    an_event_for_an_account_reaches_nobody_else,
    a_stream_ends_when_the_access_is_lost,
    a_stream_ends_with_the_token => Setup::default().with_manual_clock(),
    the_number_of_streams_is_bounded => Setup::default().with(|config| {
        config.server.event_streams = 3;
        config.server.event_streams_per_caller = 2;
    }),
    a_stop_of_the_host_ends_the_streams,
);

/// A client that receives a stream of events.
pub(super) struct Stream {
    response: reqwest::Response,
    received: String,
}

/// An event of a stream.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) kind: String,
    pub(super) number: i64,
    pub(super) data: Value,
}

impl Stream {
    /// Opens a stream with a query such as `topic=items.created`.
    pub(super) async fn open(client: &Client, query: &str) -> Self {
        Self::resume(client, query, None).await
    }

    /// Opens a stream with the header of a client that comes back.
    async fn resume(client: &Client, query: &str, latest: Option<i64>) -> Self {
        let mut request = client.request(Method::GET, &format!("/events?{query}"));
        if let Some(latest) = latest {
            request = request.header("last-event-id", &latest.to_string());
        }
        let response = request.open().await;
        assert_eq!(response.status(), 200, "{query}");
        Self { response, received: String::new() }
    }

    /// Returns the next block, which is an event or a comment; `None` at the end of the stream.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.received.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.received = rest;
                return Some(block);
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("the stream stands still");
            self.received.push_str(std::str::from_utf8(&chunk.unwrap()?).unwrap());
        }
    }

    /// Returns the next event.
    pub(super) async fn next(&mut self) -> Received {
        loop {
            let block = self.block().await.expect("the stream has ended");
            let line = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            if let Some(data) = line("data: ") {
                return Received {
                    kind: line("event: ").unwrap_or_default(),
                    number: line("id: ").unwrap().parse().unwrap(),
                    data: serde_json::from_str(&data).unwrap(),
                };
            }
        }
    }

    /// Returns the payload of the next event.
    async fn payload(&mut self) -> Value {
        self.next().await.data["payload"].clone()
    }

    /// Waits for the end of the stream, before which no event comes.
    async fn ends(mut self) {
        while let Some(block) = self.block().await {
            assert!(!block.contains("data:"), "{block}");
        }
    }
}

/// Deploys a plugin with a topic for each kind of access, and opens the intake for its events.
async fn deploy(host: &TestHost) -> Intake {
    let component = liar(json!({
        "permissions": [["read", "Reads"]],
        "topics": [
            ["open", {}, "public"], ["members", {}, "authenticated"], ["staff", {}, "read"], ["secret", {}, "superuser"],
            ["inner", {}, null],
        ],
    }));
    host.superuser().deploy(&component.0, "grant=events").await.ok();
    Intake::of(host).await
}

async fn account(client: &Client) -> UserId {
    UserId(text(&client.get("/users/me").await.ok(), "id").parse::<Uuid>().unwrap())
}

async fn a_client_receives_the_events_of_its_topics(host: &TestHost) {
    let intake = deploy(host).await;
    let request = host.anonymous().request(Method::GET, "/events?topic=liar.open").header("accept-encoding", "gzip");
    let response = request.open().await;
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(header("content-type").as_deref(), Some("text/event-stream"));
    assert_eq!(header("cache-control").as_deref(), Some("no-store"));
    assert_eq!(header("content-encoding"), None);
    assert!(header("x-request-id").is_some());

    let mut one = Stream { response, received: String::new() };
    let mut two = Stream::open(&host.user("ann@example.com").await, "topic=liar.open&topic=liar.members").await;
    intake.publish("liar.members", None, r#"{"round":1}"#).await;
    intake.publish("liar.staff", None, r#"{"round":2}"#).await;
    intake.publish("liar.open", Some("42"), "{\n\"round\": 3}").await;
    let event = one.next().await;
    assert_eq!(event.kind, "");
    let members = ["topic", "key"].map(|member| text(&event.data, member));
    assert_eq!((members, &event.data["payload"]), (["liar.open", "42"], &json!({ "round": 3 })));
    assert!(text(&event.data, "id").parse::<Uuid>().is_ok() && text(&event.data, "published_at").starts_with("2096-"));
    assert_eq!((two.payload().await, two.payload().await), (json!({ "round": 1 }), json!({ "round": 3 })));

    // While nothing happens, a comment shows that the stream is alive.
    assert!(one.block().await.unwrap().starts_with(':'));

    // Over HTTP/2 too.
    let mut other = Stream::open(&host.anonymous().over_http2(), "topic=liar.open").await;
    intake.publish("liar.open", None, r#"{"round":4}"#).await;
    assert_eq!(other.payload().await, json!({ "round": 4 }));
    intake.close().await;
}

async fn each_topic_has_an_access(host: &TestHost) {
    let intake = deploy(host).await;
    let (anonymous, ann) = (host.anonymous(), host.user("ann@example.com").await);
    let refused = async |client: &Client, query: &str, status: u16, code: &str| {
        client.get(&format!("/events?{query}")).await.has_code(status, code);
    };
    for query in ["topic=liar.members", "topic=liar.open&topic=liar.staff", "topic=user.created"] {
        refused(&anonymous, query, 401, "not_authenticated").await;
    }
    for topic in ["liar.staff", "liar.secret", "user.created", "session.revoked", "release.activated"] {
        refused(&ann, &format!("topic={topic}"), 403, "forbidden").await;
        drop(Stream::open(host.superuser(), &format!("topic={topic}")).await);
    }
    drop(Stream::open(&ann, "topic=liar.members&topic=liar.open").await);
    for topic in ["liar.inner", "liar.unknown", "nobody.open", "user.unknown"] {
        refused(host.superuser(), &format!("topic={topic}"), 404, "topic_not_found").await;
    }
    for query in
        ["", "topic=liar", "topic=Liar.open", "topic=liar.open&last_event_id=-1", "topic=liar.open&last_event_id=x"]
    {
        refused(&anonymous, query, 422, "validation_error").await;
    }
    let many: Vec<String> = (0..33).map(|number| format!("topic=liar.t{number}")).collect();
    refused(&anonymous, &many.join("&"), 422, "validation_error").await;
    let request = anonymous.request(Method::GET, "/events?topic=liar.open").header("last-event-id", "x");
    request.send().await.has_code(422, "validation_error");
    intake.close().await;
}

async fn a_client_resumes_after_its_latest_event(host: &TestHost) {
    let intake = deploy(host).await;
    let client = host.anonymous();
    let mut stream = Stream::open(&client, "topic=liar.open").await;
    intake.publish("liar.open", None, "1").await;
    let latest = stream.next().await.number;
    drop(stream);
    // More than one look into the database returns.
    for number in 2..=80 {
        intake.publish("liar.open", None, &number.to_string()).await;
        intake.publish("liar.members", None, "0").await;
    }
    let by_query = format!("topic=liar.open&last_event_id={latest}");
    let header_first = "topic=liar.open&last_event_id=0";
    for mut stream in [
        Stream::resume(&client, "topic=liar.open", Some(latest)).await,
        Stream::open(&client, &by_query).await,
        Stream::resume(&client, header_first, Some(latest)).await,
    ] {
        for number in 2..=80 {
            let event = stream.next().await;
            assert_eq!((event.kind.as_str(), &event.data["payload"]), ("", &json!(number)));
        }
    }
    // Without an id, a client gets what is still to come.
    let mut stream = Stream::open(&client, "topic=liar.open").await;
    intake.publish("liar.open", None, "81").await;
    assert_eq!(stream.payload().await, json!(81));
    intake.close().await;
}

async fn a_client_that_cannot_know_what_it_missed_is_told(host: &TestHost) {
    let intake = deploy(host).await;
    intake.publish("liar.open", None, "1").await;
    intake.publish("liar.open", None, "2").await;
    // As the deletion of old events leaves it.
    let horizon = "UPDATE event_horizon SET seq = (SELECT MAX(seq) FROM events)";
    let postgres = horizon.replace("event_horizon", "wharf.event_horizon").replace("FROM events", "FROM wharf.events");
    host.run_sql(horizon, &postgres).await;
    for latest in [1, 1_000_000] {
        let mut stream = Stream::resume(&host.anonymous(), "topic=liar.open", Some(latest)).await;
        let reset = stream.next().await;
        assert_eq!((reset.kind.as_str(), reset.data), ("reset", json!({})));
        // It goes on from the present, and can resume there.
        let mut resumed = Stream::resume(&host.anonymous(), "topic=liar.open", Some(reset.number)).await;
        intake.publish("liar.open", None, "3").await;
        assert_eq!((stream.payload().await, resumed.payload().await), (json!(3), json!(3)));
    }
    intake.close().await;
}

async fn an_event_for_an_account_reaches_nobody_else(host: &TestHost) {
    let intake = deploy(host).await;
    let (ann, bob) = (host.user("ann@example.com").await, host.user("bob@example.com").await);
    let mut streams = Vec::new();
    for client in [&ann, &bob, &host.anonymous()] {
        streams.push(Stream::open(client, "topic=liar.open").await);
    }
    intake.publish_for(Some(account(&ann).await), "liar.open", None, r#""for Ann""#).await;
    intake.publish("liar.open", None, r#""for all""#).await;
    let mut firsts = Vec::new();
    for stream in &mut streams {
        firsts.push(stream.payload().await);
    }
    assert_eq!(firsts, [json!("for Ann"), json!("for all"), json!("for all")]);
    // Also if the client comes back for it.
    let mut resumed = Stream::open(&bob, "topic=liar.open&last_event_id=0").await;
    assert_eq!(resumed.payload().await, json!("for all"));
    intake.close().await;
}

async fn a_stream_ends_when_the_access_is_lost(host: &TestHost) {
    let intake = deploy(host).await;
    let (ann, bob) = (host.user("ann@example.com").await, host.user("bob@example.com").await);
    let ended = Stream::open(&ann, "topic=liar.members").await;
    let mut stays = Stream::open(&bob, "topic=liar.members").await;
    ann.request(Method::POST, "/login/logout").send().await.has_message("Logged out successfully");
    ended.ends().await;
    intake.publish("liar.members", None, "1").await;
    assert_eq!(stays.payload().await, json!(1));
    host.superuser().delete(&format!("/users/{}", account(&bob).await)).await.has_message("User deleted successfully");
    stays.ends().await;

    // A topic that the plugin offers no more.
    let open = Stream::open(&host.anonymous(), "topic=liar.open").await;
    host.superuser().deploy(&liar(json!({ "version": "2.0.0" })).0, "").await.ok();
    open.ends().await;
    intake.close().await;
}

async fn a_stream_ends_with_the_token(host: &TestHost) {
    let intake = deploy(host).await;
    let stream = Stream::open(&host.user("ann@example.com").await, "topic=liar.members").await;
    host.clock().advance(host.config().auth.access_token_ttl);
    stream.ends().await;
    intake.close().await;
}

async fn the_number_of_streams_is_bounded(host: &TestHost) {
    let intake = deploy(host).await;
    let ann = host.user("ann@example.com").await;
    let open = async |client: &Client| Stream::open(client, "topic=liar.open").await;
    let (first, _second) = (open(&ann).await, open(&ann).await);
    let refused = ann.get("/events?topic=liar.open").await;
    refused.has_code(429, "too_many_streams");
    assert!(refused.header("retry-after").is_some());
    let _third = open(&host.anonymous()).await;
    host.anonymous().get("/events?topic=liar.open").await.has_code(503, "overloaded");
    drop(first);
    // The host notices that a client left when it sends something.
    let request = || ann.request(Method::GET, "/events?topic=liar.open").open();
    until("a free place", async || Some(request().await).filter(|response| response.status() == 200)).await;
    intake.close().await;
}

async fn a_stop_of_the_host_ends_the_streams(host: &mut TestHost) {
    let intake = deploy(host).await;
    let stream = Stream::open(&host.anonymous(), "topic=liar.open").await;
    intake.close().await;
    host.restart().await;
    stream.ends().await;
}
