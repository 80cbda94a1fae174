//! Events as the streams of clients read them: all that are new, or those of some topics after one that a client has.
//! Only reads. The number of an event is its place in the order of the commits (`db::intake`), so a reader that has one
//! has seen all before it. `db::task::upkeep` deletes old events and records how far.

use super::row::row;
use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{EventId, PluginName, UserId};
use crate::message::Topic;

row! {
    /// An event, as stored.
    #[derive(Debug, Clone)]
    pub struct StreamedEvent {
        /// The number.
        pub seq: i64,
        /// The id.
        pub id: EventId,
        /// The topic.
        pub topic: String,
        /// The plugin that published it; `None`: the host.
        pub source: Option<PluginName>,
        /// The ordering key.
        pub ordering_key: Option<String>,
        /// The payload, as JSON.
        pub payload: String,
        /// The account whose clients may receive it; `None`: those of all that the topic admits.
        pub audience: Option<UserId>,
        /// When it was published.
        pub published_at: Timestamp,
    }
}

row! {
    /// The numbers of the events that exist.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Kept {
        /// The newest event, also if it was deleted.
        pub newest: i64,
        /// The newest event that was deleted because of its age.
        pub deleted: i64,
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT seq, id, topic, source, ordering_key, payload, audience, published_at FROM events ", $rest)
    };
}

/// Returns the numbers of the events that exist.
///
/// # Errors
/// The database fails.
pub async fn kept(db: &Db) -> Result<Kept> {
    // A task can keep an event that is older than the horizon.
    const SQL: &str = "SELECT CASE WHEN present.seq > horizon.seq THEN present.seq ELSE horizon.seq END AS newest, \
        horizon.seq AS deleted FROM event_horizon horizon, (SELECT MAX(seq) AS seq FROM events) present";
    Ok(on!(db, pool => sqlx::query_as::<_, Kept>(SQL).fetch_one(pool).await)?)
}

/// Returns the events after one, in order.
///
/// # Errors
/// The database fails.
pub async fn after(db: &Db, seq: i64, limit: i64) -> Result<Vec<StreamedEvent>> {
    const SQL: &str = select!("WHERE seq > $1 ORDER BY seq LIMIT $2");
    Ok(on!(db, pool => sqlx::query_as::<_, StreamedEvent>(SQL).bind(seq).bind(limit).fetch_all(pool).await)?)
}

/// Returns the events of some topics after one and up to another, in order.
///
/// # Errors
/// The database fails.
pub async fn of_topics(
    db: &Db,
    topics: &[Topic],
    (after, until): (i64, i64),
    limit: i64,
) -> Result<Vec<StreamedEvent>> {
    on!(db, pool => {
        let mut query = sqlx::QueryBuilder::new(select!("WHERE seq > "));
        query.push_bind(after).push(" AND seq <= ").push_bind(until).push(" AND topic IN (");
        let mut list = query.separated(", ");
        for topic in topics {
            list.push_bind(topic.as_str().to_owned());
        }
        query.push(") ORDER BY seq LIMIT ").push_bind(limit);
        Ok(query.build_query_as::<StreamedEvent>().fetch_all(pool).await?)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::db::{intake, task};
    use crate::id::UserId;
    use crate::message::{Message, NewEvent};

    fn event(number: u32, topic: &str) -> Message {
        Message::Event(NewEvent {
            id: EventId(Uuid::from_u128(u128::from(number))),
            topic: topic.parse().unwrap(),
            key: None,
            payload: "{}".to_owned(),
            audience: Some(UserId(Uuid::nil())),
            depth: 0,
            request_id: None,
            at: Timestamp(i64::from(number)),
        })
    }

    #[tokio::test]
    async fn events_are_read_in_order_and_a_deletion_leaves_the_horizon() {
        let (_dir, db) = crate::db::tests::sqlite().await;
        assert_eq!(kept(&db).await.unwrap(), Kept { newest: 0, deleted: 0 });
        let topics = ["shop.sold", "shop.bought", "shop.sold"];
        let events: Vec<Message> = (1..).zip(topics).map(|(number, topic)| event(number, topic)).collect();
        intake::store(&db, &"shop".parse().unwrap(), &events).await.unwrap();
        let numbers = |events: Vec<StreamedEvent>| events.into_iter().map(|event| event.seq).collect::<Vec<_>>();
        assert_eq!(numbers(after(&db, 1, 10).await.unwrap()), [2, 3]);
        assert_eq!(numbers(after(&db, 0, 1).await.unwrap()), [1]);
        let sold: Topic = "shop.sold".parse().unwrap();
        let read = async |range| numbers(of_topics(&db, std::slice::from_ref(&sold), range, 10).await.unwrap());
        assert_eq!((read((0, 3)).await, read((1, 3)).await, read((0, 2)).await), (vec![1, 3], vec![3], vec![1]));

        task::prune(&db, Timestamp(2), Duration::ZERO).await.unwrap();
        assert_eq!(kept(&db).await.unwrap(), Kept { newest: 3, deleted: 2 });
        task::prune(&db, Timestamp(3), Duration::ZERO).await.unwrap();
        assert_eq!(kept(&db).await.unwrap(), Kept { newest: 3, deleted: 3 });
        task::prune(&db, Timestamp(3), Duration::ZERO).await.unwrap();
        assert_eq!(kept(&db).await.unwrap(), Kept { newest: 3, deleted: 3 });
        db.close().await;
    }
}
