//! Signals between those that add work after a commit and those that do it: the outboxes of plugins that have messages,
//! tasks that are ready, and mails of plugins. A signal only saves the wait for the next look into the database, so one that
//! gets lost with its process is no loss. Knows neither side.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::id::PluginName;

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Signals(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    outboxes: Mutex<BTreeSet<PluginName>>,
    relay: Notify,
    tasks: Notify,
    events: Notify,
    mails: Notify,
}

impl Signals {
    /// The outbox of a plugin has a message that is committed.
    pub fn outbox_filled(&self, plugin: &PluginName) {
        self.lock().insert(plugin.clone());
        self.0.relay.notify_one();
    }

    /// Waits until an outbox has a message, and returns the plugins whose outboxes may have some.
    pub async fn filled_outboxes(&self) -> BTreeSet<PluginName> {
        loop {
            let filled = std::mem::take(&mut *self.lock());
            if !filled.is_empty() {
                return filled;
            }
            self.0.relay.notified().await;
        }
    }

    /// Messages were stored: tasks may be ready, and clients may have events to receive.
    pub fn messages_stored(&self) {
        self.0.tasks.notify_one();
        self.0.events.notify_waiters();
    }

    /// Waits until messages were stored, for the one that runs tasks.
    pub async fn tasks_added(&self) {
        self.0.tasks.notified().await;
    }

    /// Waits until messages are stored, for any number of streams. A stream looks into the database after it began to wait.
    pub fn events_added(&self) -> tokio::sync::futures::Notified<'_> {
        self.0.events.notified()
    }

    /// Mails of plugins were queued.
    pub fn mails_stored(&self) {
        self.0.mails.notify_one();
    }

    /// Waits until mails of plugins were queued, for the one that sends them.
    pub async fn mails_added(&self) {
        self.0.mails.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<PluginName>> {
        self.0.outboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_filled_outbox_is_returned_once() {
        let signals = Signals::default();
        let plugin: PluginName = "items".parse().unwrap();
        signals.outbox_filled(&plugin);
        signals.outbox_filled(&plugin);
        assert_eq!(signals.filled_outboxes().await, BTreeSet::from([plugin.clone()]));
        let waiting = tokio::spawn({
            let signals = signals.clone();
            async move { signals.filled_outboxes().await }
        });
        tokio::task::yield_now().await;
        signals.outbox_filled(&plugin);
        assert_eq!(waiting.await.unwrap(), BTreeSet::from([plugin]));
    }
}
