//! The comparison by callers. Owns the calls, the failures and the times of each caller in the present step.
//!
//! The host assigns callers to the releases by a hash, as by lot, and each caller counts once. So a caller with many
//! calls weighs as much as one with few, and both releases have the same mix of callers and of their routes, up to
//! chance. The exact test then holds for any behaviour of callers, because the lot is the only thing that it assumes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::finding::{Finding, MIN_FAULTS, NOTICEABLE, SLOWER};
use super::statistics::{Group, RankSum, Tally, exact_probability};
use crate::plugin::call_stats::EndedCall;

/// The number of callers that are remembered, the first of each step. Callers differ in nothing that matters here.
const MAX_CALLERS: usize = 16_384;
/// The least callers of the canary with failures: fewer may be unusual callers and not an unusual release.
const MIN_BAD_CALLERS: usize = 3;
/// The least callers of each release whose times are compared.
const MIN_TIMED_CALLERS: usize = 5;

/// The callers of one step.
#[derive(Debug, Default)]
pub(super) struct Callers(Mutex<HashMap<u64, Caller>>);

/// The calls of one caller.
#[derive(Debug, Default, Clone, Copy)]
struct Caller {
    on_canary: bool,
    calls: u32,
    faults: u32,
    /// The calls that ended, and the sum of the logarithms of their times.
    completed: Times,
    /// The calls that the caller left.
    cut_off: Times,
}

#[derive(Debug, Default, Clone, Copy)]
struct Times {
    calls: u32,
    /// Of microseconds.
    logarithms: f64,
}

impl Times {
    fn mean(self) -> Option<f64> {
        (self.calls > 0).then(|| self.logarithms / f64::from(self.calls))
    }
}

impl Caller {
    fn fault_share(&self) -> f64 {
        f64::from(self.faults) / f64::from(self.calls.max(1))
    }

    /// Returns the mean logarithm of the times. A call that the caller left would have taken longer than it lasted, and
    /// counts as no faster than `typical`.
    fn time(&self, typical: f64) -> f64 {
        let cut_off = self.cut_off.mean().unwrap_or_default().max(typical) * f64::from(self.cut_off.calls);
        (self.completed.logarithms + cut_off) / f64::from((self.completed.calls + self.cut_off.calls).max(1))
    }
}

impl Callers {
    /// Counts a call of a caller.
    pub(super) fn record(&self, caller: u64, on_canary: bool, call: &EndedCall) {
        let mut callers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if callers.len() >= MAX_CALLERS && !callers.contains_key(&caller) {
            return;
        }
        let caller = callers.entry(caller).or_insert(Caller { on_canary, ..Caller::default() });
        caller.calls = caller.calls.saturating_add(1);
        caller.faults = caller.faults.saturating_add(u32::from(call.outcome.is_fault()));
        let times = if call.was_cut_off() { &mut caller.cut_off } else { &mut caller.completed };
        times.calls = times.calls.saturating_add(1);
        times.logarithms += (call.took.as_secs_f64() * 1e6).max(1.0).ln();
    }

    /// Returns whether enough callers of the canary met failures that it can be the cause.
    pub(super) fn share_failures(&self) -> bool {
        let callers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bad = callers.values().filter(|caller| caller.on_canary && caller.faults > 0);
        bad.nth(MIN_BAD_CALLERS - 1).is_some()
    }

    /// Returns why the canary is worse for its callers, if that is less probable by chance than `threshold`.
    pub(super) fn compare(&self, threshold: f64) -> Option<Finding> {
        let callers: Vec<Caller> = {
            let callers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            callers.values().copied().collect()
        };
        compare_faults(&callers, threshold).or_else(|| compare_times(&callers, threshold))
    }
}

/// Compares how many callers had an unusual share of failures: more than the mean of all callers of both releases. The
/// mean is the same for every assignment of the callers, as the exact test requires.
fn compare_faults(callers: &[Caller], threshold: f64) -> Option<Finding> {
    let usual = mean(callers.iter().map(Caller::fault_share))?;
    let of = |canary: bool| callers.iter().filter(move |caller| caller.on_canary == canary);
    let least = u64::try_from(MIN_BAD_CALLERS).unwrap_or(u64::MAX);
    let tally = |canary: bool| {
        let (mut all, mut bad) = (0, 0);
        for caller in of(canary) {
            all += 1;
            bad += u64::from(caller.faults > 0 && caller.fault_share() > usual);
        }
        Tally { all, bad }
    };
    let group = Group { live: tally(false), canary: tally(true) };
    let faults: u64 = of(true).map(|caller| u64::from(caller.faults)).sum();
    let probability = exact_probability(&[group]);
    let is_worse = faults >= MIN_FAULTS && group.canary.bad >= least && probability < threshold;
    is_worse.then(|| {
        let Group { live, canary } = group;
        Finding::new(
            probability,
            format!(
                "calls of {} of {} callers failed unusually often, against {} of {} of the live release",
                canary.bad, canary.all, live.bad, live.all
            ),
        )
    })
}

/// Compares the typical times of the callers: the geometric mean of each caller's times.
fn compare_times(callers: &[Caller], threshold: f64) -> Option<Finding> {
    let typical = median(callers.iter().filter_map(|caller| caller.completed.mean()).collect()).unwrap_or_default();
    let mut times: Vec<(f64, bool)> = callers.iter().map(|caller| (caller.time(typical), caller.on_canary)).collect();
    times.sort_by(|one, other| one.0.total_cmp(&other.0));
    let of = |canary: bool| times.iter().filter(|time| time.1 == canary).map(|time| time.0).collect::<Vec<_>>();
    let (live, canary) = (of(false), of(true));
    if live.len().min(canary.len()) < MIN_TIMED_CALLERS {
        return None;
    }
    let ties = times.chunk_by(|one, other| one.0.total_cmp(&other.0).is_eq());
    let probability = RankSum::probability(&[RankSum::of(ties.map(|tied| {
        let canary = tied.iter().filter(|time| time.1).count();
        let [live, canary] = [tied.len() - canary, canary].map(|count| u64::try_from(count).unwrap_or(u64::MAX));
        (live, canary)
    }))]);
    let (before, now) = (median(live)?.exp(), median(canary)?.exp());
    let noticeable = NOTICEABLE.as_secs_f64() * 1e6;
    let is_worse = probability < threshold && now >= before * SLOWER && now >= before + noticeable;
    is_worse.then(|| {
        let text = format!("calls took {now:.0} µs for the typical caller, against {before:.0} µs of the live release");
        Finding::new(probability, text)
    })
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0_u32, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / f64::from(count))
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
