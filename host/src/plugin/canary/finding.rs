//! A difference between the two releases of a trial, and the least that counts as one.

use std::fmt;
use std::time::Duration;

/// The failures that a canary must have before it is worse: a few are no reason to end it, however unlikely they are.
pub(super) const MIN_FAULTS: u64 = 5;
/// A slower release is worse only if its calls take this much longer …
pub(super) const SLOWER: f64 = 1.5;
/// … and longer by at least this, so that microseconds on an idle machine do not count.
pub(super) const NOTICEABLE: Duration = Duration::from_millis(1);

/// A difference between the two releases, for the operator.
#[derive(Debug)]
pub(super) struct Finding {
    /// The probability of a difference of at least this size between equal releases.
    probability: f64,
    text: String,
}

impl Finding {
    pub(super) fn new(probability: f64, text: String) -> Self {
        Self { probability, text }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Below this the probability is not computed exactly.
        write!(f, "{} (p = {:.0e})", self.text, self.probability.max(1e-20))
    }
}
