//! The end of a release that is not served any more: its last calls finish on it, within a time, and its memory goes. What
//! those calls came to is remembered for a while, for whoever counts calls.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::release::Release;
use super::tally::Tally;
use crate::id::PluginName;

/// Between two looks whether anybody still uses it.
const LOOK: Duration = Duration::from_millis(20);
/// How long the counts of a release stay after its last call: some scrapes, which are a minute apart at the most where
/// somebody looks.
const KEPT: Duration = Duration::from_secs(300);
/// Releases whose counts stay after their last call; of more, those that ended first go first.
const MOST: usize = 32;

/// A release that was replaced, and what its calls came to.
#[derive(Debug, Clone)]
pub struct Drain {
    /// Whose release.
    pub plugin: PluginName,
    /// Its number.
    pub release: i64,
    /// Its counts, those of the time before included.
    pub tally: Arc<Tally>,
    /// Calls that were counted before.
    before: u64,
    /// When its last call had ended.
    ended: Option<Instant>,
}

impl Drain {
    /// Whether calls came to an end after it was replaced.
    fn had_calls(&self) -> bool {
        self.tally.total() > self.before
    }
}

/// The releases that were replaced lately, first ones first. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Drains(Arc<Mutex<Vec<Drain>>>);

impl Drains {
    /// Watches a replaced release until its last call has ended; after `limit` the calls that are left are cancelled.
    pub(super) fn begin(&self, release: &Arc<Release>, limit: Duration) {
        let weak = Arc::downgrade(release);
        let cancelled = release.ended.clone();
        let (plugin, number) = (release.record.plugin.clone(), release.record.number);
        let tally = Arc::clone(&release.tally);
        let drain =
            Drain { plugin: plugin.clone(), release: number, before: tally.total(), tally: tally.clone(), ended: None };
        self.change(|drains| drains.push(drain));
        let drains = self.clone();
        tokio::spawn(async move {
            let started = Instant::now();
            while weak.strong_count() > 0 {
                if started.elapsed() > limit && !cancelled.is_cancelled() {
                    tracing::warn!(%plugin, release = number, "cancelling the calls that did not end within the drain time");
                    cancelled.cancel();
                }
                tokio::time::sleep(LOOK).await;
            }
            drains.end(&tally);
            let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::debug!(%plugin, release = number, millis, "drained");
        });
    }

    /// Those whose calls went on after they were replaced.
    pub(super) fn with_calls(&self) -> Vec<Drain> {
        self.change(|drains| drains.iter().filter(|drain| drain.had_calls()).cloned().collect())
    }

    fn end(&self, tally: &Arc<Tally>) {
        self.change(|drains| {
            if let Some(drain) = drains.iter_mut().find(|drain| Arc::ptr_eq(&drain.tally, tally)) {
                drain.ended = Some(Instant::now());
            }
        });
    }

    /// Forgets on the way what nobody needs any more.
    fn change<T>(&self, change: impl FnOnce(&mut Vec<Drain>) -> T) -> T {
        let mut drains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        drains.retain(|drain| drain.ended.is_none_or(|ended| drain.had_calls() && ended.elapsed() < KEPT));
        let ended = drains.iter().filter(|drain| drain.ended.is_some()).count();
        for _ in MOST..ended {
            let first = drains.iter().enumerate().filter_map(|(at, drain)| Some((drain.ended?, at))).min();
            first.map(|(_, at)| drains.remove(at));
        }
        change(&mut drains)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::tally::CallOutcome;

    fn drain(release: i64, calls: u64) -> Drain {
        let tally = Arc::new(Tally::default());
        tally.count(CallOutcome::Success);
        let before = tally.total();
        (0..calls).for_each(|_| tally.count(CallOutcome::Replaced));
        Drain { plugin: "items".parse().unwrap(), release, tally, before, ended: None }
    }

    fn numbers(drains: &Drains) -> Vec<i64> {
        drains.with_calls().iter().map(|drain| drain.release).collect()
    }

    #[tokio::test]
    async fn who_had_no_calls_is_forgotten_at_once() {
        let drains = Drains::default();
        let (quiet, busy) = (drain(1, 0), drain(2, 1));
        drains.change(|drains| drains.extend([quiet.clone(), busy.clone()]));
        assert_eq!(numbers(&drains), [2]);
        quiet.tally.count(CallOutcome::Success);
        assert_eq!(numbers(&drains), [1, 2], "it has one now");
        drains.end(&busy.tally);
        drains.end(&quiet.tally);
        assert_eq!(numbers(&drains), [1, 2]);
        let none = drain(3, 0);
        drains.change(|drains| drains.push(none.clone()));
        drains.end(&none.tally);
        assert_eq!(drains.change(|drains| drains.len()), 2);
    }

    #[tokio::test]
    async fn so_many_are_remembered() {
        let drains = Drains::default();
        let running = drain(0, 1);
        drains.change(|drains| drains.push(running));
        let most = i64::try_from(MOST).unwrap();
        for release in 1..=most + 3 {
            let drain = drain(release, 1);
            drains.change(|drains| drains.push(drain.clone()));
            drains.end(&drain.tally);
        }
        let expected: Vec<i64> = std::iter::once(0).chain(4..=most + 3).collect();
        assert_eq!(numbers(&drains), expected, "what runs stays, and the last");
    }
}
