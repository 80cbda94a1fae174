//! The relay: takes committed messages out of the outboxes of plugins and hands them to the intake (`db::intake`), which
//! stores each once. Messages of a plugin keep their order; plugins do not wait for each other. A message leaves its outbox
//! only after it was stored, so a crash or an outage repeats messages and loses none.
//!
//! The first message after a pause is moved at once. While messages keep coming, those of a plugin are moved together, a
//! few milliseconds after the earlier ones.
//!
//! A call that commits a message signals that. Outboxes are looked at without a signal too, because a process can die
//! between a commit and the signal: all soon after the start, and then each from time to time. The more plugins there are,
//! the rarer that is, so that it never keeps connections to all their databases open.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::generation::Generation;
use super::registry::Registry;
use crate::capability::email::Email;
use crate::capability::events::Events;
use crate::capability::jobs::Jobs;
use crate::capability::sql::Sql;
use crate::capability::{Capability as _, Grants};
use crate::db::intake;
use crate::db::plugin_data::{DataError, OutboxMessage};
use crate::error::{Error, Kind, Result, code};
use crate::id::PluginName;
use crate::message::Message;

/// The most messages that are moved in one transaction.
const BATCH: usize = 100;
/// The shortest time between the beginnings of two moves of a plugin, unless the first one filled a batch. A move commits two
/// transactions, and on SQLite it syncs two files, however few messages it has. So messages that come in this time share one.
const LINGER: Duration = Duration::from_millis(5);
/// The number of plugins whose messages are moved at once.
const CONCURRENT: usize = 4;
/// The time between two ticks: looks at outboxes without a signal.
const TICK: Duration = Duration::from_secs(1);
/// The wait after the first failure with a plugin. It doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait after a failure.
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// The shortest time between two looks at an outbox without a signal.
const ROUND: Duration = Duration::from_secs(30);
/// The number of outboxes that may be looked at one after the other without a signal. One more may be at every second tick.
/// Their connections stay open for about a minute, so this bounds them.
const BURST: u32 = 10;

impl Registry {
    /// Moves messages until `stopping`. Those that are left in an outbox are moved after the next start.
    pub async fn relay_messages(&self, stopping: &CancellationToken) {
        let (mut outboxes, mut rounds) = (Outboxes::default(), Rounds::default());
        let undeleted = Undeleted::default();
        let undeleted = &undeleted;
        let mut moving: FuturesUnordered<BoxFuture<'_, (PluginName, Result<Found>)>> = FuturesUnordered::new();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = outboxes.due();
            tokio::select! {
                () = stopping.cancelled() => return,
                filled = self.db.signals().filled_outboxes() => {
                    filled.into_iter().for_each(|plugin| outboxes.fill(plugin, Instant::now()));
                }
                Some((plugin, moved)) = moving.next() => outboxes.settle(plugin, &moved, Instant::now()),
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
                _ = ticks.tick() => {
                    let now = Instant::now();
                    rounds.gain();
                    rounds.update(&self.generation());
                    while let Some(plugin) = rounds.next(now) {
                        outboxes.fill(plugin, now);
                    }
                }
            }
            while let Some(plugin) = outboxes.take(Instant::now()) {
                moving.push(Box::pin(async move {
                    let moved = self.move_messages(&plugin, undeleted).await;
                    (plugin, moved)
                }));
            }
        }
    }

    /// Moves the oldest messages of a plugin. Returns how many there were, because there may be more.
    async fn move_messages(&self, plugin: &PluginName, undeleted: &Undeleted) -> Result<Found> {
        let unavailable = |error: DataError| {
            let kind = Kind::Unavailable(FIRST_BACKOFF);
            Error::new(kind, code::DATABASE_UNAVAILABLE, "The outbox of a plugin cannot be reached").with_source(error)
        };
        // Until the messages are stored: nothing deletes the data of the plugin meanwhile.
        let _turn = self.outbox_turns.begin(plugin).await;
        let batch = self.data.outbox(plugin, BATCH).await.map_err(unavailable)?;
        if batch.is_empty() {
            return Ok(Found::Nothing);
        }
        let mut messages = Vec::with_capacity(batch.len());
        for stored in undeleted.without(plugin, &batch) {
            match serde_json::from_str::<Message>(&stored.text) {
                Ok(message) => messages.push(message),
                // The host wrote it into a table that the plugin cannot reach, so another program changed it.
                Err(error) => {
                    tracing::error!(%plugin, id = stored.id, %error, "a message is not readable; it is deleted");
                }
            }
        }
        if !messages.is_empty() {
            // Each database commits before its disk confirms it. Without the waits, an end of the machine could take the
            // change of a plugin and leave its message, or take the message from both databases.
            self.data.make_durable(plugin).await.map_err(unavailable)?;
            intake::store(&self.db, plugin, &messages).await?;
            self.db.make_durable().await?;
        }
        undeleted.add(plugin, &batch);
        let ids: Vec<i64> = batch.iter().map(|stored| stored.id).collect();
        self.data.forget(plugin, &ids).await.map_err(unavailable)?;
        undeleted.clear(plugin);
        Ok(if batch.len() < BATCH { Found::Few } else { Found::Batch })
    }
}

/// How many messages an outbox had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// Fewer than are moved together.
    Few,
    /// As many as are moved together.
    Batch,
}

/// Messages that were stored and are still in their outboxes, because the plugin's database cannot be changed now. They are
/// not stored again: a job among them can have ended and been deleted meanwhile, and would run once more with each attempt
/// to delete its message. A plugin has at most one batch of them.
#[derive(Debug, Default)]
struct Undeleted {
    hasher: RandomState,
    plugins: Mutex<HashMap<PluginName, HashSet<u64>>>,
}

impl Undeleted {
    /// Returns the messages of a batch that were not stored yet.
    fn without<'a>(&self, plugin: &PluginName, batch: &'a [OutboxMessage]) -> Vec<&'a OutboxMessage> {
        let plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = |message: &&OutboxMessage| {
            plugins.get(plugin).is_none_or(|stored| !stored.contains(&self.fingerprint(message)))
        };
        batch.iter().filter(is_new).collect()
    }

    /// A batch was stored.
    fn add(&self, plugin: &PluginName, batch: &[OutboxMessage]) {
        let stored = batch.iter().map(|message| self.fingerprint(message)).collect();
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner).insert(plugin.clone(), stored);
    }

    /// The batch was deleted from its outbox.
    fn clear(&self, plugin: &PluginName) {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner).remove(plugin);
    }

    /// The id alone can belong to a message of a new database.
    fn fingerprint(&self, OutboxMessage { id, text }: &OutboxMessage) -> u64 {
        self.hasher.hash_one((id, text))
    }
}

/// The plugins whose outboxes may have messages. A plugin leaves only when its outbox was found empty.
#[derive(Debug, Default)]
struct Outboxes {
    waiting: BTreeMap<PluginName, Waiting>,
    moving: BTreeMap<PluginName, Moving>,
}

#[derive(Debug)]
struct Waiting {
    next: Instant,
    /// The wait that a failure caused; zero without one.
    backoff: Duration,
}

#[derive(Debug)]
struct Moving {
    since: Instant,
    backoff: Duration,
    /// Whether a message may have come after the outbox was read.
    is_filled_again: bool,
}

impl Outboxes {
    /// The outbox of a plugin may have messages.
    fn fill(&mut self, plugin: PluginName, now: Instant) {
        match self.moving.get_mut(&plugin) {
            Some(moving) => moving.is_filled_again = true,
            // After a failure it waits on.
            None => {
                self.waiting.entry(plugin).or_insert(Waiting { next: now, backoff: Duration::ZERO });
            }
        }
    }

    /// Returns the earliest time at which [`take`](Self::take) returns a plugin, if nothing else happens before.
    fn due(&self) -> Option<Instant> {
        let has_room = self.moving.len() < CONCURRENT;
        self.waiting.values().map(|waiting| waiting.next).min().filter(|_| has_room)
    }

    /// Takes out the plugin that has waited longest, if another one may be worked on. [`settle`](Self::settle) follows.
    fn take(&mut self, now: Instant) -> Option<PluginName> {
        if self.moving.len() >= CONCURRENT {
            return None;
        }
        let due = self.waiting.iter().filter(|(_, waiting)| waiting.next <= now);
        let (plugin, _) = due.min_by_key(|(_, waiting)| waiting.next)?;
        let plugin = plugin.clone();
        let backoff = self.waiting.remove(&plugin)?.backoff;
        self.moving.insert(plugin.clone(), Moving { since: now, backoff, is_filled_again: false });
        Some(plugin)
    }

    /// The work on a plugin ended; `moved` tells how many messages its outbox had.
    fn settle(&mut self, plugin: PluginName, moved: &Result<Found>, now: Instant) {
        let Some(Moving { since, backoff, is_filled_again }) = self.moving.remove(&plugin) else { return };
        match moved {
            Ok(Found::Nothing) if !is_filled_again => {}
            Ok(found) => {
                let linger = if *found == Found::Few { LINGER } else { Duration::ZERO };
                // Behind those that wait already.
                let next = now.max(since + linger);
                self.waiting.insert(plugin, Waiting { next, backoff: Duration::ZERO });
            }
            Err(error) => {
                let error = error.report();
                if backoff.is_zero() {
                    tracing::warn!(%plugin, error, "messages of a plugin cannot be moved now; they stay in its outbox");
                } else {
                    tracing::debug!(%plugin, error, "messages of a plugin still cannot be moved");
                }
                let backoff = (backoff * 2).clamp(FIRST_BACKOFF, LONGEST_BACKOFF);
                self.waiting.insert(plugin, Waiting { next: now + backoff, backoff });
            }
        }
    }
}

/// The looks at outboxes without a signal.
#[derive(Debug)]
struct Rounds {
    generation: Option<u64>,
    /// The plugins that may have messages, the next one first, each with the earliest time of its next look.
    order: VecDeque<(PluginName, Instant)>,
    known: BTreeSet<PluginName>,
    /// How many looks may be made now, in halves.
    halves: u32,
}

impl Default for Rounds {
    fn default() -> Self {
        Self { generation: None, order: VecDeque::new(), known: BTreeSet::new(), halves: BURST * 2 }
    }
}

impl Rounds {
    /// A tick passed: half a look more may be made.
    fn gain(&mut self) {
        self.halves = self.halves.saturating_add(1).min(BURST * 2);
    }

    /// Takes in plugins that have become served.
    fn update(&mut self, generation: &Generation) {
        if self.generation == Some(generation.number) {
            return;
        }
        self.generation = Some(generation.number);
        let may_have = |grants: &Grants| {
            let sends = [Events::NAME, Jobs::NAME, Email::NAME].into_iter().any(|name| grants.contains(name));
            grants.contains(Sql::NAME) && sends
        };
        let served = generation.plugins.loaded().filter(|(release, _)| may_have(&release.record.grants));
        self.take_in(served.map(|(release, _)| release.record.plugin.clone()).collect(), Instant::now());
    }

    /// Replaces the plugins. New ones come first.
    fn take_in(&mut self, plugins: BTreeSet<PluginName>, now: Instant) {
        self.order.retain(|(plugin, _)| plugins.contains(plugin));
        for plugin in plugins.difference(&self.known) {
            self.order.push_front((plugin.clone(), now));
        }
        self.known = plugins;
    }

    /// Returns the next plugin, if it is time for it.
    fn next(&mut self, now: Instant) -> Option<PluginName> {
        let (_, due) = self.order.front()?;
        if *due > now || self.halves < 2 {
            return None;
        }
        let (plugin, _) = self.order.pop_front()?;
        self.halves -= 2;
        self.order.push_back((plugin.clone(), now + ROUND));
        Some(plugin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PluginName {
        text.parse().unwrap()
    }

    fn failure() -> Result<Found> {
        Err(Error::internal("the database is away"))
    }

    #[test]
    fn a_plugin_leaves_when_its_outbox_was_found_empty() {
        let (mut outboxes, now) = (Outboxes::default(), Instant::now());
        outboxes.fill(name("a"), now);
        assert_eq!(outboxes.take(now), Some(name("a")));
        assert_eq!(outboxes.take(now), None);
        outboxes.settle(name("a"), &Ok(Found::Batch), now);
        assert_eq!(outboxes.take(now), Some(name("a")), "it may have more");
        outboxes.fill(name("a"), now);
        outboxes.settle(name("a"), &Ok(Found::Nothing), now);
        assert_eq!(outboxes.take(now), Some(name("a")), "a message came after the look");
        outboxes.settle(name("a"), &Ok(Found::Nothing), now);
        assert_eq!(outboxes.take(now), None);
    }

    #[test]
    fn messages_that_keep_coming_are_moved_together() {
        let (mut outboxes, now) = (Outboxes::default(), Instant::now());
        let after = |millis| now + Duration::from_millis(millis);
        outboxes.fill(name("a"), now);
        assert_eq!(
            (outboxes.due(), outboxes.take(now)),
            (Some(now), Some(name("a"))),
            "the first one waits for nothing"
        );
        assert_eq!(outboxes.due(), None, "nothing waits");
        outboxes.fill(name("a"), after(1));
        outboxes.settle(name("a"), &Ok(Found::Few), after(2));
        outboxes.fill(name("a"), after(3));
        assert_eq!((outboxes.due(), outboxes.take(after(4))), (Some(now + LINGER), None));
        assert_eq!(outboxes.take(now + LINGER), Some(name("a")));
        outboxes.settle(name("a"), &Ok(Found::Few), after(100));
        assert_eq!(outboxes.take(after(100)), Some(name("a")), "the move itself took longer");
        outboxes.settle(name("a"), &Ok(Found::Batch), after(101));
        assert_eq!(outboxes.take(after(101)), Some(name("a")), "full batches follow each other at once");
        outboxes.settle(name("a"), &Ok(Found::Nothing), after(102));
        assert_eq!(outboxes.due(), None);
        outboxes.fill(name("a"), after(103));
        assert_eq!(outboxes.take(after(103)), Some(name("a")), "a message after a pause");
    }

    #[test]
    fn nothing_is_due_while_as_many_plugins_are_worked_on_as_may_be() {
        let (mut outboxes, now) = (Outboxes::default(), Instant::now());
        ["a", "b", "c", "d", "e"].into_iter().for_each(|plugin| outboxes.fill(name(plugin), now));
        while outboxes.take(now).is_some() {}
        assert_eq!(outboxes.due(), None);
        outboxes.settle(name("a"), &Ok(Found::Nothing), now);
        assert_eq!(outboxes.due(), Some(now));
    }

    #[test]
    fn a_message_that_cannot_be_deleted_is_stored_once() {
        let (undeleted, plugin, other) = (Undeleted::default(), name("a"), name("b"));
        let message = |id: i64, text: &str| OutboxMessage { id, text: text.to_owned() };
        let batch = [message(1, "one"), message(2, "two")];
        let new = |plugin: &PluginName, batch: &[OutboxMessage]| {
            undeleted.without(plugin, batch).into_iter().map(|message| message.id).collect::<Vec<_>>()
        };
        assert_eq!(new(&plugin, &batch), [1, 2]);
        undeleted.add(&plugin, &batch);
        assert_eq!(new(&plugin, &[batch[1].clone(), message(3, "three")]), [3]);
        assert_eq!(new(&plugin, &[message(1, "of a new database")]), [1]);
        assert_eq!(new(&other, &batch), [1, 2]);
        undeleted.clear(&plugin);
        assert_eq!(new(&plugin, &batch), [1, 2]);
    }

    #[test]
    fn plugins_take_turns_and_only_some_are_worked_on_at_once() {
        let (mut outboxes, now) = (Outboxes::default(), Instant::now());
        for (millis, plugin) in (0..).zip(["a", "b", "c", "d", "e"]) {
            outboxes.fill(name(plugin), now + Duration::from_millis(millis));
        }
        let later = now + Duration::from_secs(1);
        let taken: Vec<_> = std::iter::from_fn(|| outboxes.take(later)).map(|plugin| plugin.to_string()).collect();
        assert_eq!(taken, ["a", "b", "c", "d"]);
        outboxes.settle(name("a"), &Ok(Found::Batch), later);
        assert_eq!(outboxes.take(later), Some(name("e")), "one with many messages waits behind the others");
    }

    #[test]
    fn a_failure_is_tried_again_ever_more_rarely_and_loses_no_plugin() {
        let (mut outboxes, mut now) = (Outboxes::default(), Instant::now());
        outboxes.fill(name("a"), now);
        for seconds in [1, 2, 4, 8, 10, 10] {
            assert_eq!(outboxes.take(now), Some(name("a")));
            outboxes.settle(name("a"), &failure(), now);
            outboxes.fill(name("a"), now);
            assert_eq!(outboxes.take(now), None, "a signal does not shorten the wait");
            now += Duration::from_secs(seconds);
        }
        assert_eq!(outboxes.take(now), Some(name("a")));
        outboxes.settle(name("a"), &Ok(Found::Batch), now);
        assert_eq!(outboxes.take(now), Some(name("a")));
        outboxes.settle(name("a"), &failure(), now);
        assert_eq!(outboxes.take(now + FIRST_BACKOFF), Some(name("a")), "a success ends the backoff");
    }

    #[test]
    fn rounds_look_at_each_plugin_and_at_few_at_once() {
        let (mut rounds, now) = (Rounds::default(), Instant::now());
        let plugins: BTreeSet<_> = (0..12).map(|number| name(&format!("p{number}"))).collect();
        rounds.take_in(plugins.clone(), now);
        let looks = |rounds: &mut Rounds, now| std::iter::from_fn(|| rounds.next(now)).collect::<Vec<_>>();
        let mut seen = looks(&mut rounds, now);
        assert_eq!(seen.len(), 10);
        for _ in 0..4 {
            rounds.gain();
            seen.extend(looks(&mut rounds, now));
        }
        assert_eq!(seen.len(), 12);
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), plugins);
        (0..100).for_each(|_| rounds.gain());
        assert!(looks(&mut rounds, now).is_empty(), "each waits for the next round");
        assert_eq!(looks(&mut rounds, now + ROUND).len(), 10);
    }

    #[test]
    fn a_plugin_that_is_served_again_is_looked_at_first() {
        let (mut rounds, now) = (Rounds::default(), Instant::now());
        rounds.take_in(BTreeSet::from([name("a"), name("b")]), now);
        assert_eq!(std::iter::from_fn(|| rounds.next(now)).count(), 2);
        rounds.take_in(BTreeSet::from([name("b")]), now);
        rounds.take_in(BTreeSet::from([name("a"), name("b")]), now);
        assert_eq!((rounds.next(now), rounds.next(now)), (Some(name("a")), None));
    }
}
