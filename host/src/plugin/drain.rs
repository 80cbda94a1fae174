//! The drain of a replaced release: its last calls finish on it within the drain time, then its memory is freed. Owns
//! the list of drains; keeps the call statistics of drained releases for a while, for metrics.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::call_stats::CallStats;
use super::release::Release;
use super::running_calls::RunningCalls;
use crate::id::PluginName;

/// The time between two checks whether a release is still in use.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long the statistics of a release are kept after its last call: several scrapes, which are usually at most a
/// minute apart.
const RETENTION: Duration = Duration::from_secs(300);
/// The maximum number of ended drains; the earliest ended are removed first.
const MAX_ENDED: usize = 32;

/// A replaced release with its call statistics.
#[derive(Debug, Clone)]
pub struct Drain {
    /// The plugin of the release.
    pub plugin: PluginName,
    /// The number of the release.
    pub release: i64,
    /// Its statistics, including the time before it was replaced.
    pub stats: Arc<CallStats>,
    /// The number of calls before it was replaced.
    before: u64,
    /// The calls that still run.
    calls: RunningCalls,
    /// When its last call ended.
    ended: Option<Instant>,
}

impl Drain {
    /// Returns whether calls ended after it was replaced.
    fn had_calls(&self) -> bool {
        self.stats.total() > self.before
    }
}

/// The releases that were replaced lately, the earliest first. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Drains(Arc<Mutex<Vec<Drain>>>);

impl Drains {
    /// Watches a replaced release until its last call has ended. Cancels the calls that are left after `limit`.
    pub(super) fn begin(&self, release: &Arc<Release>, limit: Duration) {
        let weak = Arc::downgrade(release);
        let calls = release.calls.clone();
        let (plugin, number) = (release.record.plugin.clone(), release.record.number);
        let stats = Arc::clone(&release.stats);
        let drain = Drain {
            plugin: plugin.clone(),
            release: number,
            before: stats.total(),
            stats: stats.clone(),
            calls: calls.clone(),
            ended: None,
        };
        self.change(|drains| drains.push(drain));
        let drains = self.clone();
        tokio::spawn(async move {
            let started = Instant::now();
            while weak.strong_count() > 0 {
                if started.elapsed() > limit && !calls.are_ended() {
                    tracing::warn!(%plugin, release = number, "cancelling the calls that exceed the drain time");
                    calls.end();
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            drains.end(&stats);
            let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::debug!(%plugin, release = number, millis, "drained");
        });
    }

    /// Ends the calls of the replaced releases of a plugin, and waits until none runs. A release that is still in use then has
    /// a client that is slow: its call ends as soon as it begins.
    pub(super) async fn end_calls(&self, plugin: &PluginName) {
        let calls: Vec<RunningCalls> = self.change(|drains| {
            let of_plugin = drains.iter().filter(|drain| drain.plugin == *plugin && drain.ended.is_none());
            of_plugin.map(|drain| drain.calls.clone()).collect()
        });
        calls.iter().for_each(RunningCalls::end);
        for calls in calls {
            calls.wait().await;
        }
    }

    /// Returns the number of replaced releases that are still in use.
    pub(super) fn running(&self) -> usize {
        self.change(|drains| drains.iter().filter(|drain| drain.ended.is_none()).count())
    }

    /// Returns the drains with calls that ended after the replacement.
    pub(super) fn with_calls(&self) -> Vec<Drain> {
        self.change(|drains| drains.iter().filter(|drain| drain.had_calls()).cloned().collect())
    }

    fn end(&self, stats: &Arc<CallStats>) {
        self.change(|drains| {
            if let Some(drain) = drains.iter_mut().find(|drain| Arc::ptr_eq(&drain.stats, stats)) {
                drain.ended = Some(Instant::now());
            }
        });
    }

    /// Changes the list, after removing the drains that are no longer needed.
    fn change<T>(&self, change: impl FnOnce(&mut Vec<Drain>) -> T) -> T {
        let mut drains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        drains.retain(|drain| drain.ended.is_none_or(|ended| drain.had_calls() && ended.elapsed() < RETENTION));
        let ended = drains.iter().filter(|drain| drain.ended.is_some()).count();
        for _ in MAX_ENDED..ended {
            let first = drains.iter().enumerate().filter_map(|(at, drain)| Some((drain.ended?, at))).min();
            first.map(|(_, at)| drains.remove(at));
        }
        change(&mut drains)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::call_stats::CallOutcome;

    fn drain(release: i64, calls: u64) -> Drain {
        let stats = Arc::new(CallStats::default());
        stats.count(CallOutcome::Success);
        let before = stats.total();
        (0..calls).for_each(|_| stats.count(CallOutcome::Replaced));
        Drain { plugin: "items".parse().unwrap(), release, stats, before, calls: RunningCalls::default(), ended: None }
    }

    fn numbers(drains: &Drains) -> Vec<i64> {
        drains.with_calls().iter().map(|drain| drain.release).collect()
    }

    #[tokio::test]
    async fn a_drain_without_calls_is_removed_at_once() {
        let drains = Drains::default();
        let (quiet, busy) = (drain(1, 0), drain(2, 1));
        drains.change(|drains| drains.extend([quiet.clone(), busy.clone()]));
        assert_eq!(numbers(&drains), [2]);
        quiet.stats.count(CallOutcome::Success);
        assert_eq!(numbers(&drains), [1, 2], "it has one now");
        drains.end(&busy.stats);
        drains.end(&quiet.stats);
        assert_eq!(numbers(&drains), [1, 2]);
        let none = drain(3, 0);
        drains.change(|drains| drains.push(none.clone()));
        drains.end(&none.stats);
        assert_eq!(drains.change(|drains| drains.len()), 2);
    }

    #[tokio::test]
    async fn the_earliest_ended_drains_are_removed_beyond_the_maximum() {
        let drains = Drains::default();
        let running = drain(0, 1);
        drains.change(|drains| drains.push(running));
        let most = i64::try_from(MAX_ENDED).unwrap();
        for release in 1..=most + 3 {
            let drain = drain(release, 1);
            drains.change(|drains| drains.push(drain.clone()));
            drains.end(&drain.stats);
        }
        let expected: Vec<i64> = std::iter::once(0).chain(4..=most + 3).collect();
        assert_eq!(numbers(&drains), expected, "the running one and the latest ended ones stay");
    }
}
