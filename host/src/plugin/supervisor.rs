//! What the host does with plugins by itself: ends trials that go badly and moves on those that go well, takes back a fresh
//! deploy whose breaker opens, and tells what was left out of a log. Runs beside the server until it stops.

use std::sync::PoisonError;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::deploy::By;
use super::registry::{Registry, Tripped};

/// Between two looks at trials and logs.
const LOOK: Duration = Duration::from_secs(1);

impl Registry {
    /// Supervises until `stopping`; a second call has nothing to do.
    pub async fn supervise(&self, stopping: CancellationToken) {
        let trips = self.trips.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut trips) = trips else { return };
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let outcome = tokio::select! {
                () = stopping.cancelled() => return,
                Some(tripped) = trips.recv() => self.answer_trip(&tripped).await,
                _ = looks.tick() => {
                    self.logs.tell_dropped();
                    self.judge_trials().await
                }
            };
            if let Err(error) = outcome {
                tracing::error!(error = error.report(), "a plugin could not be supervised; trying again");
            }
        }
    }

    /// A release on trial ends its trial; one that was deployed lately gives way to the one before it.
    async fn answer_trip(&self, tripped: &Tripped) -> crate::error::Result<()> {
        if self.abort_tripped(&tripped.plugin, tripped.release).await? {
            return Ok(());
        }
        let _turn = self.changing.lock().await;
        let previous = {
            let probation = self.probation.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = probation.get(&tripped.plugin);
            fresh
                .filter(|fresh| fresh.release == tripped.release && self.clock.now() < fresh.until)
                .map(|fresh| fresh.previous)
        };
        let Some(previous) = previous else { return Ok(()) };
        let detail = json!({ "reason": "It failed too often soon after its deploy and was quarantined" });
        self.roll_back_in_turn(&tripped.plugin, Some(previous), &By::host(), detail).await?;
        Ok(())
    }
}
