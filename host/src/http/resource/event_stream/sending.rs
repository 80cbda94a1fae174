//! A stream of events that is being sent. Its client decides the pace: hyper asks for the next block when the client has
//! read enough, so a stream keeps no more than a page of events. Each block counts as body memory until it is read.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, sleep_until};

use super::subscription::Subscription;
use crate::auth::Caller;
use crate::db::event_stream;
use crate::error::{Kind, Result};
use crate::http::live_events::hub::{Event, Missed, Passed};
use crate::http::live_events::places::Place;
use crate::http::server::LiveBody;

/// After an event about the caller, the access is checked at once and again after this time: only then does every node
/// know the change (`auth::token_cache`). It is also the time to the first check, and to one that replaces an undecided one.
const SOON: Duration = Duration::from_secs(2);

/// The wait before missed events are read again, if the database failed.
const RETRY: Duration = Duration::from_secs(1);

/// nginx passes the blocks on at once.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A stream.
pub(super) struct EventStream {
    subscription: Subscription,
    caller: Option<Arc<Caller>>,
    /// The account and the plugins whose events of the host may end the access.
    depends_on: BTreeSet<String>,
    receiver: Receiver<Passed>,
    /// All events up to this number are sent, are among `waiting`, or are not for this client.
    position: i64,
    /// The events up to this number are read from the database, because the hub passes them on no more.
    target: i64,
    /// The number that the client knows.
    told: i64,
    /// Blocks to be sent, each with its number.
    waiting: VecDeque<(i64, Bytes)>,
    heartbeat_at: Instant,
    check_at: Instant,
    /// Whether the next interval between two checks is a short one.
    checks_soon: bool,
    _place: Place,
}

impl EventStream {
    /// Opens a stream of the events after `latest`, or of those that are still to come.
    ///
    /// # Errors
    /// As [`Subscription::admit`]; 429 and 503 if too many streams are open; the database fails.
    pub(super) async fn open(mut subscription: Subscription, latest: Option<i64>) -> Result<Self> {
        let caller = subscription.admit().await?;
        let live = &subscription.host.live_events;
        let place = live.places.take(subscription.counted_as(caller.as_deref()))?;
        let receiver = live.hub.listen();
        // Read after the hub was asked, so that no event comes in between.
        let kept = event_stream::kept(&subscription.host.db).await?;
        let target = kept.newest.max(live.hub.passed());
        let is_known = |latest: &i64| (kept.deleted..=kept.newest).contains(latest);
        let position = latest.filter(is_known).unwrap_or(kept.newest);
        let first = match latest {
            // The client cannot know what it missed, and reads the present state instead.
            Some(latest) if !is_known(&latest) => reset(position),
            _ => format!(": open\nid: {position}\n\n").into(),
        };
        let now = Instant::now();
        Ok(Self {
            depends_on: subscription.depends_on(caller.as_deref()),
            heartbeat_at: now + live.intervals.heartbeat,
            // The access may have been lost before the stream began to listen.
            check_at: now + live.intervals.check.min(SOON),
            subscription,
            caller,
            receiver,
            position,
            target,
            told: position,
            waiting: VecDeque::from([(position, first)]),
            checks_soon: false,
            _place: place,
        })
    }

    /// Returns the response with the stream as its body.
    pub(super) fn into_response(self) -> Response {
        let blocks = stream::unfold(self, |mut stream| async move {
            let block = stream.next().await?;
            Some((Ok::<_, Infallible>(block), stream))
        });
        let mut response = Response::new(Body::from_stream(blocks));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
        response.extensions_mut().insert(LiveBody);
        response
    }

    /// Waits for the next block. `None` is the end: the access is lost, or the host stops.
    async fn next(&mut self) -> Option<Bytes> {
        let host = Arc::clone(&self.subscription.host);
        let block = host.stopping.run_until_cancelled(self.next_block()).await.flatten()?;
        self.heartbeat_at = Instant::now() + host.live_events.intervals.heartbeat;
        Some(host.body_memory.responses.track_response(None, block))
    }

    async fn next_block(&mut self) -> Option<Bytes> {
        loop {
            if self.check_at <= Instant::now() && !self.is_still_admitted().await {
                return None;
            }
            if let Some((seq, block)) = self.waiting.pop_front() {
                self.told = seq;
                return Some(block);
            }
            if self.heartbeat_at <= Instant::now() {
                return Some(self.heartbeat());
            }
            if self.position < self.target {
                self.read_missed().await?;
                continue;
            }
            let due = self.heartbeat_at.min(self.check_at);
            tokio::select! {
                passed = self.receiver.recv() => match passed {
                    Ok(Passed::Event(event)) => self.receive(&event),
                    Ok(Passed::Skipped(until)) => self.fall_behind(until),
                    Err(RecvError::Lagged(_)) => self.fall_behind(self.subscription.host.live_events.hub.passed()),
                    Err(RecvError::Closed) => return None,
                },
                () = sleep_until(due) => {}
            }
        }
    }

    fn receive(&mut self, event: &Event) {
        if event.seq <= self.position {
            return;
        }
        self.position = event.seq;
        if event.about.as_ref().is_some_and(|about| self.depends_on.contains(about)) {
            self.check_at = Instant::now();
            self.checks_soon = true;
        }
        if self.subscription.topics.iter().any(|topic| topic.as_str() == event.topic) {
            self.take(event);
        }
    }

    /// Keeps an event of one of the topics for the client, if the client may receive it.
    fn take(&mut self, event: &Event) {
        let is_admitted = event.audience.is_none_or(|audience| {
            let caller = self.subscription.caller_of(&event.topic);
            caller.is_some_and(|caller| caller.user_id() == Some(audience) || caller.is_superuser())
        });
        if is_admitted {
            self.waiting.push_back((event.seq, event.block.clone()));
        }
    }

    /// The hub has passed on events up to `until` that this stream did not get.
    fn fall_behind(&mut self, until: i64) {
        if until > self.position {
            self.target = self.target.max(until);
            // One of them may have been about the caller. Not at once: a stream can fall behind all the time.
            self.check_at = self.check_at.min(Instant::now() + SOON);
        }
    }

    /// Reads some of the events up to the target from the database. `None` is a defect of the host.
    async fn read_missed(&mut self) -> Option<()> {
        let Subscription { host, topics, .. } = &self.subscription;
        let missed = host.live_events.hub.missed(topics, self.position, self.target).await;
        match missed {
            Ok(Missed::Events(events, read)) => {
                self.position = read;
                events.iter().for_each(|event| self.take(event));
                Some(())
            }
            Ok(Missed::Deleted(newest)) => {
                self.position = newest;
                self.waiting.push_back((newest, reset(newest)));
                Some(())
            }
            Err(error) if matches!(error.kind(), Kind::Unavailable(_)) => {
                sleep(RETRY).await;
                Some(())
            }
            Err(error) => {
                tracing::error!(error = error.report(), "a stream of events ended");
                None
            }
        }
    }

    /// Checks the access again. While the host cannot decide, because a service of it fails, the stream stays: it gets no
    /// events from such a host either.
    async fn is_still_admitted(&mut self) -> bool {
        let mut interval = self.subscription.host.live_events.intervals.check;
        let admitted = self.subscription.admit_again().await;
        match admitted {
            Ok(caller) => {
                let id = |caller: &Option<Arc<Caller>>| caller.as_ref().map(|caller| caller.id());
                if id(&caller) != id(&self.caller) {
                    return false;
                }
                self.caller = caller;
            }
            Err(error) if matches!(error.kind(), Kind::Unavailable(_)) => interval = interval.min(SOON),
            Err(_) => return false,
        }
        if std::mem::take(&mut self.checks_soon) {
            interval = interval.min(SOON);
        }
        self.check_at = Instant::now() + interval;
        true
    }

    /// Returns a comment. It tells the client a newer number, if there is one, so that the client resumes from there.
    fn heartbeat(&mut self) -> Bytes {
        if self.told == self.position {
            return Bytes::from_static(b":\n\n");
        }
        self.told = self.position;
        format!(":\nid: {}\n\n", self.position).into()
    }
}

/// Returns the event that tells a client to read the present state: it missed some events, and they do not exist any more.
fn reset(position: i64) -> Bytes {
    format!("event: reset\nid: {position}\ndata: {{}}\n\n").into()
}
