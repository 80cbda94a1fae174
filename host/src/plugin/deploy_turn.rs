//! The turns of deploys: one deploy of a plugin at a time, while deploys of different plugins run side by side. Owns the
//! locks and, for each running deploy, the migrations that it is about to apply.
//!
//! A turn can last minutes, so no other operation waits for it. An operation that changes a plugin interrupts its
//! running deploy instead, and the deploy then finds the change at its next stage. A deploy that has no turn yet, because
//! it still compiles or waits, does not show its plugin. So the changes are numbered: a deploy that began before the last
//! change of its plugin ends when its turn begins.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use super::per_plugin::PerPlugin;
use super::schema_compatibility::MigrationStep;
use crate::id::PluginName;

/// The turns of all plugins.
#[derive(Debug, Default)]
pub(super) struct DeployTurns {
    queues: PerPlugin<Queue>,
    changes: Arc<Mutex<Changes>>,
}

/// The changes of plugins by operations other than deploys, while deploys run.
#[derive(Debug, Default)]
struct Changes {
    /// The number of the last change.
    last: u64,
    /// The number of the last change of each plugin. Empty while no deploy runs.
    plugins: HashMap<PluginName, u64>,
    /// The number of deploys that run.
    deploys: usize,
}

/// The time at which a deploy began, among the changes of plugins. Exists until the deploy ends.
#[derive(Debug)]
pub(super) struct DeployStart {
    changes: Arc<Mutex<Changes>>,
    after: u64,
}

impl DeployStart {
    /// Returns whether an operation other than a deploy changed the plugin since. The caller holds the change lock.
    pub(super) fn is_before_change_of(&self, plugin: &PluginName) -> bool {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.plugins.get(plugin).is_some_and(|change| *change > self.after)
    }
}

impl Drop for DeployStart {
    fn drop(&mut self) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.deploys = changes.deploys.saturating_sub(1);
        if changes.deploys == 0 {
            changes.plugins.clear();
        }
    }
}

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
    /// Notes that a deploy begins, of a plugin that is not known yet.
    pub(super) fn start(&self) -> DeployStart {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.deploys = changes.deploys.saturating_add(1);
        DeployStart { changes: Arc::clone(&self.changes), after: changes.last }
    }

    /// Waits until no other deploy of the plugin runs.
    pub(super) async fn begin(&self, plugin: &PluginName) -> DeployTurn {
        let queue = self.queues.of(plugin);
        let turn = Arc::clone(&queue.turn).lock_owned().await;
        DeployTurn { queue, _turn: turn }
    }

    /// Interrupts the running deploys of a plugin, because an operation changed the plugin. The caller holds the change
    /// lock.
    pub(super) fn interrupt(&self, plugin: &PluginName) {
        if let Some(queue) = self.queues.find(plugin) {
            queue.running().interrupted.cancel();
        }
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if changes.deploys > 0 {
            changes.last = changes.last.saturating_add(1);
            let last = changes.last;
            changes.plugins.insert(plugin.clone(), last);
        }
    }

    /// Returns the migrations of the release that a running deploy prepares, from before they are applied until the
    /// deploy has ended.
    pub(super) fn migrating(&self, plugin: &PluginName) -> Option<Vec<MigrationStep>> {
        self.queues.find(plugin)?.running().migrating.clone()
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

    #[tokio::test]
    async fn a_deploy_without_a_turn_finds_the_changes_since_it_began_and_no_others() {
        let (turns, plugin) = (DeployTurns::default(), name("one"));
        turns.interrupt(&plugin);
        let first = turns.start();
        assert!(!first.is_before_change_of(&plugin), "the change was before it");
        turns.interrupt(&plugin);
        let second = turns.start();
        assert!(first.is_before_change_of(&plugin) && !first.is_before_change_of(&name("two")));
        assert!(!second.is_before_change_of(&plugin));
        turns.interrupt(&plugin);
        drop(first);
        assert!(second.is_before_change_of(&plugin));
        drop(second);
        turns.interrupt(&plugin);
        assert!(turns.changes.lock().unwrap().plugins.is_empty(), "no deploy runs that could need them");
    }
}
