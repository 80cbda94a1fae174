//! The comparison by calls, route by route. It is for canaries whose callers are not drawn by lot: those of requests that
//! choose the canary in a header, and of a share of 100 %. It assumes that calls of one route are independent of each
//! other. For canaries with a share it only raises doubts, because one caller with many unusual calls is enough for a
//! difference.

use std::time::Duration;

use super::finding::{Finding, MIN_FAULTS, NOTICEABLE, SLOWER};
use super::statistics::{Group, RankSum, Tally, exact_probability};
use crate::plugin::call_stats::{Histogram, RouteCounts};

/// The calls of one route that both releases have.
pub(super) struct RoutePair {
    pub(super) live: RouteCounts,
    pub(super) canary: RouteCounts,
}

/// Returns why the calls of the canary are worse, if that is less probable by chance than `threshold`. Routes that only
/// one of the two releases served are left out.
pub(super) fn compare(routes: &[RoutePair], threshold: f64) -> Option<Finding> {
    let shared: Vec<&RoutePair> =
        routes.iter().filter(|route| route.live.calls() > 0 && route.canary.calls() > 0).collect();
    compare_faults(&shared, threshold).or_else(|| compare_times(&shared, threshold))
}

fn compare_faults(routes: &[&RoutePair], threshold: f64) -> Option<Finding> {
    let tally = |counts: &RouteCounts| Tally { all: counts.calls(), bad: counts.faults.min(counts.calls()) };
    let groups: Vec<Group> =
        routes.iter().map(|route| Group { live: tally(&route.live), canary: tally(&route.canary) }).collect();
    let sum = |of: fn(&Group) -> Tally| {
        let add = |sum: Tally, one: Tally| Tally { all: sum.all + one.all, bad: sum.bad + one.bad };
        groups.iter().map(of).fold(Tally::default(), add)
    };
    let (live, canary) = (sum(|group| group.live), sum(|group| group.canary));
    if canary.bad < MIN_FAULTS {
        return None;
    }
    let probability = exact_probability(&groups);
    (probability < threshold).then(|| {
        let text = format!(
            "{} of {} calls failed, against {} of {} of the live release",
            canary.bad, canary.all, live.bad, live.all
        );
        Finding::new(probability, text)
    })
}

fn compare_times(routes: &[&RoutePair], threshold: f64) -> Option<Finding> {
    let times: Vec<(Histogram, Histogram)> = routes.iter().map(|route| times(route)).collect();
    let groups: Vec<RankSum> = times.iter().map(|(live, canary)| RankSum::of(live.zip(canary))).collect();
    let probability = RankSum::probability(&groups);
    if probability >= threshold {
        return None;
    }
    // The live release's times as if its routes were called as often as those of the canary.
    let (mut before, mut now) = (Mean::default(), Mean::default());
    for (live, canary) in &times {
        let weight = number(canary.calls()) / number(live.calls());
        before.add(live, weight);
        now.add(canary, 1.0);
    }
    let is_slower = now.geometric() >= before.geometric() * SLOWER;
    let is_noticeable = now.arithmetic() >= before.arithmetic() + NOTICEABLE.as_secs_f64() * 1e6;
    (is_slower && is_noticeable).then(|| {
        let text = format!(
            "a typical call took {:.0} µs, against {:.0} µs of the live release",
            now.geometric(),
            before.geometric()
        );
        Finding::new(probability, text)
    })
}

/// Returns the times of both releases. A call whose caller left would have taken longer than it lasted. It counts as no
/// faster than the median of all calls of both that ended.
fn times(route: &RoutePair) -> (Histogram, Histogram) {
    let mut ended = route.live.completed.clone();
    ended.merge(&route.canary.completed);
    let typical = ended.quantile(0.5).unwrap_or(Duration::ZERO);
    let of = |counts: &RouteCounts| {
        let mut all = counts.completed.clone();
        all.merge_at_least(&counts.cut_off, typical);
        all
    };
    (of(&route.live), of(&route.canary))
}

/// Weighted means of times in microseconds.
#[derive(Default)]
struct Mean {
    weight: f64,
    sum: f64,
    logarithms: f64,
}

impl Mean {
    fn add(&mut self, times: &Histogram, weight: f64) {
        for (time, calls) in times.buckets().filter(|(_, calls)| *calls > 0) {
            let (micros, weight) = ((time.as_secs_f64() * 1e6).max(1.0), weight * number(calls));
            self.weight += weight;
            self.sum += micros * weight;
            self.logarithms += micros.ln() * weight;
        }
    }

    fn arithmetic(&self) -> f64 {
        self.sum / self.weight.max(f64::MIN_POSITIVE)
    }

    /// The geometric mean: a few slow calls change it little.
    fn geometric(&self) -> f64 {
        (self.logarithms / self.weight.max(f64::MIN_POSITIVE)).exp()
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of calls")]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::call_stats::{CallOutcome, CallStats, Counts, EndedCall};

    /// Returns the counts of calls: route, number, microseconds, and the number of those that fail.
    fn counts(calls: &[(usize, u64, u64, u64)]) -> Counts {
        let stats = CallStats::new(3);
        for (route, number, micros, faults) in calls {
            for index in 0..*number {
                let outcome = if index < *faults { CallOutcome::Trap } else { CallOutcome::Success };
                let took = Duration::from_micros(*micros);
                stats.record(&EndedCall { route: *route, took, outcome, is_evidence: true });
            }
        }
        stats.counts()
    }

    fn pairs(live: &Counts, canary: &Counts) -> Vec<RoutePair> {
        let route = |counts: &Counts, index| counts.route(index).cloned().unwrap_or_default();
        (0..3).map(|index| RoutePair { live: route(live, index), canary: route(canary, index) }).collect()
    }

    fn worse(live: &[(usize, u64, u64, u64)], canary: &[(usize, u64, u64, u64)]) -> Option<String> {
        compare(&pairs(&counts(live), &counts(canary)), 1e-4).map(|finding| finding.to_string())
    }

    #[test]
    fn more_faults_are_worse_only_when_the_difference_is_certain() {
        let live = [(0, 1_000, 500, 5)];
        assert_eq!(worse(&live, &[(0, 100, 500, 2)]), None);
        assert_eq!(worse(&live, &[(0, 100, 500, 0)]), None);
        assert_eq!(worse(&live, &live), None);
        assert!(worse(&live, &[(0, 100, 500, 30)]).unwrap().starts_with("30 of 100 calls failed, against 5 of 1000"));
        assert_eq!(worse(&[], &live), None);
        assert_eq!(worse(&live, &[]), None);
        // Few faults are no reason, however unlikely they are.
        assert_eq!(worse(&[(0, 1_000_000, 500, 0)], &[(0, 100, 500, 4)]), None);
    }

    #[test]
    fn another_mix_of_routes_is_not_worse() {
        // One route fails half of the time and is slow, on both releases.
        let live = [(0, 1_000, 500, 0), (1, 50, 50_000, 25)];
        assert_eq!(worse(&live, &[(0, 50, 500, 0), (1, 500, 50_000, 250)]), None);
        assert!(worse(&live, &[(0, 1_000, 500, 100), (1, 50, 50_000, 25)]).is_some());
        assert!(worse(&live, &[(0, 1_000, 5_000, 0), (1, 50, 50_000, 25)]).is_some());
        // A route that only the canary has says nothing.
        assert_eq!(worse(&live, &[(0, 100, 500, 0), (2, 100, 500_000, 50)]), None);
    }

    #[test]
    fn slower_is_worse_only_when_people_would_notice() {
        let live = [(0, 900, 2_000, 0), (0, 100, 20_000, 0)];
        assert_eq!(worse(&live, &[(0, 180, 2_000, 0), (0, 20, 20_000, 0)]), None);
        assert!(worse(&live, &[(0, 200, 6_000, 0)]).is_some());
        // Three times as slow, but not noticeable.
        assert_eq!(worse(&[(0, 1_000, 20, 0)], &[(0, 1_000, 60, 0)]), None);
        // A few slow calls among many do not make a release slower.
        assert_eq!(worse(&live, &[(0, 195, 2_000, 0), (0, 5, 900_000, 0)]), None);
    }

    #[test]
    fn a_release_that_hangs_is_slower_even_if_every_caller_leaves() {
        let left = |lasted: u64| {
            let stats = CallStats::new(1);
            for _ in 0..50 {
                let (took, outcome) = (Duration::from_micros(lasted), CallOutcome::Cancelled);
                stats.record(&EndedCall { route: 0, took, outcome, is_evidence: true });
            }
            compare(&pairs(&counts(&[(0, 500, 2_000, 0)]), &stats.counts()), 1e-4)
        };
        assert!(left(50_000).is_some());
        // Callers that leave at once show neither a slow nor a fast release.
        assert!(left(10).is_none());
    }
}
