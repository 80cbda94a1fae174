//! When a canary is looked at, and how certain a judgement must be. Owns the budget of false alarms: over all looks and
//! steps of a trial together, equal releases are condemned with a probability of at most [`FALSE_ALARMS`].
//!
//! Each look at growing counts is one more chance of a false alarm. So a look needs a quarter more calls than the one
//! before it, and the budget is spent over the looks of a step as 1/1², 1/2², 1/3², …, whose sum is π²/6. By
//! Boole's inequality the sum bounds the probability of any false alarm, however many looks there are and however the
//! looks depend on each other.

use std::f64::consts::PI;

/// The share of trials of two equal releases that may be ended.
pub(super) const FALSE_ALARMS: f64 = 0.001;
/// The tests of one look: failures and times.
const TESTS: f64 = 2.0;

/// The looks at one step.
#[derive(Debug, Default)]
pub(super) struct Looks {
    made: u32,
    /// The number of calls that the next look needs.
    next: u64,
}

impl Looks {
    /// Returns the probability that a result must stay below to count, if a look is due at this number of calls of the
    /// canary in this step. `steps` is the number of steps of the trial.
    pub(super) fn due(&mut self, calls: u64, minimum: u64, steps: usize) -> Option<f64> {
        if calls < minimum.max(self.next) {
            return None;
        }
        self.made = self.made.saturating_add(1);
        self.next = calls.saturating_add((calls / 4).max(1));
        let steps = f64::from(u32::try_from(steps.max(1)).unwrap_or(u32::MAX));
        let share = 6.0 / (PI * f64::from(self.made)).powi(2);
        Some(FALSE_ALARMS / TESTS / steps * share)
    }

    /// Returns whether the step was looked at.
    pub(super) fn has_begun(&self) -> bool {
        self.made > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_looks_of_all_steps_together_spend_the_budget_and_no_more() {
        let mut spent = 0.0;
        for _ in 0..3 {
            let mut looks = Looks::default();
            let due = (0..10_000_000).step_by(10).filter_map(|calls| looks.due(calls, 100, 3));
            spent += due.sum::<f64>() * TESTS;
        }
        assert!(spent <= FALSE_ALARMS && spent > FALSE_ALARMS * 0.9, "{spent}");
    }

    #[test]
    fn looks_become_rarer_as_calls_grow() {
        let mut looks = Looks::default();
        assert_eq!(looks.due(99, 100, 1), None);
        assert!(!looks.has_begun());
        let first = looks.due(100, 100, 1).unwrap();
        assert!(looks.has_begun());
        assert_eq!(looks.due(124, 100, 1), None);
        assert!(looks.due(125, 100, 1).unwrap() < first);
        // Few calls are looked at one by one.
        let mut looks = Looks::default();
        assert!(looks.due(1, 1, 1).is_some() && looks.due(1, 1, 1).is_none() && looks.due(2, 1, 1).is_some());
    }
}
