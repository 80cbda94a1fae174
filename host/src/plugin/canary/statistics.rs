//! The statistical tests of the judge: an exact test for failures and a rank test for times, both one-sided and in
//! groups. Owns the mathematics; knows no release.

use std::f64::consts::SQRT_2;

/// The probability below which a value of a distribution is left out. A judgement needs far less certainty than this.
const NEGLIGIBLE: f64 = 1e-22;
/// The variance above which the sum of hypergeometric distributions is replaced by the normal distribution: its skewness
/// is then below 0.01. It also bounds the work of the exact test.
const LARGE_VARIANCE: f64 = 10_000.0;

/// The number of units (calls or callers) of one release, and the number of bad ones among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) all: u64,
    pub(super) bad: u64,
}

/// The two releases among units that can be compared with each other.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Group {
    pub(super) live: Tally,
    pub(super) canary: Tally,
}

impl Group {
    fn total(&self) -> u64 {
        self.live.all + self.canary.all
    }

    fn bad(&self) -> u64 {
        self.live.bad + self.canary.bad
    }

    /// Returns mean and variance of the number of bad units of the canary if the bad ones are spread by chance.
    fn moments(&self) -> (f64, f64) {
        let [total, bad, drawn] = [self.total(), self.bad(), self.canary.all].map(number);
        let mean = drawn * bad / total;
        (mean, mean * (total - bad) / total * (total - drawn) / (total - 1.0).max(1.0))
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of calls")]
fn number(count: u64) -> f64 {
    count as f64
}

/// Returns the probability that the canary has at least as many bad units as it has, if the two releases are equal and
/// the bad units of each group are spread over the two by chance: Fisher's exact test, and over several groups the exact
/// conditional test of a common odds ratio of 1 (Agresti, Categorical Data Analysis, 2002, sections 3.5 and 6.7). A
/// group without units of one of the two says nothing.
pub(super) fn exact_probability(groups: &[Group]) -> f64 {
    let comparable = || groups.iter().filter(|group| group.live.all > 0 && group.canary.all > 0);
    let observed: u64 = comparable().map(|group| group.canary.bad).sum();
    let (mean, variance) = comparable().map(Group::moments).fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    if variance > LARGE_VARIANCE {
        return normal_tail((number(observed) - 0.5 - mean) / variance.sqrt());
    }
    let sum = comparable()
        .filter(|group| group.bad() > 0)
        .map(Distribution::of)
        .fold(Distribution::zero(), |sum, one| sum.plus(&one));
    sum.tail(observed)
}

/// Returns the probability that a standard normal variable is at least `z`.
pub(super) fn normal_tail(z: f64) -> f64 {
    0.5 * libm::erfc(z / SQRT_2)
}

/// The probabilities of consecutive numbers.
struct Distribution {
    lowest: u64,
    probabilities: Vec<f64>,
}

impl Distribution {
    /// Surely zero.
    fn zero() -> Self {
        Self { lowest: 0, probabilities: vec![1.0] }
    }

    /// The hypergeometric distribution: the bad units of the canary, if all bad units are spread by chance.
    fn of(group: &Group) -> Self {
        let (total, bad, drawn) = (group.total(), group.bad(), group.canary.all);
        let (lowest, highest) = ((drawn + bad).saturating_sub(total), drawn.min(bad));
        let mode = u128::from(drawn + 1) * u128::from(bad + 1) / u128::from(total + 2);
        let mode = u64::try_from(mode).unwrap_or(u64::MAX).clamp(lowest, highest);
        let log = |n: u64, k: u64| log_factorial(n) - log_factorial(k) - log_factorial(n - k);
        let at_mode = (log(bad, mode) + log(total - bad, drawn - mode) - log(total, drawn)).exp();
        // The ratio of the probability of `x + 1` to that of `x`.
        let ratio =
            |x: u64| number(bad - x) * number(drawn - x) / (number(x + 1) * number(total + x + 1 - bad - drawn));
        let mut below = Vec::new();
        let mut probability = at_mode;
        for x in (lowest..mode).rev() {
            probability /= ratio(x);
            if probability < NEGLIGIBLE {
                break;
            }
            below.push(probability);
        }
        let lowest = mode - length(&below);
        let mut probabilities: Vec<f64> = below.into_iter().rev().chain([at_mode]).collect();
        probability = at_mode;
        for x in mode..highest {
            probability *= ratio(x);
            if probability < NEGLIGIBLE {
                break;
            }
            probabilities.push(probability);
        }
        Self { lowest, probabilities }
    }

    /// The sum of two independent numbers.
    fn plus(&self, other: &Self) -> Self {
        let mut probabilities = vec![0.0; self.probabilities.len() + other.probabilities.len() - 1];
        for (start, one) in self.probabilities.iter().enumerate() {
            for (sum, two) in probabilities.iter_mut().skip(start).zip(&other.probabilities) {
                *sum += one * two;
            }
        }
        let is_negligible = |probability: &f64| *probability < NEGLIGIBLE;
        while probabilities.last().is_some_and(is_negligible) {
            probabilities.pop();
        }
        let kept = probabilities.split_off(probabilities.iter().take_while(|one| is_negligible(one)).count());
        Self { lowest: self.lowest + other.lowest + length(&probabilities), probabilities: kept }
    }

    /// Returns the probability of `from` and above.
    fn tail(&self, from: u64) -> f64 {
        let skipped = usize::try_from(from.saturating_sub(self.lowest)).unwrap_or(usize::MAX);
        // From the smallest to the largest, for precision.
        self.probabilities.iter().skip(skipped).rev().sum::<f64>().min(1.0)
    }
}

fn length(probabilities: &[f64]) -> u64 {
    u64::try_from(probabilities.len()).unwrap_or(u64::MAX)
}

fn log_factorial(n: u64) -> f64 {
    libm::lgamma(number(n) + 1.0)
}

/// The rank sum of the canary among units that can be compared with each other, less its mean for equal releases.
#[derive(Debug, Clone, Copy)]
pub(super) struct RankSum {
    excess: f64,
    variance: f64,
    units: f64,
}

impl RankSum {
    /// Computes it from the numbers of units of (live, canary) with equal times, fastest first: the Mann-Whitney U test
    /// with the correction for ties (Mann and Whitney 1947; Siegel and Castellan 1988, section 6.4).
    pub(super) fn of(counts: impl Iterator<Item = (u64, u64)>) -> Self {
        let (mut live, mut canary, mut wins, mut ties) = (0.0, 0.0, 0.0, 0.0);
        for (live_count, canary_count) in counts {
            let (live_count, canary_count) = (number(live_count), number(canary_count));
            wins += canary_count * (live + live_count / 2.0);
            live += live_count;
            canary += canary_count;
            let tied = live_count + canary_count;
            ties += tied * tied * tied - tied;
        }
        let units = live + canary;
        let variance = live * canary / 12.0 * (units + 1.0 - ties / (units * (units - 1.0)).max(1.0));
        Self { excess: wins - live * canary / 2.0, variance: variance.max(0.0), units }
    }

    /// Returns the probability of rank sums that are at least as high, if the two releases are equal: van Elteren's test
    /// over several groups (Lehmann, Nonparametrics, 1975, section 3.3), which is the Mann-Whitney U test for one group.
    pub(super) fn probability(groups: &[Self]) -> f64 {
        let weighted = |power: i32| move |group: &Self| (1.0 / (group.units + 1.0)).powi(power);
        let excess: f64 = groups.iter().map(|group| group.excess * weighted(1)(group)).sum();
        let variance: f64 = groups.iter().map(|group| group.variance * weighted(2)(group)).sum();
        if variance > 0.0 { normal_tail(excess / variance.sqrt()) } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(live: (u64, u64), canary: (u64, u64)) -> Group {
        let tally = |(all, bad)| Tally { all, bad };
        Group { live: tally(live), canary: tally(canary) }
    }

    fn close(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 1e-6, "{found} instead of {expected}");
    }

    #[test]
    fn the_exact_test_agrees_with_published_and_computed_values() {
        // Fisher's lady tasting tea, three and four right of four: 17/70 and 1/70.
        close(exact_probability(&[group((4, 1), (4, 3))]), 17.0 / 70.0);
        close(exact_probability(&[group((4, 0), (4, 4))]), 1.0 / 70.0);
        // One fault in a share of 5 % against none is 1 in 20 at any volume.
        for volume in [1, 1_000, 1_000_000] {
            close(exact_probability(&[group((19 * volume, 0), (volume, 1))]), 0.05);
        }
        close(exact_probability(&[group((10, 5), (10, 0))]), 1.0);
        close(exact_probability(&[]), 1.0);
    }

    #[test]
    fn groups_are_compared_within_themselves() {
        // Two coins that are fair in each group: the sum of two faults in two groups.
        let fair = group((1, 0), (1, 1));
        close(exact_probability(&[fair]), 0.5);
        close(exact_probability(&[fair, fair]), 0.25);
        // The canary has more faults only because it has more calls of the route that fails.
        let mix = [group((1_000, 500), (10, 5)), group((10, 0), (1_000, 0))];
        assert!(exact_probability(&mix) > 0.5);
        close(exact_probability(&[group((0, 0), (9, 9)), fair]), 0.5);
    }

    #[test]
    fn large_counts_are_fast_and_continue_the_small_ones() {
        let exact = exact_probability(&[group((79_000, 39_500), (79_000, 39_900))]);
        let normal = exact_probability(&[group((81_000, 40_500), (81_000, 40_905))]);
        assert!((exact / normal - 1.0).abs() < 0.1, "{exact} {normal}");
        let many = vec![group((1_000_000, 1_000), (50_000, 60)); 200];
        assert!(exact_probability(&many) < 1e-6);
    }

    #[test]
    fn the_rank_test_agrees_with_a_textbook() {
        // Without ties: 20 slower units against 20 faster ones, U = 400, z = 200 / sqrt(20 · 20 · 41 / 12).
        let separate = RankSum::of((0..20).map(|_| (1, 0)).chain((0..20).map(|_| (0, 1))));
        let z: f64 = 200.0 / (400.0 * 41.0 / 12.0_f64).sqrt();
        close(RankSum::probability(&[separate]), normal_tail(z));
        close(normal_tail(1.959_963_985), 0.025);
        assert_eq!(RankSum::probability(&[RankSum::of([(5, 5)].into_iter())]), 1.0, "all are equal");
        assert_eq!(RankSum::probability(&[]), 1.0);
    }
}
