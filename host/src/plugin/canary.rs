//! A canary: a release that serves some callers next to the live one. Owns the plan of the canary, the choice of
//! callers and the statistical comparison of the two releases; never swaps anything. `canary_rollout` acts on the
//! comparison.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::call_stats::Counts;
use super::release::Release;
use crate::clock::Timestamp;
use crate::error::{Error, Result};

/// The certainty that a judgement needs, in standard deviations. A single look would need 2.3 (1 in 100). Because the
/// host looks every second, it needs more: 3.5 is 1 in 4,300.
const CERTAINTY: f64 = 3.5;
/// A slower release is worse only if its median is this much slower …
const SLOWER: f64 = 1.5;
/// … and by at least this, so that microseconds on an idle machine do not count.
const NOTICEABLE: Duration = Duration::from_millis(1);

/// The share of callers that a canary serves, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Share(u16);

impl Share {
    /// All callers.
    pub const ALL: Self = Self(10_000);

    /// Returns the share in percent.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl FromStr for Share {
    type Err = String;

    /// Parses `5%`, `0.5%`, `100%`. `header` and `0%` mean only requests that ask for the canary in a header.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || format!("'{text}' is not a share such as 5% or 0.5%");
        if text == "header" {
            return Ok(Self(0));
        }
        let number = text.strip_suffix('%').ok_or_else(refuse)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || whole.len() > 3 || part.len() > 2 || !digits(whole) || !digits(part) {
            return Err(refuse());
        }
        let hundredths = format!("{part:0<2}");
        let (whole, part): (u16, u16) =
            (whole.parse().map_err(|_| refuse())?, hundredths.parse().map_err(|_| refuse())?);
        Some(whole.saturating_mul(100).saturating_add(part))
            .filter(|share| *share <= 10_000)
            .map(Self)
            .ok_or_else(refuse)
    }
}

/// The plan of a canary. Stored as JSON while the canary runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Shares, one after the other. After the last of several the release is promoted; a single one stays.
    pub steps: Vec<Share>,
    /// The minimum duration of each of several steps.
    #[serde(with = "millis")]
    pub hold: Duration,
    /// The number of calls that the canary needs before it is judged and before a step ends.
    pub minimum: u64,
}

/// Durations as whole milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// A canary as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredCanary {
    pub(super) release: i64,
    pub(super) plan: Plan,
    pub(super) step: usize,
    pub(super) since: Timestamp,
}

/// See the module.
pub struct Canary {
    /// The release of the canary.
    pub release: Arc<Release>,
    /// The plan of the canary.
    pub plan: Plan,
    /// The index of the present step.
    pub step: usize,
    /// When the present step began.
    pub since: Timestamp,
    /// The live release's counts when the canary began; those of the canary began at zero.
    pub(super) baseline: Counts,
}

/// The calls of one of the two releases while the canary runs.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct Summary {
    /// Number of the release.
    pub release: i64,
    /// Number of calls.
    pub calls: u64,
    /// Calls that failed by the plugin's fault: traps, limits, deadlines, responses of 500 and above.
    pub faults: u64,
    /// Calls that failed because a service of the host failed. They are not held against the release.
    pub dependency: u64,
    /// Half of the calls took no longer, in microseconds.
    pub p50_micros: Option<u64>,
    /// 95 of 100 took no longer.
    pub p95_micros: Option<u64>,
    /// 99 of 100 took no longer.
    pub p99_micros: Option<u64>,
}

impl Summary {
    fn of(release: &Release, counts: &Counts) -> Self {
        let micros = |share| counts.quantile(share).map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        Self {
            release: release.record.number,
            calls: counts.calls(),
            faults: counts.faults,
            dependency: counts.dependency,
            p50_micros: micros(0.5),
            p95_micros: micros(0.95),
            p99_micros: micros(0.99),
        }
    }
}

/// The comparison of the two releases.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct Comparison {
    /// The live release, since the canary began.
    pub live: Summary,
    /// The canary.
    pub candidate: Summary,
    /// Why the canary is certainly worse; `None` if it is not, or if there are too few calls.
    pub worse: Option<String>,
}

impl Canary {
    /// Starts a canary.
    pub(super) fn new(release: Arc<Release>, plan: Plan, live: &Release, now: Timestamp) -> Self {
        Self { release, plan, step: 0, since: now, baseline: live.stats.counts() }
    }

    /// Returns the canary at another step, which begins now.
    pub(super) fn at_step(&self, step: usize, now: Timestamp) -> Self {
        Self {
            release: Arc::clone(&self.release),
            plan: self.plan.clone(),
            step,
            since: now,
            baseline: self.baseline.clone(),
        }
    }

    /// Returns the present share of callers.
    pub fn share(&self) -> Share {
        self.plan.steps.get(self.step).copied().unwrap_or(Share(0))
    }

    /// Returns whether the canary serves a caller. The choice is stable for each caller, and a larger share only adds
    /// callers.
    pub fn chooses(&self, caller: &str) -> bool {
        let record = &self.release.record;
        let hash = Sha256::digest(format!("{}\n{}\n{caller}", record.plugin, record.number));
        let number = hash.iter().take(8).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
        number % u64::from(Share::ALL.0) < u64::from(self.share().0)
    }

    /// Compares the canary with the live release.
    pub fn compare(&self, live: &Release) -> Comparison {
        let live_counts = live.stats.counts().since(&self.baseline);
        let canary_counts = self.release.stats.counts();
        // If the live release had too few calls since the canary began, all its calls since it was loaded are the
        // better measure.
        let measure = if live_counts.calls() < self.plan.minimum { live.stats.counts() } else { live_counts.clone() };
        Comparison {
            live: Summary::of(live, &live_counts),
            candidate: Summary::of(&self.release, &canary_counts),
            worse: if canary_counts.calls() < self.plan.minimum { None } else { worse(&measure, &canary_counts) },
        }
    }

    pub(super) fn to_json(&self) -> Result<String> {
        let stored = StoredCanary {
            release: self.release.record.number,
            plan: self.plan.clone(),
            step: self.step,
            since: self.since,
        };
        serde_json::to_string(&stored).map_err(Error::internal)
    }
}

/// Returns why the canary is certainly worse.
fn worse(live: &Counts, canary: &Counts) -> Option<String> {
    let sure = faults_differ(live, canary);
    if sure > CERTAINTY {
        return Some(format!(
            "{} of {} calls failed, against {} of {} of the live release ({sure:.1} standard deviations)",
            canary.faults,
            canary.calls(),
            live.faults,
            live.calls()
        ));
    }
    let sure = times_differ(live, canary);
    let (before, now) = (live.quantile(0.5)?, canary.quantile(0.5)?);
    let slower = now.as_secs_f64() >= before.as_secs_f64() * SLOWER && now >= before + NOTICEABLE;
    (sure > CERTAINTY && slower).then(|| {
        format!(
            "half of the calls took up to {} µs, against {} µs of the live release ({sure:.1} standard deviations)",
            now.as_micros(),
            before.as_micros()
        )
    })
}

/// The two-proportion z-test with a pooled variance (NIST/SEMATECH e-Handbook of Statistical Methods, 7.3.3).
#[allow(clippy::cast_precision_loss, reason = "counts of calls")]
fn faults_differ(live: &Counts, canary: &Counts) -> f64 {
    let (n, m) = (live.calls() as f64, canary.calls() as f64);
    if n == 0.0 || m == 0.0 {
        return 0.0;
    }
    let pooled = (live.faults + canary.faults) as f64 / (n + m);
    let deviation = (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt();
    if deviation == 0.0 { 0.0 } else { (canary.faults as f64 / m - live.faults as f64 / n) / deviation }
}

/// The Mann-Whitney U test, normal approximation with the correction for ties (Mann and Whitney 1947; Siegel and
/// Castellan 1988, section 6.4): it assumes no distribution of latencies, and times in one bucket are ties.
#[allow(clippy::cast_precision_loss, reason = "counts of calls")]
fn times_differ(live: &Counts, canary: &Counts) -> f64 {
    let (n, m) = (live.calls() as f64, canary.calls() as f64);
    if n == 0.0 || m == 0.0 {
        return 0.0;
    }
    let (mut faster, mut wins, mut ties) = (0.0, 0.0, 0.0);
    for (live_count, canary_count) in live.zip(canary) {
        let (live_count, canary_count) = (live_count as f64, canary_count as f64);
        wins += canary_count * (faster + live_count / 2.0);
        faster += live_count;
        let tied = live_count + canary_count;
        ties += tied * tied * tied - tied;
    }
    let all = n + m;
    let variance = n * m / 12.0 * (all + 1.0 - ties / (all * (all - 1.0)));
    if variance <= 0.0 { 0.0 } else { (wins - n * m / 2.0) / variance.sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::call_stats::{CallOutcome, CallStats};

    fn counts(calls: &[(u64, u64, u64)]) -> Counts {
        let stats = CallStats::default();
        for (number, micros, faults) in calls {
            for index in 0..*number {
                let outcome = if index < *faults { CallOutcome::Trap } else { CallOutcome::Success };
                stats.record(Duration::from_micros(*micros), outcome);
            }
        }
        stats.counts()
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

    #[test]
    fn more_faults_are_worse_only_when_the_difference_is_certain() {
        let live = counts(&[(1_000, 500, 5)]);
        assert!(worse(&live, &counts(&[(100, 500, 2)])).is_none());
        assert!(worse(&live, &counts(&[(100, 500, 0)])).is_none());
        assert!(worse(&live, &live).is_none());
        let reason = worse(&live, &counts(&[(100, 500, 30)])).unwrap();
        assert!(reason.starts_with("30 of 100 calls failed, against 5 of 1000"), "{reason}");
        let nothing = Counts::default();
        assert!(worse(&nothing, &live).is_none() && worse(&live, &nothing).is_none());
    }

    #[test]
    fn slower_is_worse_only_when_people_would_notice() {
        let live = counts(&[(900, 2_000, 0), (100, 20_000, 0)]);
        assert!(worse(&live, &counts(&[(180, 2_000, 0), (20, 20_000, 0)])).is_none());
        let reason = worse(&live, &counts(&[(200, 6_000, 0)])).unwrap();
        assert!(reason.contains("against 2048 µs"), "{reason}");
        // Three times as slow, but not noticeable.
        assert!(worse(&counts(&[(1_000, 20, 0)]), &counts(&[(1_000, 60, 0)])).is_none());
        // A few slow calls among many do not make a release slower.
        assert!(worse(&live, &counts(&[(195, 2_000, 0), (5, 900_000, 0)])).is_none());
    }
}
