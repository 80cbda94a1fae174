//! The output of `wharf plugin canary`: the numbers of both releases with bars, which are quicker to compare than
//! digits.

use serde_json::Value;

use super::{members, printable, share, text, to_the_second};
use crate::cli::terminal::Terminal;
use crate::id::PluginName;

/// The width of a full bar, in characters.
const WIDTH: usize = 20;

/// Prints a canary and the comparison with the live release.
pub(in crate::cli::plugin) fn canary(name: &PluginName, response: &Value, terminal: &Terminal) {
    let null = Value::Null;
    let of = |release: &str| response.pointer(&format!("/comparison/{release}")).unwrap_or(&null);
    let (live, canary) = (of("live"), of("candidate"));
    let (live_number, number) = (text(live, "release"), text(response, "release"));
    terminal
        .line(format!("{} release {number} is a canary next to release {live_number}", terminal.bold(name.as_str())));
    let percent = response.get("percent").and_then(Value::as_f64).unwrap_or_default();
    terminal.line(format!("  share   {} {}", gauge(percent / 100.0), share(percent)));
    for (title, value) in [("step", step(response)), ("since", to_the_second(&text(response, "since")))] {
        if !value.is_empty() {
            terminal.line(format!("  {title:<8}{value}"));
        }
    }
    terminal.line("");
    let [live_title, title] = [format!("LIVE {live_number}"), format!("CANARY {number}")];
    terminal.table(["", live_title.as_str(), "", title.as_str(), ""], &rows(live, canary));
    match response.pointer("/comparison/worse").and_then(Value::as_str) {
        Some(reason) => terminal.line(format!("{} {}", terminal.warning("worse:"), printable(reason))),
        None => terminal.line(verdict(response)),
    }
    terminal
        .hint(format!("`wharf plugin promote {name}` makes it the live release, `wharf plugin abort {name}` ends it"));
}

fn number(value: &Value, name: &str) -> Option<f64> {
    value.get(name).and_then(Value::as_f64)
}

/// Returns calls, failures and latencies. If there were any, also calls whose callers left, and calls that failed with a
/// service of the host. The larger of two values has the full bar.
fn rows(live: &Value, canary: &Value) -> Vec<[String; 5]> {
    let failed = |release: &Value| {
        let calls = number(release, "calls").filter(|calls| *calls > 0.0)?;
        Some(number(release, "faults").unwrap_or_default() / calls * 100.0)
    };
    let row = |name: &str, values: [Option<f64>; 2], write: fn(f64) -> String| {
        let largest = values.iter().flatten().copied().fold(0.0, f64::max);
        let [live, canary] = values.map(|value| {
            let bar = value.map(|value| bar(if largest > 0.0 { value / largest } else { 0.0 }));
            (value.map_or_else(|| "-".to_owned(), write), bar.unwrap_or_default())
        });
        [name.to_owned(), live.0, live.1, canary.0, canary.1]
    };
    let both = |name: &str| [number(live, name), number(canary, name)];
    let mut rows = vec![
        row("calls", both("calls"), |calls| format!("{calls:.0}")),
        row("failed", [failed(live), failed(canary)], |percent| format!("{percent:.2}%")),
        row("p50", both("p50_micros"), time),
        row("p95", both("p95_micros"), time),
        row("p99", both("p99_micros"), time),
    ];
    for (name, member) in [("left", "cut_off"), ("outage", "dependency")] {
        if both(member).iter().flatten().any(|calls| *calls > 0.0) {
            rows.push(row(name, both(member), |calls| format!("{calls:.0}")));
        }
    }
    rows
}

/// Returns a time in microseconds as text.
pub(super) fn time(micros: f64) -> String {
    match micros {
        micros if micros < 1_000.0 => format!("{micros:.0} µs"),
        micros if micros < 10_000.0 => format!("{:.1} ms", micros / 1_000.0),
        micros if micros < 1_000_000.0 => format!("{:.0} ms", micros / 1_000.0),
        micros => format!("{:.1} s", micros / 1_000_000.0),
    }
}

/// Returns the steps: `5% → [25%] → 100%, each for at least 10m`. A single step gives an empty text.
fn step(response: &Value) -> String {
    let steps: Vec<f64> = members(response, "steps").filter_map(Value::as_f64).collect();
    if steps.len() < 2 {
        return String::new();
    }
    let at = response.get("step").and_then(Value::as_u64);
    let step = |(index, percent): (usize, &f64)| {
        if at == u64::try_from(index).ok() { format!("[{percent}%]") } else { format!("{percent}%") }
    };
    let steps = steps.iter().enumerate().map(step).collect::<Vec<_>>().join(" → ");
    let hold = response.get("hold_ms").and_then(Value::as_u64).unwrap_or_default();
    let hold = humantime::format_duration(std::time::Duration::from_millis(hold));
    format!("{steps}, each for at least {hold}")
}

fn verdict(response: &Value) -> String {
    let comparison = response.get("comparison").unwrap_or(&Value::Null);
    let [calls, minimum] = [(comparison, "step_calls"), (response, "minimum")].map(|(value, name)| number(value, name));
    match (calls, minimum) {
        (Some(calls), Some(minimum)) if calls < minimum => {
            format!("The releases are compared after {minimum} calls of the canary in each step; {calls} so far")
        }
        _ if comparison.get("doubt").is_some_and(Value::is_string) => {
            let doubt = text(comparison, "doubt");
            format!("The canary may be worse, so the step does not end: {doubt}")
        }
        _ => "The canary is not significantly worse".to_owned(),
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a small number of characters"
)]
fn filled(share: f64) -> usize {
    // A value above zero has at least one character.
    let least = if share > 0.0 { 1 } else { 0 };
    ((share.clamp(0.0, 1.0) * WIDTH as f64).round() as usize).max(least)
}

fn bar(share: f64) -> String {
    "█".repeat(filled(share))
}

/// Returns a bar on a background of the full width.
fn gauge(share: f64) -> String {
    let filled = filled(share);
    format!("{}{}", "█".repeat(filled), "░".repeat(WIDTH.saturating_sub(filled)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_larger_of_two_values_has_the_full_bar() {
        let live = json!({ "release": 3, "calls": 1000, "faults": 0, "p50_micros": 640, "p95_micros": 2048,
            "p99_micros": 15_000 });
        let canary = json!({ "release": 4, "calls": 100, "faults": 5, "p50_micros": 1280, "p95_micros": 1024,
            "p99_micros": null });
        let cells = |values: [&str; 5]| values.map(str::to_owned);
        let [whole, half, tenth] = ["█".repeat(20), "█".repeat(10), "█".repeat(2)];
        assert_eq!(
            rows(&live, &canary),
            [
                cells(["calls", "1000", &whole, "100", &tenth]),
                cells(["failed", "0.00%", "", "5.00%", &whole]),
                cells(["p50", "640 µs", &half, "1.3 ms", &whole]),
                cells(["p95", "2.0 ms", &whole, "1.0 ms", &half]),
                cells(["p99", "15 ms", &whole, "-", ""]),
            ]
        );
        let outage = rows(&json!({ "dependency": 4 }), &json!({ "dependency": 2 }));
        assert_eq!(outage.last(), Some(&cells(["outage", "4", &whole, "2", &half])));
        let nothing = rows(&json!({ "calls": 0 }), &Value::Null);
        assert_eq!(nothing.first(), Some(&cells(["calls", "0", "", "-", ""])));
        assert_eq!(nothing.get(1), Some(&cells(["failed", "-", "", "-", ""])));
    }

    #[test]
    fn the_current_step_is_in_brackets() {
        let response = json!({ "steps": [5.0, 25.0, 100.0], "step": 1, "hold_ms": 600_000 });
        assert_eq!(step(&response), "5% → [25%] → 100%, each for at least 10m");
        assert_eq!(step(&json!({ "steps": [10.0], "step": 0 })), "");
        assert_eq!(share(0.5), "0.5% of callers");
        assert_eq!(gauge(0.001), format!("█{}", "░".repeat(19)));
        assert_eq!(gauge(0.0), "░".repeat(20));
    }

    #[test]
    fn there_is_no_verdict_before_the_minimum_number_of_calls() {
        let verdict = |calls: u64, doubt: Option<&str>| {
            verdict(&json!({ "minimum": 100, "comparison": { "step_calls": calls, "doubt": doubt } }))
        };
        assert_eq!(
            verdict(12, None),
            "The releases are compared after 100 calls of the canary in each step; 12 so far"
        );
        assert_eq!(verdict(120, None), "The canary is not significantly worse");
        assert_eq!(verdict(120, Some("it fails")), "The canary may be worse, so the step does not end: it fails");
    }
}
