//! The turns of deploys: one deploy of a plugin at a time, while deploys of different plugins run side by side. Owns the
//! locks and, for each running deploy, the migrations that it is about to apply.
//!
//! A turn can last minutes, so no other operation waits for it. An operation that changes a plugin interrupts its
//! running deploy instead, and the deploy then finds the change at its next stage.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use super::schema_compatibility::MigrationStep;
use crate::id::PluginName;

/// The turns of all plugins.
#[derive(Debug, Default)]
pub(super) struct DeployTurns(Mutex<HashMap<PluginName, Weak<Queue>>>);

/// The deploys of one plugin that run or wait.
#[derive(Debug, Default)]
struct Queue {
    turn: Arc<tokio::sync::Mutex<()>>,
    running: Mutex<Running>,
}

/// The deploy whose turn it is.
#[derive(Debug, Default)]
struct Running {
    migrating: Option<Vec<MigrationStep>>,
    interrupted: CancellationToken,
}

impl DeployTurns {
    /// Waits until no other deploy of the plugin runs.
    pub(super) async fn begin(&self, plugin: &PluginName) -> DeployTurn {
        let queue = {
            let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            queues.retain(|_, queue| queue.strong_count() > 0);
            match queues.get(plugin).and_then(Weak::upgrade) {
                Some(queue) => queue,
                None => {
                    let queue = Arc::<Queue>::default();
                    queues.insert(plugin.clone(), Arc::downgrade(&queue));
                    queue
                }
            }
        };
        let turn = Arc::clone(&queue.turn).lock_owned().await;
        DeployTurn { queue, _turn: turn }
    }

    /// Interrupts the running deploy of a plugin, because an operation changed the plugin. Returns whether there is one.
    /// The caller holds the change lock.
    pub(super) fn interrupt(&self, plugin: &PluginName) -> bool {
        let queue = self.find(plugin);
        queue.iter().for_each(|queue| queue.running().interrupted.cancel());
        queue.is_some()
    }

    /// Returns the migrations of the release that a running deploy prepares, from before they are applied until the
    /// deploy has ended.
    pub(super) fn migrating(&self, plugin: &PluginName) -> Option<Vec<MigrationStep>> {
        self.find(plugin)?.running().migrating.clone()
    }

    fn find(&self, plugin: &PluginName) -> Option<Arc<Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(plugin).and_then(Weak::upgrade)
    }
}

impl Queue {
    fn running(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The turn of one deploy; it ends when it is dropped.
#[derive(Debug)]
pub(super) struct DeployTurn {
    queue: Arc<Queue>,
    _turn: OwnedMutexGuard<()>,
}

impl DeployTurn {
    /// Announces the migrations of the release, so that a rollback meanwhile does not choose a release that cannot run
    /// on their result.
    pub(super) fn announce(&self, steps: &[MigrationStep]) {
        self.queue.running().migrating = Some(steps.to_vec());
    }

    /// Forgets earlier interruptions, because the deploy reads the state of the plugin now. The caller holds the change
    /// lock.
    pub(super) fn restart(&self) {
        self.queue.running().interrupted = CancellationToken::new();
    }

    /// Returns the token that is cancelled when an operation changes the plugin after the last restart.
    pub(super) fn interrupted(&self) -> CancellationToken {
        self.queue.running().interrupted.clone()
    }
}

impl Drop for DeployTurn {
    fn drop(&mut self) {
        *self.queue.running() = Running::default();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn name(text: &str) -> PluginName {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn only_deploys_of_the_same_plugin_wait_for_each_other() {
        let (turns, plugin) = (DeployTurns::default(), name("one"));
        let first = turns.begin(&plugin).await;
        assert!(turns.begin(&name("two")).now_or_never().is_some());
        let mut second = Box::pin(turns.begin(&plugin));
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        assert!(second.now_or_never().is_some());
        turns.begin(&name("three")).await;
        assert_eq!(turns.0.lock().unwrap().len(), 1, "ended turns are forgotten");
    }

    #[tokio::test]
    async fn an_interruption_and_announced_migrations_end_with_the_turn() {
        let (turns, plugin) = (DeployTurns::default(), name("one"));
        turns.interrupt(&plugin);
        let first = turns.begin(&plugin).await;
        assert!(!first.interrupted().is_cancelled());
        first.announce(&[MigrationStep { name: "0001".to_owned(), oldest: None }]);
        let next = turns.begin(&plugin);
        turns.interrupt(&plugin);
        assert!(first.interrupted().is_cancelled());
        assert_eq!(turns.migrating(&plugin).unwrap().len(), 1);
        drop(first);
        let next = next.await;
        assert!(!next.interrupted().is_cancelled() && turns.migrating(&plugin).is_none());
    }
}
