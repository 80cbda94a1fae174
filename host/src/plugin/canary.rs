//! A canary: a release that serves some callers next to the live one. Owns the plan of the canary, the choice of
//! callers and the judgement of the two releases; never swaps anything. `canary_rollout` acts on the judgement.
//!
//! [`callers`] compares the callers of the two releases, [`calls`] compares calls route by route. [`statistics`] has the
//! tests, [`lot`] assigns the callers, and [`looks`] has the times of the looks and the certainty that each needs.

mod callers;
mod calls;
mod finding;
mod looks;
mod lot;
mod statistics;
#[cfg(test)]
mod tests;

use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::callers::Callers;
use self::calls::RoutePair;
use self::finding::Finding;
use self::looks::Looks;
pub(super) use self::lot::Lot;
pub use self::lot::anonymous_caller;
use super::call_stats::{Counts, EndedCall};
use super::declaration::DeclaredRoute;
use super::release::Release;
use crate::clock::Timestamp;
use crate::error::{Error, Result};

/// The probability below which a difference between calls raises doubts: the step does not end.
const DOUBT: f64 = 0.01;

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
    /// A record of an earlier version has none.
    #[serde(default)]
    pub(super) lot: Lot,
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
    baseline: Counts,
    /// The counts of the live release and the canary when the present step began.
    step_baseline: [Counts; 2],
    /// The callers of the present step.
    callers: Arc<Callers>,
    lot: Lot,
    verdict: Mutex<Verdict>,
}

/// The results of the looks at the present step.
#[derive(Debug, Default)]
struct Verdict {
    looks: Looks,
    worse: Option<String>,
    doubt: Option<String>,
}

impl Verdict {
    /// Notes a difference between the calls where no lot is drawn. With `header`, an operator chooses the side of each
    /// request, and it proves that the canary is worse. With a share of 100 %, the calls of the live release are from
    /// another time and from other callers, and the calls of one caller resemble each other. So it is only a doubt.
    fn note_calls(&mut self, share: Share, finding: Option<&Finding>) {
        let text = finding.map(ToString::to_string);
        if share == Share(0) { self.worse = text } else { self.doubt = text }
    }
}

/// A call's part in a trial: its caller was assigned to one of the two releases.
/// Keeps no release, so that a slow request holds up no drain.
#[derive(Clone)]
pub struct Assignment {
    callers: Arc<Callers>,
    /// The number of the canary's release.
    canary: i64,
    caller: u64,
}

impl Assignment {
    /// Counts a call of the caller on the release that served it.
    pub(super) fn record(&self, release: &Release, call: &EndedCall) {
        let on_canary = release.record.number == self.canary;
        self.callers.record(self.caller, on_canary, call);
    }
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
    /// Calls whose callers left before they ended. They count as at least as long as they lasted.
    pub cut_off: u64,
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
        let latency = counts.latency();
        let micros = |share| latency.quantile(share).map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        Self {
            release: release.record.number,
            calls: counts.calls(),
            faults: counts.faults(),
            cut_off: counts.cut_off(),
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
    /// Calls of the canary since the present step began.
    pub step_calls: u64,
    /// Why the canary is certainly worse; `None` if it is not, or if there are too few calls.
    pub worse: Option<String>,
    /// Why the canary may be worse, although that is not certain. The step does not end meanwhile.
    pub doubt: Option<String>,
}

impl Canary {
    /// Starts a canary.
    pub(super) fn new(release: Arc<Release>, plan: Plan, lot: Lot, live: &Release, now: Timestamp) -> Self {
        Self::begin_step(release, (plan, lot), (0, now), live, live.stats.counts())
    }

    /// Returns the canary at another step, which begins now. Its judgement begins anew: other callers are on each side.
    pub(super) fn at_step(&self, step: usize, live: &Release, now: Timestamp) -> Self {
        let plan = (self.plan.clone(), self.lot.clone());
        Self::begin_step(Arc::clone(&self.release), plan, (step, now), live, self.baseline.clone())
    }

    fn begin_step(
        release: Arc<Release>,
        (plan, lot): (Plan, Lot),
        (step, since): (usize, Timestamp),
        live: &Release,
        baseline: Counts,
    ) -> Self {
        let step_baseline = [live.stats.counts(), release.stats.counts()];
        let (callers, verdict) = (Arc::default(), Mutex::default());
        Self { release, plan, step, since, baseline, step_baseline, callers, lot, verdict }
    }

    /// Returns the present share of callers.
    pub fn share(&self) -> Share {
        self.plan.steps.get(self.step).copied().unwrap_or(Share(0))
    }

    /// Returns whether callers are drawn by lot: some are served by the canary and some by the live release.
    fn is_split(&self) -> bool {
        let Share(share) = self.share();
        (1..Share::ALL.0).contains(&share)
    }

    /// Assigns a caller to one of the two releases. Returns whether the canary serves it, and its part in the trial. The
    /// choice is stable for each caller, and a larger share only adds callers. While the canary is quarantined, the live
    /// release serves its callers; they have no part in the trial then, because they do not belong to its side.
    pub fn assign(&self, caller: &str) -> (bool, Option<Assignment>) {
        let record = &self.release.record;
        let caller = self.lot.number(&record.plugin, record.number, caller);
        let is_chosen = caller % u64::from(Share::ALL.0) < u64::from(self.share().0);
        if is_chosen && self.release.breaker.refuses() {
            return (false, None);
        }
        let takes_part = self.share() > Share(0);
        (
            is_chosen,
            takes_part.then(|| Assignment { callers: Arc::clone(&self.callers), canary: record.number, caller }),
        )
    }

    /// Returns whether a quarantine ends the canary. The calls of one or two callers can open the circuit breaker, and
    /// these may be unusual callers. An operator chooses the side of each request in a header.
    pub(super) fn ends_by_quarantine(&self) -> bool {
        let is_shared = || self.share() == Share(0) || self.callers.share_failures();
        self.release.breaker.is_open() && is_shared()
    }

    /// Compares the canary with the live release, with the verdict of the last look.
    pub fn compare(&self, live: &Release) -> Comparison {
        let [_, step] = self.step_counts(live);
        let step_calls = step.calls();
        let verdict = self.verdict();
        Comparison {
            live: Summary::of(live, &live.stats.counts().since(&self.baseline)),
            candidate: Summary::of(&self.release, &self.release.stats.counts()),
            step_calls,
            worse: verdict.worse.clone(),
            doubt: verdict.doubt.clone(),
        }
    }

    /// Looks at the two releases if a look is due. A canary that was found worse stays worse.
    pub(super) fn judge(&self, live: &Release) {
        let [live_counts, canary_counts] = self.step_counts(live);
        let mut verdict = self.verdict();
        let (calls, minimum) = (canary_counts.calls(), self.plan.minimum);
        if verdict.worse.is_some() {
            return;
        }
        let Some(threshold) = verdict.looks.due(calls, minimum, self.plan.steps.len()) else { return };
        // If the live release had too few calls in this step, all its calls since it was loaded are the better measure.
        let measure = if live_counts.calls() < minimum { live.stats.counts() } else { live_counts };
        let routes = self.shared_routes(live, &measure, &canary_counts);
        verdict.doubt = None;
        if self.is_split() {
            verdict.worse = self.callers.compare(threshold).map(|finding| finding.to_string());
            verdict.doubt = calls::compare(&routes, DOUBT).map(|finding| finding.to_string());
        } else {
            verdict.note_calls(self.share(), calls::compare(&routes, threshold).as_ref());
        }
    }

    /// Returns whether the present step may end: it lasted long enough, had enough calls, and raised no doubts.
    pub(super) fn may_end_step(&self, live: &Release, now: Timestamp) -> bool {
        let verdict = self.verdict();
        let has_lasted = now >= self.since.plus(self.plan.hold);
        let [_, counts] = self.step_counts(live);
        let has_doubts = verdict.doubt.is_some() || self.release.breaker.is_open();
        has_lasted && verdict.looks.has_begun() && counts.calls() >= self.plan.minimum && !has_doubts
    }

    /// Returns the counts of the live release and the canary since the present step began.
    fn step_counts(&self, live: &Release) -> [Counts; 2] {
        let [live_before, before] = &self.step_baseline;
        [live.stats.counts().since(live_before), self.release.stats.counts().since(before)]
    }

    /// Returns the routes that both releases have. Both have the same mount.
    fn shared_routes(&self, live: &Release, live_counts: &Counts, counts: &Counts) -> Vec<RoutePair> {
        let [routes, live_routes] = [&*self.release, live].map(|release| &release.record.declaration.routes);
        let shared = routes.iter().enumerate().filter_map(|(index, route)| {
            let is_same = |other: &DeclaredRoute| other.method == route.method && other.path == route.path;
            let live_index = live_routes.iter().position(is_same)?;
            Some(RoutePair { live: live_counts.route(live_index)?.clone(), canary: counts.route(index)?.clone() })
        });
        shared.collect()
    }

    fn verdict(&self) -> std::sync::MutexGuard<'_, Verdict> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn to_json(&self) -> Result<String> {
        let stored = StoredCanary {
            release: self.release.record.number,
            plan: self.plan.clone(),
            step: self.step,
            since: self.since,
            lot: self.lot.clone(),
        };
        serde_json::to_string(&stored).map_err(Error::internal)
    }
}
