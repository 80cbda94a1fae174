//! The counts of mails by outcome since the start of the process, of all sources together and of each plugin. Owns the names
//! of the outcomes in metrics, and the pace of warnings about the mails of plugins.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::id::PluginName;

/// The time between two warnings about mails of plugins that cannot be sent: the mail server is away for all of them.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// How an attempt to send a mail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The mail server took it, or it is in the log.
    Sent,
    /// The mail server refused it permanently.
    Refused,
    /// The last attempt failed.
    Expired,
    /// No mail server is configured.
    Dropped,
    /// The same mail was sent a short time ago.
    Repeated,
    /// Its account does not exist, or needs no such mail any more; or, of a mail of a plugin, is not active, or its address
    /// is not verified.
    NoAccount,
    /// It failed and is tried again.
    Retried,
}

/// Counts by the name of the outcome.
pub type OutcomeCounts = [(&'static str, u64); 5];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    all: [AtomicU64; 5],
    plugins: Mutex<BTreeMap<PluginName, [u64; 5]>>,
    /// The monotonic time of the last warning.
    warned: Mutex<Option<Duration>>,
}

impl Outcomes {
    const ALL: [&str; 5] = ["sent", "refused", "expired", "dropped", "repeated"];
    const OF_PLUGINS: [&str; 5] = ["sent", "refused", "expired", "undeliverable", "retried"];

    /// Counts an attempt. A mail of the host without an account, and one that is tried again, are not counted.
    pub(super) fn record(&self, plugin: Option<&PluginName>, outcome: Outcome) {
        let place = match outcome {
            Outcome::Sent => Some(0),
            Outcome::Refused => Some(1),
            Outcome::Expired => Some(2),
            Outcome::Dropped => Some(3),
            Outcome::Repeated => Some(4),
            Outcome::NoAccount | Outcome::Retried => None,
        };
        if let Some(count) = place.and_then(|place: usize| self.all.get(place)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let Some(plugin) = plugin else { return };
        let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        let [sent, refused, expired, undeliverable, retried] = plugins.entry(plugin.clone()).or_default();
        *match outcome {
            Outcome::Sent => sent,
            Outcome::Refused => refused,
            Outcome::Expired => expired,
            Outcome::NoAccount => undeliverable,
            Outcome::Retried => retried,
            // Only mails of the host have these.
            Outcome::Dropped | Outcome::Repeated => return,
        } += 1;
    }

    /// Returns the counts of all sources together.
    pub(super) fn all(&self) -> OutcomeCounts {
        let mut counts = self.all.iter().map(|count| count.load(Ordering::Relaxed));
        Self::ALL.map(|name| (name, counts.next().unwrap_or_default()))
    }

    /// Returns the counts of each plugin.
    pub(super) fn of_plugins(&self) -> Vec<(PluginName, OutcomeCounts)> {
        let named = |counts: &[u64; 5]| {
            let mut counts = counts.iter().copied();
            Self::OF_PLUGINS.map(|name| (name, counts.next().unwrap_or_default()))
        };
        let plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        plugins.iter().map(|(plugin, counts)| (plugin.clone(), named(counts))).collect()
    }

    /// Returns whether a failure of a mail of a plugin is worth a warning: there was none a short time ago.
    pub(super) fn may_warn(&self, now: Duration) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = warned.is_none_or(|at| now.saturating_sub(at) >= WARNING_INTERVAL);
        if is_due {
            *warned = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mails_are_counted_together_and_by_plugin() {
        let (outcomes, plugin) = (Outcomes::default(), "items".parse().unwrap());
        outcomes.record(None, Outcome::Sent);
        outcomes.record(None, Outcome::NoAccount);
        for outcome in [Outcome::Sent, Outcome::Retried, Outcome::NoAccount, Outcome::Expired] {
            outcomes.record(Some(&plugin), outcome);
        }
        assert_eq!(outcomes.all(), [("sent", 2), ("refused", 0), ("expired", 1), ("dropped", 0), ("repeated", 0)]);
        let counts = [("sent", 1), ("refused", 0), ("expired", 1), ("undeliverable", 1), ("retried", 1)];
        assert_eq!(outcomes.of_plugins(), [(plugin, counts)]);
    }

    #[test]
    fn failures_are_worth_one_warning_in_a_while() {
        let (outcomes, now) = (Outcomes::default(), Duration::from_secs(5));
        assert!(outcomes.may_warn(now) && !outcomes.may_warn(now));
        assert!(outcomes.may_warn(now + WARNING_INTERVAL));
    }
}
