//! The counts of attempts by plugin and outcome since the start of the process. Owns the names of the outcomes in metrics,
//! and the pace of warnings about dead letters.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::id::PluginName;

/// The time between two warnings about dead letters of a plugin.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::plugin) enum AttemptOutcome {
    /// A delivery succeeded.
    Delivered,
    /// A job succeeded.
    Succeeded,
    /// It failed and is repeated.
    Retried,
    /// It failed for the last time.
    Dead,
    /// It did not count.
    Postponed,
}

impl AttemptOutcome {
    /// Every outcome with its name, in the order of the counts.
    const NAMES: [&str; 5] = ["delivered", "succeeded", "retried", "dead", "postponed"];
}

/// The counts of one plugin, by the name of the outcome.
pub(in crate::plugin) type OutcomeCounts = [(&'static str, u64); 5];

/// The counts of all plugins.
#[derive(Debug, Default)]
pub(in crate::plugin) struct TaskCounts(Mutex<BTreeMap<PluginName, Counts>>);

#[derive(Debug, Default)]
struct Counts {
    outcomes: [u64; 5],
    warned_at: Option<Instant>,
}

impl TaskCounts {
    /// Counts an attempt.
    pub(in crate::plugin) fn count(&self, plugin: &PluginName, outcome: AttemptOutcome) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = all.entry(plugin.clone()).or_default();
        if let Some(count) = counts.outcomes.get_mut(outcome as usize) {
            *count += 1;
        }
    }

    /// Returns whether a dead letter of the plugin is worth a warning: there was none a short time ago.
    pub(in crate::plugin) fn may_warn(&self, plugin: &PluginName, now: Instant) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = all.entry(plugin.clone()).or_default();
        let is_due = counts.warned_at.is_none_or(|at| now.saturating_duration_since(at) >= WARNING_INTERVAL);
        if is_due {
            counts.warned_at = Some(now);
        }
        is_due
    }

    /// Returns the counts of each plugin.
    pub(in crate::plugin) fn each(&self) -> Vec<(PluginName, OutcomeCounts)> {
        let named = |counts: &Counts| {
            let mut counts = counts.outcomes.iter().copied();
            AttemptOutcome::NAMES.map(|name| (name, counts.next().unwrap_or_default()))
        };
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(plugin, counts)| (plugin.clone(), named(counts))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_counted_by_plugin_and_outcome() {
        let (counts, one, other) = (TaskCounts::default(), "one".parse().unwrap(), "other".parse().unwrap());
        for outcome in [AttemptOutcome::Delivered, AttemptOutcome::Dead, AttemptOutcome::Dead] {
            counts.count(&one, outcome);
        }
        counts.count(&other, AttemptOutcome::Postponed);
        let of_one = [("delivered", 1), ("succeeded", 0), ("retried", 0), ("dead", 2), ("postponed", 0)];
        let of_other = [("delivered", 0), ("succeeded", 0), ("retried", 0), ("dead", 0), ("postponed", 1)];
        assert_eq!(counts.each(), [(one, of_one), (other, of_other)]);
    }

    #[test]
    fn dead_letters_of_a_plugin_are_worth_one_warning_in_a_while() {
        let (counts, plugin, other) = (TaskCounts::default(), "one".parse().unwrap(), "other".parse().unwrap());
        let now = Instant::now();
        assert!(counts.may_warn(&plugin, now) && !counts.may_warn(&plugin, now) && counts.may_warn(&other, now));
        assert!(counts.may_warn(&plugin, now + WARNING_INTERVAL));
    }
}
