//! The supervisor: the automatic actions of the host on plugins. It aborts canaries that go badly and advances those
//! that go well, rolls back a fresh deploy whose breaker opens, and reports dropped log records. Runs next to the
//! server until it stops.

use std::sync::PoisonError;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::breaker::TrippedRelease;
use super::initiator::Initiator;
use super::registry::Registry;
use crate::error::Result;

/// The time between two checks of canaries and logs.
const INTERVAL: Duration = Duration::from_secs(1);

impl Registry {
    /// Supervises until `stopping`. A second call returns at once.
    pub async fn supervise(&self, stopping: CancellationToken) {
        let trips = self.trips.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut trips) = trips else { return };
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let outcome = tokio::select! {
                () = stopping.cancelled() => return,
                Some(tripped) = trips.recv() => self.handle_trip(&tripped).await,
                _ = interval.tick() => {
                    self.logs.log_dropped();
                    self.judge_canaries().await
                }
            };
            if let Err(error) = outcome {
                tracing::error!(error = error.report(), "a plugin could not be supervised; trying again");
            }
        }
    }

    /// Aborts the release if it is a canary, or rolls it back if it is on probation.
    async fn handle_trip(&self, TrippedRelease { plugin, number }: &TrippedRelease) -> Result<()> {
        if self.abort_tripped(plugin, *number).await? {
            return Ok(());
        }
        let Some(previous) = self.probations.fallback(plugin, *number, self.clock.now()) else { return Ok(()) };
        let detail = json!({ "reason": "Too many of its calls failed soon after its deploy and it was quarantined" });
        self.roll_back_from(plugin, Some(*number), Some(previous), &Initiator::host(), detail).await?;
        Ok(())
    }
}
