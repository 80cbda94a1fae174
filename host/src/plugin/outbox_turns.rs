//! The turns at the outbox of a plugin: either the relay moves messages out of it, or the data of the plugin are deleted.
//! Without the turns, the relay could store messages after the deletion that it had read before it, and a later plugin of
//! the same name would get them.

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::per_plugin::PerPlugin;
use crate::id::PluginName;

/// The turns at all outboxes.
#[derive(Debug, Default)]
pub(super) struct OutboxTurns(PerPlugin<Mutex<()>>);

impl OutboxTurns {
    /// Waits for the turn at the outbox of a plugin. It ends when the result is dropped.
    pub(super) async fn begin(&self, plugin: &PluginName) -> OwnedMutexGuard<()> {
        self.0.of(plugin).lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn each_plugin_has_turns_of_its_own() {
        let turns = OutboxTurns::default();
        let (items, notes): (PluginName, PluginName) = ("items".parse().unwrap(), "notes".parse().unwrap());
        let first = turns.begin(&items).await;
        let _other = turns.begin(&notes).await;
        assert!(turns.begin(&items).now_or_never().is_none(), "two have the turn");
        drop(first);
        turns.begin(&items).await;
    }
}
