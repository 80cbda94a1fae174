//! The circuit breaker of a release: stops calls to a release that mostly fails, so that it costs the other plugins
//! nothing, and probes from time to time whether it works again. Owns the decision; never swaps a release.
//!
//! closed → (at least half of the recent calls fail) → open → (after the quarantine) → half-open: one call at a time
//! probes → closed, or open again for twice as long.
//!
//! A call of a release that works takes no lock: its admission and its success change nothing.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
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
    /// The [`Summary`] of the state, which changes under its lock. A call that reads it while another one changes it counts
    /// as the earlier of the two.
    summary: AtomicU8,
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
        /// In monotonic time: a clock that is set back does not keep it open.
        until: Duration,
        backoff: u32,
    },
    HalfOpen {
        probing: bool,
        successes: u32,
        backoff: u32,
    },
}

/// As much of the state as most calls need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Summary {
    /// Calls are refused, or only probes are admitted.
    NotClosed,
    /// All calls are admitted.
    Closed,
    /// All calls are admitted, and another success changes nothing: the recent calls are [`WINDOW`] successes.
    Faultless,
}

impl State {
    fn summary(&self) -> Summary {
        match self {
            Self::Closed { latest: 0, seen: WINDOW } => Summary::Faultless,
            Self::Closed { .. } => Summary::Closed,
            Self::Open { .. } | Self::HalfOpen { .. } => Summary::NotClosed,
        }
    }
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
        let state = State::Closed { latest: 0, seen: 0 };
        let summary = AtomicU8::new(state.summary() as u8);
        Self { clock, faults: faults.clamp(1, WINDOW), quarantine, state: Mutex::new(state), summary }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the state has this summary.
    fn is(&self, summary: Summary) -> bool {
        self.summary.load(Ordering::Acquire) == summary as u8
    }

    /// Replaces the summary after a change of the state, which is still locked.
    fn summarize(&self, state: &State) {
        self.summary.store(state.summary() as u8, Ordering::Release);
    }

    /// Admits a call if the breaker is closed, or as a probe.
    ///
    /// # Errors
    /// 503 `plugin_quarantined`, with when to try again.
    pub fn admit(&self) -> Result<Admission<'_>, Error> {
        if !self.is(Summary::NotClosed) {
            return Ok(Admission { breaker: self, probe: false, done: false });
        }
        let mut state = self.lock();
        let probe = match &mut *state {
            State::Closed { .. } => false,
            State::Open { until, backoff } => {
                let left = until.saturating_sub(self.clock.monotonic());
                if !left.is_zero() {
                    return Err(quarantined(left));
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
        self.is(Summary::NotClosed)
    }

    /// Returns whether a call would be refused now.
    pub fn refuses(&self) -> bool {
        match &*self.lock() {
            State::Closed { .. } => false,
            State::Open { until, .. } => *until > self.clock.monotonic(),
            State::HalfOpen { probing, .. } => *probing,
        }
    }

    fn open(&self, state: &mut State, backoff: u32) {
        let until = self.clock.monotonic().saturating_add(self.quarantine.saturating_mul(backoff));
        *state = State::Open { until, backoff };
    }
}

impl Admission<'_> {
    /// Records whether the call failed. Returns whether that opened the breaker.
    pub fn done(mut self, fault: bool) -> bool {
        self.done = true;
        if !fault && !self.probe && self.breaker.is(Summary::Faultless) {
            return false;
        }
        let mut state = self.breaker.lock();
        let opens = self.record(&mut state, fault);
        self.breaker.summarize(&state);
        opens
    }

    /// Adds the outcome to the state. Returns whether that opened the breaker.
    fn record(&self, state: &mut State, fault: bool) -> bool {
        match state {
            State::Closed { latest, seen } => {
                *latest = ((*latest << 1) | u32::from(fault)) & ((1 << WINDOW) - 1);
                *seen = seen.saturating_add(1).min(WINDOW);
                // Half of the recent calls, so that a lasting small share of faults, such as one bad route, does not
                // open it.
                let faults = latest.count_ones();
                let opens = fault && faults >= self.breaker.faults && faults * 2 >= *seen;
                if opens {
                    self.breaker.open(state, 1);
                }
                opens
            }
            State::HalfOpen { probing, successes, backoff } if self.probe => {
                *probing = false;
                if fault {
                    let backoff = backoff.saturating_mul(2).min(MAX_BACKOFF);
                    self.breaker.open(state, backoff);
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
        let mut state = self.breaker.lock();
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
    fn a_clock_that_is_set_back_does_not_keep_it_open() {
        let (clock, breaker) = breaker();
        trip(&breaker);
        clock.set_back(Duration::from_secs(3_600));
        assert!(breaker.refuses());
        clock.advance(QUARANTINE);
        assert!(!breaker.refuses());
        assert!(!call(&breaker, false).unwrap());
    }

    #[test]
    fn it_opens_after_a_long_time_without_faults_and_closes_again() {
        let (clock, breaker) = breaker();
        for _ in 0..2 {
            for _ in 0..100 {
                assert!(!call(&breaker, false).unwrap());
            }
            trip(&breaker);
            assert!(breaker.is_open() && call(&breaker, false).is_err());
            clock.advance(QUARANTINE);
            for _ in 0..SUCCESSFUL_PROBES {
                assert!(!call(&breaker, false).unwrap());
            }
            assert!(!breaker.is_open());
        }
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
