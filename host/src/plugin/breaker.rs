//! Keeps a release that mostly fails from being called at all, so that it costs its neighbours nothing, and tries from
//! time to time whether it works again. One for each release. Owns the decision; never swaps a release.
//!
//! closed → (faults among the latest calls) → open → (after a while) → half-open: one call at a time probes → closed or
//! open again, for twice as long.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Kind, code};

/// The latest calls that count.
const WINDOW: u32 = 20;
/// Good probes that close it.
const GOOD_PROBES: u32 = 3;
/// The longest time it stays open before a probe, as a multiple of the first.
const MOST_PATIENCE: u32 = 12;

/// See the module.
#[derive(Debug)]
pub struct Breaker {
    clock: Clock,
    /// Faults among the latest [`WINDOW`] calls that open it.
    faults: u32,
    /// How long it stays open at first.
    quarantine: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// The latest calls, newest in the lowest bit; a fault is a 1.
    Closed {
        latest: u32,
        seen: u32,
    },
    Open {
        until: Timestamp,
        patience: u32,
    },
    HalfOpen {
        probing: bool,
        good: u32,
        patience: u32,
    },
}

/// Leave to call; given back with what came of it. Dropped without, the call was given up and counts for nothing.
#[derive(Debug)]
#[must_use]
pub struct Pass<'a> {
    breaker: &'a Breaker,
    probe: bool,
    done: bool,
}

impl Breaker {
    /// A closed one.
    pub fn new(clock: Clock, faults: u32, quarantine: Duration) -> Self {
        let state = Mutex::new(State::Closed { latest: 0, seen: 0 });
        Self { clock, faults: faults.clamp(1, WINDOW), quarantine, state }
    }

    /// Whether a call may be made now.
    ///
    /// # Errors
    /// 503 `plugin_quarantined`, with when to try again.
    pub fn admit(&self) -> Result<Pass<'_>, Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let probe = match &mut *state {
            State::Closed { .. } => false,
            State::Open { until, patience } => {
                let left = until.0.saturating_sub(self.clock.now().0);
                if left > 0 {
                    return Err(quarantined(Duration::from_micros(u64::try_from(left).unwrap_or(0))));
                }
                *state = State::HalfOpen { probing: true, good: 0, patience: *patience };
                true
            }
            State::HalfOpen { probing: true, .. } => return Err(quarantined(Duration::from_secs(1))),
            State::HalfOpen { probing, .. } => {
                *probing = true;
                true
            }
        };
        Ok(Pass { breaker: self, probe, done: false })
    }

    /// Whether calls are refused or only tried.
    pub fn is_open(&self) -> bool {
        !matches!(&*self.state.lock().unwrap_or_else(PoisonError::into_inner), State::Closed { .. })
    }

    fn open(&self, state: &mut State, patience: u32) {
        let until = self.clock.now().plus(self.quarantine.saturating_mul(patience));
        *state = State::Open { until, patience };
    }
}

impl Pass<'_> {
    /// Says what came of the call; answers whether that opened the breaker.
    pub fn done(mut self, fault: bool) -> bool {
        self.done = true;
        let mut state = self.breaker.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Closed { latest, seen } => {
                *latest = ((*latest << 1) | u32::from(fault)) & ((1 << WINDOW) - 1);
                *seen = seen.saturating_add(1).min(WINDOW);
                // Half of what was seen, so that a lasting small share of faults, such as one bad route, opens nothing.
                let faults = latest.count_ones();
                let opens = fault && faults >= self.breaker.faults && faults * 2 >= *seen;
                if opens {
                    self.breaker.open(&mut state, 1);
                }
                opens
            }
            State::HalfOpen { probing, good, patience } if self.probe => {
                *probing = false;
                if fault {
                    let patience = patience.saturating_mul(2).min(MOST_PATIENCE);
                    self.breaker.open(&mut state, patience);
                } else {
                    *good += 1;
                    if *good >= GOOD_PROBES {
                        *state = State::Closed { latest: 0, seen: 0 };
                    }
                }
                false
            }
            // A call that began before the breaker opened.
            State::Open { .. } | State::HalfOpen { .. } => false,
        }
    }
}

impl Drop for Pass<'_> {
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
    let text = "The plugin failed too often and is being left alone for a while";
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
        breaker.admit().map(|pass| pass.done(fault))
    }

    fn trip(breaker: &Breaker) {
        for number in 1..=10 {
            assert_eq!(call(breaker, true).unwrap(), number == 10);
        }
    }

    #[test]
    fn it_opens_once_and_says_when_to_come_back() {
        let (clock, breaker) = breaker();
        trip(&breaker);
        let refused = call(&breaker, false).unwrap_err();
        assert_eq!(*refused.kind(), Kind::Unavailable(QUARANTINE));
        clock.advance(Duration::from_secs(4));
        assert_eq!(*call(&breaker, false).unwrap_err().kind(), Kind::Unavailable(Duration::from_secs(1)));
    }

    #[test]
    fn a_small_share_of_faults_opens_nothing() {
        let (_, breaker) = breaker();
        for number in 0..1_000 {
            assert!(!call(&breaker, number % 3 == 0).unwrap());
        }
        assert!(!breaker.is_open());
    }

    #[test]
    fn one_probe_at_a_time_and_three_good_ones_close_it() {
        let (clock, breaker) = breaker();
        trip(&breaker);
        clock.advance(QUARANTINE);
        let probe = breaker.admit().unwrap();
        assert!(breaker.admit().is_err(), "a second call while one probes");
        probe.done(false);
        // A probe whose caller went away leaves its place to the next.
        drop(breaker.admit().unwrap());
        assert!(!call(&breaker, false).unwrap() && !call(&breaker, false).unwrap());
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_bad_probe_doubles_the_wait_up_to_a_minute() {
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
