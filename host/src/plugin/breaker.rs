//! The circuit breaker of a release: stops calls to a release that mostly fails, so that it costs the other plugins
//! nothing, and probes from time to time whether it works again. Owns the decision; never swaps a release.
//!
//! closed → (at least half of the recent calls fail) → open → (after the quarantine) → half-open: one call at a time
//! probes → closed, or open again for twice as long.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Kind, code};
use crate::id::PluginName;

/// The number of recent calls that count.
const WINDOW: u32 = 20;
/// The number of successful probes that close it.
const SUCCESSFUL_PROBES: u32 = 3;
/// The longest time it stays open before a probe, as a multiple of the quarantine.
const MAX_BACKOFF: u32 = 12;

/// See the module.
#[derive(Debug)]
pub struct Breaker {
    clock: Clock,
    /// The number of faults among the recent [`WINDOW`] calls that opens it, if they are half of these calls.
    faults: u32,
    /// How long it stays open the first time.
    quarantine: Duration,
    state: Mutex<State>,
}

/// A release whose breaker opened.
#[derive(Debug)]
pub(super) struct TrippedRelease {
    pub(super) plugin: PluginName,
    pub(super) number: i64,
    /// When it opened.
    pub(super) at: Timestamp,
}

impl TrippedRelease {
    /// Returns whether both are trips of one release.
    pub(super) fn is_same_release(&self, other: &Self) -> bool {
        self.plugin == other.plugin && self.number == other.number
    }
}

#[derive(Debug)]
enum State {
    /// The recent calls, the newest in the lowest bit; a fault is a 1.
    Closed {
        latest: u32,
        seen: u32,
    },
    Open {
        until: Timestamp,
        backoff: u32,
    },
    HalfOpen {
        probing: bool,
        successes: u32,
        backoff: u32,
    },
}

/// The permission to call, to be completed with the outcome. If it is dropped instead, the call was cancelled or says
/// nothing about the release, and does not count.
#[derive(Debug)]
#[must_use]
pub struct Admission<'a> {
    breaker: &'a Breaker,
    probe: bool,
    done: bool,
}

impl Breaker {
    /// Creates a closed breaker.
    pub fn new(clock: Clock, faults: u32, quarantine: Duration) -> Self {
        let state = Mutex::new(State::Closed { latest: 0, seen: 0 });
        Self { clock, faults: faults.clamp(1, WINDOW), quarantine, state }
    }

    /// Admits a call if the breaker is closed, or as a probe.
    ///
    /// # Errors
    /// 503 `plugin_quarantined`, with when to try again.
    pub fn admit(&self) -> Result<Admission<'_>, Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let probe = match &mut *state {
            State::Closed { .. } => false,
            State::Open { until, backoff } => {
                let left = until.0.saturating_sub(self.clock.now().0);
                if left > 0 {
                    return Err(quarantined(Duration::from_micros(u64::try_from(left).unwrap_or(0))));
                }
                *state = State::HalfOpen { probing: true, successes: 0, backoff: *backoff };
                true
            }
            State::HalfOpen { probing: true, .. } => return Err(quarantined(Duration::from_secs(1))),
            State::HalfOpen { probing, .. } => {
                *probing = true;
                true
            }
        };
        Ok(Admission { breaker: self, probe, done: false })
    }

    /// Returns whether calls are refused or only probes are admitted.
    pub fn is_open(&self) -> bool {
        !matches!(&*self.state.lock().unwrap_or_else(PoisonError::into_inner), State::Closed { .. })
    }

    /// Returns whether a call would be refused now.
    pub fn refuses(&self) -> bool {
        match &*self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Closed { .. } => false,
            State::Open { until, .. } => *until > self.clock.now(),
            State::HalfOpen { probing, .. } => *probing,
        }
    }

    fn open(&self, state: &mut State, backoff: u32) {
        let until = self.clock.now().plus(self.quarantine.saturating_mul(backoff));
        *state = State::Open { until, backoff };
    }
}

impl Admission<'_> {
    /// Records whether the call failed. Returns whether that opened the breaker.
    pub fn done(mut self, fault: bool) -> bool {
        self.done = true;
        let mut state = self.breaker.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Closed { latest, seen } => {
                *latest = ((*latest << 1) | u32::from(fault)) & ((1 << WINDOW) - 1);
                *seen = seen.saturating_add(1).min(WINDOW);
                // Half of the recent calls, so that a lasting small share of faults, such as one bad route, does not
                // open it.
                let faults = latest.count_ones();
                let opens = fault && faults >= self.breaker.faults && faults * 2 >= *seen;
                if opens {
                    self.breaker.open(&mut state, 1);
                }
                opens
            }
            State::HalfOpen { probing, successes, backoff } if self.probe => {
                *probing = false;
                if fault {
                    let backoff = backoff.saturating_mul(2).min(MAX_BACKOFF);
                    self.breaker.open(&mut state, backoff);
                } else {
                    *successes += 1;
                    if *successes >= SUCCESSFUL_PROBES {
                        *state = State::Closed { latest: 0, seen: 0 };
                    }
                }
                false
            }
            // The call began before the breaker opened.
            State::Open { .. } | State::HalfOpen { .. } => false,
        }
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if self.done || !self.probe {
            return;
        }
        let mut state = self.breaker.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::HalfOpen { probing, .. } = &mut *state {
            *probing = false;
        }
    }
}

fn quarantined(retry: Duration) -> Error {
    let text = "The plugin is quarantined because too many of its calls failed, try again later";
    Error::new(Kind::Unavailable(retry), code::PLUGIN_QUARANTINED, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUARANTINE: Duration = Duration::from_secs(5);

    fn breaker() -> (Clock, Breaker) {
        let clock = Clock::manual(Timestamp(1_800_000_000_000_000));
        (clock.clone(), Breaker::new(clock, 10, QUARANTINE))
    }

    fn call(breaker: &Breaker, fault: bool) -> Result<bool, Error> {
        breaker.admit().map(|admission| admission.done(fault))
    }

    fn trip(breaker: &Breaker) {
        for number in 1..=10 {
            assert_eq!(call(breaker, true).unwrap(), number == 10);
        }
    }

    #[test]
    fn it_opens_once_and_reports_when_to_retry() {
        let (clock, breaker) = breaker();
        trip(&breaker);
        let refused = call(&breaker, false).unwrap_err();
        assert_eq!(*refused.kind(), Kind::Unavailable(QUARANTINE));
        clock.advance(Duration::from_secs(4));
        assert_eq!(*call(&breaker, false).unwrap_err().kind(), Kind::Unavailable(Duration::from_secs(1)));
    }

    #[test]
    fn a_small_share_of_faults_does_not_open_it() {
        let (_, breaker) = breaker();
        for number in 0..1_000 {
            assert!(!call(&breaker, number % 3 == 0).unwrap());
        }
        assert!(!breaker.is_open());
    }

    #[test]
    fn three_successful_probes_one_at_a_time_close_it() {
        let (clock, breaker) = breaker();
        trip(&breaker);
        clock.advance(QUARANTINE);
        let probe = breaker.admit().unwrap();
        assert!(breaker.admit().is_err(), "a second call while one probes");
        probe.done(false);
        // A cancelled probe lets the next call probe.
        drop(breaker.admit().unwrap());
        assert!(!call(&breaker, false).unwrap() && !call(&breaker, false).unwrap());
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_failed_probe_doubles_the_wait_up_to_a_minute() {
        let (clock, breaker) = breaker();
        trip(&breaker);
        for seconds in [5, 10, 20, 40, 60, 60] {
            clock.advance(Duration::from_secs(seconds - 1));
            assert!(breaker.admit().is_err(), "{seconds}");
            clock.advance(Duration::from_secs(1));
            assert!(!call(&breaker, true).unwrap(), "it is open already");
        }
    }
}
