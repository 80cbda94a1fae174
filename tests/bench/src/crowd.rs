//! A thousand clients of one plugin at once, compared with the usual number: the responses per second, the share of
//! requests that are turned away, and the response times of a neighbour. The settings are the defaults.
//!
//! Loads alternate, round by round. Meanwhile one client calls another plugin, one request after the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::wharf::Wharf;
use crate::{CONNECTIONS, Failure, Load, ROUNDS, TIME, load};

/// The clients of the crowd.
const CROWD: usize = 1_000;
/// The pause between two requests of the neighbour's client, so that it adds little load.
const PAUSE: Duration = Duration::from_millis(5);

/// The measurements of one load.
#[derive(Default)]
struct Side {
    /// Successes per second of each round.
    rates: Vec<f64>,
    failed: f64,
    responses: f64,
    /// Response times of the neighbour.
    neighbour: Vec<Duration>,
}

/// Prints a line for each plugin.
#[allow(clippy::print_stdout, reason = "the report")]
pub(crate) fn compare(wharf: &Wharf) -> Result<(), Failure> {
    println!("\n{CROWD} clients of one plugin, and one client of its neighbour");
    println!(
        "{:<12}{:>14}{:>14}{:>10}{:>14}{:>14}{:>14}{:>14}{:>10}",
        "", "few req/s", "crowd req/s", "ratio", "turned away", "p99 idle", "p99 few", "p99 crowd", "ratio"
    );
    let (hello, items) = (wharf.url("/api/v1/hello/"), wharf.url("/api/v1/items/"));
    for (name, url, neighbour) in [("hello", &hello, &items), ("items list", &items, &hello)] {
        let rest = || {
            std::thread::sleep(TIME);
            Ok(())
        };
        let ((), mut idle) = during(wharf, neighbour, rest)?;
        let (mut few, mut crowd) = (Side::default(), Side::default());
        for _ in 0..ROUNDS {
            few.measure(wharf, url, neighbour, CONNECTIONS)?;
            crowd.measure(wharf, url, neighbour, CROWD)?;
        }
        let (few_rate, crowd_rate) = (median(&mut few.rates), median(&mut crowd.rates));
        let (few_p99, crowd_p99) = (p99(&mut few.neighbour), p99(&mut crowd.neighbour));
        println!(
            "{name:<12}{few_rate:>14.0}{crowd_rate:>14.0}{:>10.2}{:>13.2}%{:>11.2} ms{few_p99:>11.2} ms{crowd_p99:>11.2} ms{:>10.2}",
            crowd_rate / few_rate,
            100.0 * crowd.failed / crowd.responses,
            p99(&mut idle),
            crowd_p99 / few_p99,
        );
    }
    Ok(())
}

impl Side {
    fn measure(&mut self, wharf: &Wharf, url: &str, neighbour: &str, connections: usize) -> Result<(), Failure> {
        let (load, times) = during(wharf, neighbour, || load(url, Some(wharf.token()), wharf.pid(), connections))?;
        let Load { rate, failed, .. } = load;
        let seconds = TIME.as_secs_f64();
        self.rates.push(rate - failed / seconds);
        self.failed += failed;
        self.responses += rate * seconds;
        self.neighbour.extend(times);
        Ok(())
    }
}

/// Calls the neighbour until the work is done. Returns the result of the work, and the response times.
fn during<T>(
    wharf: &Wharf,
    neighbour: &str,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<(T, Vec<Duration>), Failure> {
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let calling = scope.spawn(|| call_until(wharf, neighbour, &is_done));
        let done = work();
        is_done.store(true, Ordering::SeqCst);
        let times = calling.join().map_err(|_| "the client of the neighbour panicked")??;
        Ok((done?, times))
    })
}

fn call_until(wharf: &Wharf, url: &str, is_done: &AtomicBool) -> Result<Vec<Duration>, Failure> {
    let agent = ureq::Agent::new_with_defaults();
    let credential = format!("Bearer {}", wharf.token());
    let mut times = Vec::new();
    while !is_done.load(Ordering::SeqCst) {
        let began = Instant::now();
        agent.get(url).header("Authorization", &credential).call()?.body_mut().read_to_vec()?;
        times.push(began.elapsed());
        std::thread::sleep(PAUSE);
    }
    Ok(times)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Returns the time in milliseconds that one in a hundred responses exceeds.
fn p99(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    let time = times.get(times.len().saturating_mul(99) / 100).copied().unwrap_or_default();
    time.as_secs_f64() * 1e3
}
