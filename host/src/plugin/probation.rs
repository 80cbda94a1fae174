//! Probation of fresh deploys: for a while the host remembers the release that was live before, so that the supervisor
//! can roll back by itself. Owns the memory; rolls nothing back.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::clock::Timestamp;
use crate::id::PluginName;

/// The fresh deploys that the host may still roll back by itself, one per plugin.
#[derive(Debug, Default)]
pub(super) struct Probations(Mutex<HashMap<PluginName, Probation>>);

#[derive(Debug)]
struct Probation {
    release: i64,
    previous: i64,
    until: Timestamp,
}

impl Probations {
    /// Starts the probation of a release. Without a previous release there is none, and an earlier one ends.
    pub(super) fn start(&self, plugin: &PluginName, release: i64, previous: Option<i64>, until: Timestamp) {
        self.with(|probations| match previous {
            Some(previous) => {
                probations.insert(plugin.clone(), Probation { release, previous, until });
            }
            None => {
                probations.remove(plugin);
            }
        });
    }

    /// Ends the probation of a plugin.
    pub(super) fn end(&self, plugin: &PluginName) {
        self.with(|probations| probations.remove(plugin));
    }

    /// Returns the release to roll back to if `release` was on probation at the given time and nothing ended it since.
    pub(super) fn fallback(&self, plugin: &PluginName, release: i64, at: Timestamp) -> Option<i64> {
        self.with(|probations| {
            let probation = probations.get(plugin);
            probation
                .filter(|probation| probation.release == release && at < probation.until)
                .map(|probation| probation.previous)
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<PluginName, Probation>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
