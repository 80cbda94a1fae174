//! Holds: plugins whose tasks wait because the latest attempts did not count, such as while their database cannot be
//! reached. One such attempt postpones its own task only. From the second one on, the plugin starts no task for a while,
//! ever longer until an attempt counts.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::id::PluginName;

/// The wait after the first attempt that did not count.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The most plugins that are remembered. Only plugins that are served get here, so this is a safeguard.
const MAX_PLUGINS: usize = 100_000;

/// The holds of all plugins.
#[derive(Debug, Default)]
pub(in crate::plugin) struct Holds(Mutex<HashMap<PluginName, Hold>>);

#[derive(Debug, Clone, Copy)]
struct Hold {
    /// The wait of a task whose attempt did not count.
    wait: Duration,
    /// Until then, no task of the plugin starts.
    until: Option<Instant>,
}

impl Holds {
    /// An attempt did not count. Returns how long its task waits.
    pub(in crate::plugin) fn extend(&self, plugin: &PluginName, now: Instant) -> Duration {
        let mut holds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if holds.len() >= MAX_PLUGINS && !holds.contains_key(plugin) {
            holds.clear();
        }
        let Some(hold) = holds.get_mut(plugin) else {
            holds.insert(plugin.clone(), Hold { wait: FIRST_WAIT, until: None });
            return FIRST_WAIT;
        };
        // Attempts that had begun before the hold say nothing new.
        if hold.until.is_none_or(|until| until <= now) {
            hold.wait = (hold.wait * 2).min(LONGEST_WAIT);
            hold.until = Some(now + hold.wait);
        }
        hold.wait
    }

    /// Returns whether the plugin starts no task now.
    pub(in crate::plugin) fn is_held(&self, plugin: &PluginName, now: Instant) -> bool {
        let holds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        holds.get(plugin).and_then(|hold| hold.until).is_some_and(|until| now < until)
    }

    /// An attempt counted.
    pub(in crate::plugin) fn end(&self, plugin: &PluginName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(plugin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_held_ever_longer_until_an_attempt_counts() {
        let (holds, plugin, other) = (Holds::default(), "one".parse().unwrap(), "other".parse().unwrap());
        let mut now = Instant::now();
        assert_eq!(holds.extend(&plugin, now), Duration::from_secs(1));
        assert!(!holds.is_held(&plugin, now), "one attempt holds up no other task");
        for seconds in [2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(holds.extend(&plugin, now), Duration::from_secs(seconds));
            assert_eq!(holds.extend(&plugin, now), Duration::from_secs(seconds), "an attempt from before the hold");
            assert!(holds.is_held(&plugin, now) && !holds.is_held(&other, now));
            now += Duration::from_secs(seconds);
            assert!(!holds.is_held(&plugin, now));
        }
        holds.end(&plugin);
        assert_eq!(holds.extend(&plugin, now), Duration::from_secs(1));
    }
}
