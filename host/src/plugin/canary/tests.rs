//! Simulations of trials, with seeded randomness: equal releases are condemned as seldom as stated, and a real fault is
//! found.

use std::time::Duration;

use super::callers::Callers;
use super::calls::{self, RoutePair};
use super::looks::{FALSE_ALARMS, Looks};
use super::{Share, Verdict};
use crate::plugin::call_stats::{CallOutcome, CallStats, EndedCall};

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        f64::from((z ^ (z >> 31)) as u32) / f64::from(u32::MAX)
    }

    fn happens(&mut self, probability: f64) -> bool {
        self.roll() < probability
    }
}

fn call(route: usize, millis: f64, is_fault: bool) -> EndedCall {
    let outcome = if is_fault { CallOutcome::ServerError } else { CallOutcome::Success };
    EndedCall { route, took: Duration::from_secs_f64(millis / 1e3), outcome, is_evidence: true }
}

/// Callers that differ as those of a real service: some are heavy, some send requests that always fail, and some use a
/// slow route. None of that depends on the release.
struct Crowd {
    callers: usize,
    share: f64,
    /// The probability that a call of the canary fails in addition, and the factor of its times.
    defect: (f64, f64),
}

impl Crowd {
    /// Lets the callers come one after the other. Returns whether the judge condemns the canary in one of its looks, with
    /// a budget of false alarms that is `budget` times the stated one.
    fn is_condemned(&self, dice: &mut Dice, budget: f64) -> bool {
        let (callers, mut looks, mut canary_calls) = (Callers::default(), Looks::default(), 0);
        for caller in 0..self.callers {
            let on_canary = dice.happens(self.share);
            let calls = if dice.happens(0.05) { 60 } else { 1 + (dice.roll() * 6.0) as u64 };
            let fails = if dice.happens(0.1) { 0.7 } else { 0.01 };
            let slow = if dice.happens(0.2) { 50.0 } else { 2.0 };
            let (defect, slower) = if on_canary { self.defect } else { (0.0, 1.0) };
            for _ in 0..calls {
                let is_fault = dice.happens(fails) || dice.happens(defect);
                callers.record(caller as u64, on_canary, &call(0, slow * slower * (0.5 + dice.roll()), is_fault));
            }
            canary_calls += if on_canary { calls } else { 0 };
            if let Some(threshold) = looks.due(canary_calls, 100, 1)
                && callers.compare(threshold * budget).is_some()
            {
                return true;
            }
        }
        false
    }

    fn condemned(&self, trials: u32, budget: f64) -> u32 {
        let mut dice = Dice(42);
        (0..trials).map(|_| u32::from(self.is_condemned(&mut dice, budget))).sum()
    }
}

const EQUAL: (f64, f64) = (0.0, 1.0);

/// A budget of 5 % instead of 0.1 %, so that a few hundred trials show a judge that exceeds it.
const BUDGET: f64 = 0.05 / FALSE_ALARMS;

#[test]
fn equal_releases_are_condemned_as_seldom_as_stated() {
    for share in [0.05, 0.5] {
        let condemned = Crowd { callers: 400, share, defect: EQUAL }.condemned(200, BUDGET);
        // At most 10 of 200 are expected; 20 are more than three standard deviations above that.
        assert!(condemned <= 20, "{condemned} of 200 at {share}");
    }
}

#[test]
fn a_real_fault_is_found() {
    // One call in ten fails, in a tenth of the traffic.
    let found = Crowd { callers: 1_000, share: 0.1, defect: (0.1, 1.0) }.condemned(20, 1.0);
    assert!(found >= 18, "{found} of 20");
    // Every call takes three times as long.
    let found = Crowd { callers: 600, share: 0.1, defect: (0.0, 3.0) }.condemned(20, 1.0);
    assert!(found >= 18, "{found} of 20");
}

#[test]
fn one_fault_or_one_heavy_caller_condemns_no_canary() {
    let quiet = |callers: &Callers| {
        for caller in 0..950 {
            callers.record(caller, false, &call(0, 2.0, false));
        }
        for caller in 950..1_000 {
            callers.record(caller, true, &call(0, 2.0, false));
        }
    };
    let one = Callers::default();
    quiet(&one);
    one.record(999, true, &call(0, 2.0, true));
    assert!(one.compare(0.01).is_none(), "one fault in a share of 5 % against none");
    let heavy = Callers::default();
    quiet(&heavy);
    for _ in 0..5_000 {
        heavy.record(999, true, &call(0, 900.0, true));
    }
    assert!(heavy.compare(0.01).is_none());
    // The same faults, spread over a few callers, condemn it.
    for caller in 990..999 {
        heavy.record(caller, true, &call(0, 2.0, true));
    }
    assert!(heavy.compare(1e-6).is_some());
}

#[test]
fn a_release_that_hangs_is_found_even_if_every_caller_leaves() {
    let callers = Callers::default();
    for caller in 0..400_u64 {
        let on_canary = caller % 20 == 0;
        for _ in 0..5 {
            let ended = call(0, 2.0, false);
            let left = EndedCall { took: Duration::from_secs(3), outcome: CallOutcome::Cancelled, ..ended };
            callers.record(caller, on_canary, if on_canary { &left } else { &ended });
        }
    }
    assert!(callers.compare(1e-6).is_some());
}

#[test]
fn calls_of_equal_releases_are_condemned_as_seldom_as_stated() {
    let mut dice = Dice(7);
    let mut condemned = 0;
    for _ in 0..200 {
        // A rare route that fails often and a common one that fails seldom, in different proportions.
        let mix = [0.1 + 0.4 * dice.roll(), 0.1 + 0.4 * dice.roll()];
        let [live, canary] = [(mix[0], 1_000), (mix[1], 150)].map(|(rare, calls)| {
            let stats = CallStats::new(2);
            for _ in 0..calls {
                let route = usize::from(dice.happens(rare));
                let (fails, millis) = if route == 1 { (0.3, 40.0) } else { (0.01, 2.0) };
                stats.record(&call(route, millis * (0.5 + dice.roll()), dice.happens(fails)));
            }
            stats.counts()
        });
        let pairs: Vec<RoutePair> = [0, 1]
            .map(|route| RoutePair {
                live: live.route(route).unwrap().clone(),
                canary: canary.route(route).unwrap().clone(),
            })
            .into();
        condemned += u32::from(calls::compare(&pairs, 0.025).is_some());
    }
    assert!(condemned <= 20, "{condemned} of 200 at 5 %");
}

/// The calls of one caller resemble each other, and with a share of 100 % the two releases serve different callers at
/// different times. There a difference between calls is no proof.
#[test]
fn equal_releases_with_clustered_callers_are_not_condemned_at_a_share_of_all() {
    let mut dice = Dice(11);
    let (mut found, mut doubts, mut condemned) = (0, 0, 0);
    for _ in 0..200 {
        let [live, canary] = [60, 30].map(|callers| {
            let stats = CallStats::new(1);
            for _ in 0..callers {
                let calls = if dice.happens(0.05) { 60 } else { 1 + (dice.roll() * 6.0) as u64 };
                let fails = if dice.happens(0.1) { 0.7 } else { 0.01 };
                (0..calls).for_each(|_| stats.record(&call(0, 2.0, dice.happens(fails))));
            }
            stats.counts()
        });
        let pair = RoutePair { live: live.route(0).unwrap().clone(), canary: canary.route(0).unwrap().clone() };
        let finding = calls::compare(&[pair], 0.001);
        let mut verdict = Verdict::default();
        verdict.note_calls(Share::ALL, finding.as_ref());
        found += u32::from(finding.is_some());
        doubts += u32::from(verdict.doubt.is_some());
        condemned += u32::from(verdict.worse.is_some());
    }
    assert!(found > 5, "{found} of 200 at 0.2 %: the comparison of calls is no proof");
    assert_eq!((doubts, condemned), (found, 0));
}

#[test]
fn shares_are_read_exactly() {
    let percent = |text: &str| text.parse::<Share>().map(Share::percent);
    for (text, expected) in [("5%", 5.0), ("0.5%", 0.5), ("12.25%", 12.25), ("100%", 100.0), ("header", 0.0)] {
        assert_eq!(percent(text), Ok(expected), "{text}");
    }
    for text in ["", "5", "%", "101%", "-1%", "1.234%", "1e1%", "100.01%", ".5%", "999%", "５%"] {
        assert!(percent(text).is_err(), "{text}");
    }
}
