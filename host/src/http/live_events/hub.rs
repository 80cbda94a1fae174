//! The hub of all event streams of this process. It reads each new event once, however many streams are open, and passes
//! it on to all of them. While no stream is open, it reads nothing.
//!
//! The hub waits for no stream and keeps a bounded number of events. A stream that falls behind reads the events of its
//! topics from the database, a few at a time and as fast as its client takes them ([`Hub::missed`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{Notify, Semaphore, broadcast};
use tokio::time::sleep;

use crate::db::Db;
use crate::db::event_stream::{self, StreamedEvent};
use crate::error::Result;
use crate::id::UserId;
use crate::message::Topic;
use crate::outage::Outage;

/// The events that are read at once.
const PAGE: i64 = 64;

/// The events that a stream may be behind. A stream further behind reads from the database.
const KEPT: usize = 128;

/// How long the hub waits without a signal: another process may have stored events.
const POLL: Duration = Duration::from_secs(1);

/// The streams that read missed events at the same time.
const READERS: usize = 2;

/// The events that a stream reads at once, and the numbers among which it looks for them.
const MISSED_PAGE: i64 = 32;
const MISSED_WINDOW: i64 = 10_000;

/// The bytes of these events, unless the first one alone has more. A stream keeps them until its client has read them.
const MISSED_BYTES: usize = 256 * 1024;

/// The hub.
pub(in crate::http) struct Hub {
    db: Db,
    sender: broadcast::Sender<Passed>,
    /// The number of the newest event that was passed on or skipped.
    passed: AtomicI64,
    opened: Notify,
    readers: Semaphore,
}

/// A message of the hub to all streams.
#[derive(Debug, Clone)]
pub(in crate::http) enum Passed {
    /// The next event.
    Event(Arc<Event>),
    /// The hub passes on none of the events up to this number, because nobody listened.
    Skipped(i64),
}

/// The answer to a stream that asks for the events that it missed.
#[derive(Debug)]
pub(in crate::http) enum Missed {
    /// Some of them in order, and the number up to which there are no others.
    Events(Vec<Event>, i64),
    /// Some may have been deleted because of their age. The number is that of the newest event.
    Deleted(i64),
}

/// An event as a stream sends it.
#[derive(Debug)]
pub(in crate::http) struct Event {
    /// The number.
    pub(in crate::http) seq: i64,
    /// The topic.
    pub(in crate::http) topic: String,
    /// The account whose clients may receive it; `None`: those of all that the topic admits.
    pub(in crate::http) audience: Option<UserId>,
    /// The account or the plugin that an event of the host is about.
    pub(in crate::http) about: Option<String>,
    /// The lines of the stream.
    pub(in crate::http) block: Bytes,
}

impl Hub {
    pub(super) fn new(db: Db) -> Self {
        let (sender, _) = broadcast::channel(KEPT);
        Self { db, sender, passed: AtomicI64::new(0), opened: Notify::new(), readers: Semaphore::new(READERS) }
    }

    /// Begins to listen. All events after the present [`passed`](Self::passed) arrive.
    pub(in crate::http) fn listen(&self) -> broadcast::Receiver<Passed> {
        let receiver = self.sender.subscribe();
        self.opened.notify_one();
        receiver
    }

    /// Returns the number of the newest event that was passed on or skipped.
    pub(in crate::http) fn passed(&self) -> i64 {
        self.passed.load(Ordering::SeqCst)
    }

    /// Returns the first events of these topics after one and up to another.
    pub(in crate::http) async fn missed(&self, topics: &[Topic], after: i64, until: i64) -> Result<Missed> {
        // The semaphore is never closed.
        let _turn = self.readers.acquire().await.ok();
        let until = until.min(after.saturating_add(MISSED_WINDOW));
        let events = event_stream::of_topics(&self.db, topics, (after, until), MISSED_PAGE).await?;
        // Afterwards, so that it has every deletion before the look.
        let kept = event_stream::kept(&self.db).await?;
        if kept.deleted > after {
            return Ok(Missed::Deleted(kept.newest));
        }
        let is_full = i64::try_from(events.len()).is_ok_and(|count| count >= MISSED_PAGE);
        let mut read = events.last().filter(|_| is_full).map_or(until, |last| last.seq);
        let (mut page, mut bytes) = (Vec::<Event>::new(), 0_usize);
        for event in events.into_iter().map(Event::from) {
            bytes = bytes.saturating_add(event.block.len());
            if let Some(last) = page.last().filter(|_| bytes > MISSED_BYTES) {
                read = last.seq;
                break;
            }
            page.push(event);
        }
        Ok(Missed::Events(page, read))
    }

    /// Passes new events on, for ever.
    pub(super) async fn pass_on(&self) {
        let mut outage = Outage::of("passing events on to streams of clients");
        loop {
            while self.sender.receiver_count() == 0 {
                self.opened.notified().await;
            }
            let mut result = self.skip().await;
            while result.is_ok() && self.sender.receiver_count() > 0 {
                // Created before the look into the database, so that no event is overlooked.
                let added = self.db.signals().events_added();
                result = self.pass_new().await;
                if result.is_ok() {
                    outage.over();
                    tokio::select! { () = added => {} () = sleep(POLL) => {} }
                }
            }
            match result {
                // The last stream ended.
                Ok(()) => outage.over(),
                Err(error) => {
                    outage.failed(&error);
                    sleep(POLL).await;
                }
            }
        }
    }

    /// Leaves out the events that were stored while nobody listened.
    async fn skip(&self) -> Result<()> {
        let newest = event_stream::kept(&self.db).await?.newest;
        // First: a stream that begins to listen in between learns the number in one way or the other.
        self.passed.store(newest, Ordering::SeqCst);
        // An error means that nobody listens.
        let _ = self.sender.send(Passed::Skipped(newest));
        Ok(())
    }

    async fn pass_new(&self) -> Result<()> {
        loop {
            let events = event_stream::after(&self.db, self.passed(), PAGE).await?;
            let is_last = i64::try_from(events.len()).is_ok_and(|count| count < PAGE);
            for event in events {
                self.passed.store(event.seq, Ordering::SeqCst);
                let _ = self.sender.send(Passed::Event(Arc::new(event.into())));
            }
            if is_last {
                return Ok(());
            }
        }
    }
}

impl From<StreamedEvent> for Event {
    fn from(event: StreamedEvent) -> Self {
        let StreamedEvent { seq, id, topic, source, ordering_key, payload, audience, published_at } = event;
        let key = Value::from(ordering_key.clone());
        // Outside of texts, JSON has line breaks only as blanks. Here, one would end the line.
        let payload = payload.replace(['\n', '\r'], " ");
        let block = format!(
            "id: {seq}\ndata: {{\"id\":\"{id}\",\"topic\":\"{topic}\",\"key\":{key},\"payload\":{payload},\
             \"published_at\":\"{published_at}\"}}\n\n"
        );
        let about = ordering_key.filter(|_| source.is_none());
        Self { seq, topic, audience, about, block: block.into() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::clock::Timestamp;
    use crate::db::intake;
    use crate::id::EventId;
    use crate::message::{Message, NewEvent};

    #[tokio::test]
    async fn a_stream_reads_large_events_in_small_pages() {
        let (_dir, db) = crate::db::tests::sqlite().await;
        let topic: Topic = "shop.sold".parse().unwrap();
        let event = |number: u128, bytes: usize| {
            Message::Event(NewEvent {
                id: EventId(Uuid::from_u128(number)),
                topic: topic.clone(),
                key: None,
                payload: Value::from("x".repeat(bytes)).to_string(),
                audience: None,
                depth: 0,
                request_id: None,
                at: Timestamp(1),
            })
        };
        let half = MISSED_BYTES / 2;
        let events = [event(1, half), event(2, half), event(3, 2 * MISSED_BYTES), event(4, 1)];
        intake::store(&db, &"shop".parse().unwrap(), &events).await.unwrap();
        let hub = Hub::new(db.clone());
        let mut pages = Vec::new();
        let mut position = 0;
        while position < 9 {
            let missed = hub.missed(std::slice::from_ref(&topic), position, 9).await.unwrap();
            let Missed::Events(page, read) = missed else { panic!("{missed:?}") };
            pages.push(page.iter().map(|event| event.seq).collect::<Vec<_>>());
            position = read;
        }
        assert_eq!(pages, [vec![1], vec![2], vec![3], vec![4]]);
        db.close().await;
    }

    #[test]
    fn an_event_is_one_line_of_data_whatever_its_payload() {
        let event = Event::from(StreamedEvent {
            seq: 7,
            id: EventId(Uuid::nil()),
            topic: "shop.sold".to_owned(),
            source: Some("shop".parse().unwrap()),
            ordering_key: Some("a\n\"b\"".to_owned()),
            payload: "{\r\n\"text\": \"c\\nd\"\n}".to_owned(),
            audience: None,
            published_at: Timestamp(0),
        });
        let block = String::from_utf8(event.block.to_vec()).unwrap();
        let data = block.strip_prefix("id: 7\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
        assert!(!data.contains(['\n', '\r']) && event.about.is_none(), "{block}");
        let expected = json!({
            "id": Uuid::nil(), "topic": "shop.sold", "key": "a\n\"b\"", "payload": { "text": "c\nd" },
            "published_at": "1970-01-01T00:00:00Z",
        });
        assert_eq!(serde_json::from_str::<Value>(data).unwrap(), expected);
    }
}
