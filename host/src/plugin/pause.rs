//! The pause switch of each plugin, which all its releases share. Owns the end of the calls in flight: a pause ends them
//! at once, also those on a release that was replaced and drains. Knows no routes; new requests are refused by the
//! generation.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::id::PluginName;

/// The switches of all plugins.
#[derive(Debug, Default)]
pub(super) struct PauseSwitches(Mutex<HashMap<PluginName, Arc<PauseSwitch>>>);

impl PauseSwitches {
    /// Returns the switch of a plugin.
    pub(super) fn plugin(&self, plugin: &PluginName) -> Arc<PauseSwitch> {
        let mut switches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(switches.entry(plugin.clone()).or_default())
    }
}

/// The pause switch of one plugin.
#[derive(Debug, Default)]
pub struct PauseSwitch(ArcSwap<CancellationToken>);

impl PauseSwitch {
    /// Ends all calls in flight. Calls that begin before [`resume`](Self::resume) end at once.
    pub(super) fn pause(&self) {
        self.0.load().cancel();
    }

    /// Lets calls run again, if they were paused. Otherwise the calls in flight keep their token, which the next pause
    /// cancels.
    pub(super) fn resume(&self) {
        if self.0.load().is_cancelled() {
            self.0.store(Arc::default());
        }
    }

    /// Returns the token of a call that begins now; a pause cancels it.
    pub(super) fn token(&self) -> Arc<CancellationToken> {
        self.0.load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_calls_of_all_releases_until_the_plugin_is_resumed() {
        let switches = PauseSwitches::default();
        let plugin: PluginName = "one".parse().unwrap();
        let (release, next) = (switches.plugin(&plugin), switches.plugin(&plugin));
        let running = release.token();
        next.pause();
        assert!(running.is_cancelled() && release.token().is_cancelled());
        next.resume();
        assert!(running.is_cancelled() && !release.token().is_cancelled());
        let running = release.token();
        next.resume();
        next.pause();
        assert!(running.is_cancelled(), "a second resumption does not take a call out of the reach of a pause");
    }
}
