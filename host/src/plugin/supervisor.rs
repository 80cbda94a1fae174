//! The supervisor: the automatic actions of the host on plugins. It aborts canaries that go badly and advances those
//! that go well, rolls back a fresh deploy whose breaker opens, and reports dropped log records. Runs next to the
//! server until it stops. Owns the trips that are not handled yet: while the database does not respond, each is tried
//! again until it is done. It also notices which releases nobody uses (`preparation`).

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::breaker::TrippedRelease;
use super::registry::Registry;
use crate::error::{Code, Error, Result, code};
use crate::initiator::Initiator;

/// The time between two checks of canaries and logs.
const INTERVAL: Duration = Duration::from_secs(1);
/// The longest time between two attempts to handle a trip. The first is [`INTERVAL`], and each is twice the one before.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The trips that could not be handled yet. At most one for each release.
#[derive(Debug, Default)]
struct PendingTrips(Vec<PendingTrip>);

#[derive(Debug)]
struct PendingTrip {
    tripped: TrippedRelease,
    next: Instant,
    backoff: Duration,
}

impl PendingTrips {
    /// Adds a trip that was tried once and failed.
    fn push(&mut self, tripped: TrippedRelease, now: Instant) {
        if !self.0.iter().any(|pending| pending.tripped.is_same_release(&tripped)) {
            self.0.push(PendingTrip { tripped, next: now + INTERVAL, backoff: INTERVAL });
        }
    }

    /// Takes out the trips that are due.
    fn take_due(&mut self, now: Instant) -> Vec<PendingTrip> {
        self.0.extract_if(.., |pending| pending.next <= now).collect()
    }

    /// Returns a trip that failed again, to be tried later.
    fn put_back(&mut self, pending: PendingTrip, now: Instant) {
        let backoff = (pending.backoff * 2).min(MAX_BACKOFF);
        self.0.push(PendingTrip { next: now + backoff, backoff, ..pending });
    }
}

impl Registry {
    /// Supervises until `stopping`. A second call returns at once.
    pub async fn supervise(&self, stopping: CancellationToken) {
        let trips = self.trips.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut trips) = trips else { return };
        let mut pending = PendingTrips::default();
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                Some(tripped) = trips.recv() => {
                    // The stop does not wait for a rollback that has to compile.
                    match stopping.run_until_cancelled(self.is_handled(&tripped, true)).await {
                        None => return,
                        Some(true) => {}
                        Some(false) => pending.push(tripped, Instant::now()),
                    }
                }
                _ = interval.tick() => {
                    for trip in pending.take_due(Instant::now()) {
                        match stopping.run_until_cancelled(self.is_handled(&trip.tripped, false)).await {
                            None => return,
                            Some(true) => {}
                            Some(false) => pending.put_back(trip, Instant::now()),
                        }
                    }
                    self.logs.log_dropped();
                    self.unload_idle();
                    self.judge_canaries().await;
                }
            }
        }
    }

    /// Handles a trip. Returns whether that is done: it succeeded, it is not needed any more, or it cannot succeed later
    /// either.
    async fn is_handled(&self, tripped: &TrippedRelease, is_first: bool) -> bool {
        // The release may have recovered since.
        if !is_first && !self.is_quarantined(tripped) {
            return true;
        }
        let Err(error) = self.handle_trip(tripped).await else { return true };
        let (plugin, release, retry) = (&tripped.plugin, tripped.number, may_pass(&error));
        let is_known = !is_first && is_lasting(&error);
        let error = error.report();
        if is_known {
            tracing::debug!(%plugin, release, error, "a quarantined release still cannot be rolled back");
        } else {
            tracing::error!(%plugin, release, retry, error, "a quarantined release could not be rolled back");
        }
        !retry
    }

    /// Returns whether the breaker of a release is open. One that is not loaded any more is left to the rollback.
    fn is_quarantined(&self, tripped: &TrippedRelease) -> bool {
        let generation = self.generation();
        let mut loaded = generation.plugins.releases_of(&tripped.plugin);
        loaded.find(|release| release.record.number == tripped.number).is_none_or(|release| release.breaker.is_open())
    }

    /// Aborts the release if it is a canary, or rolls it back if it was on probation when its breaker opened.
    async fn handle_trip(&self, TrippedRelease { plugin, number, at }: &TrippedRelease) -> Result<()> {
        if self.abort_tripped(plugin, *number).await? {
            return Ok(());
        }
        let Some(previous) = self.probations.fallback(plugin, *number, *at) else { return Ok(()) };
        let detail = json!({ "reason": "Too many of its calls failed soon after its deploy and it was quarantined" });
        // Boxed, because a rollback has a large future and happens rarely.
        Box::pin(self.roll_back_from(plugin, Some(*number), Some(previous), &Initiator::host(), detail)).await?;
        Ok(())
    }
}

/// Returns whether the same action may succeed later. It cannot if the release is not live any more, or if the release
/// before it is gone. Everything else may pass: a database that does not respond, a migration that runs meanwhile.
fn may_pass(error: &Error) -> bool {
    const FINAL: [Code; 4] =
        [code::PLUGIN_CHANGED, code::PLUGIN_NOT_FOUND, code::RELEASE_LIVE, code::RELEASE_NOT_FOUND];
    !FINAL.contains(error.code())
}

/// Returns whether only an operator or the end of a deploy can remove the reason of the failure. It is reported once.
fn is_lasting(error: &Error) -> bool {
    [code::SCHEMA_TOO_NEW, code::GRANT_MISSING].contains(error.code())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn a_pending_trip_is_tried_ever_more_rarely_and_never_dropped() {
        let trip = || TrippedRelease { plugin: "items".parse().unwrap(), number: 2, at: Timestamp(0) };
        let mut pending = PendingTrips::default();
        let start = Instant::now();
        pending.push(trip(), start);
        pending.push(trip(), start);
        let mut now = start;
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert!(pending.take_due(now).is_empty(), "{seconds}");
            now += Duration::from_secs(seconds);
            let due = pending.take_due(now);
            assert_eq!(due.len(), 1, "{seconds}");
            due.into_iter().for_each(|trip| pending.put_back(trip, now));
        }
    }
}
