//! A thousand clients of one plugin at once, compared with the usual number: the responses per second, the share of
//! requests that are turned away, and the response times of a neighbour. The settings are the defaults.
//!
//! Loads alternate, round by round. Meanwhile one client calls another plugin, one request after the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::load::{Load, Request, TIME};
use crate::series::Series;
use crate::wharf::Wharf;
use crate::{CONNECTIONS, Failure, LIST_LIMIT};

/// The clients of the crowd.
pub(crate) const CROWD: usize = 1_000;
/// Rounds of each load.
const ROUNDS: usize = 5;
/// The pause between two requests of the neighbour's client, so that it adds little load.
const PAUSE: Duration = Duration::from_millis(5);

/// The measurements of one plugin.
pub(crate) struct Crowd {
    pub(crate) route: &'static str,
    /// Successes per second with the usual number of clients, and with the crowd.
    pub(crate) few_rate: f64,
    pub(crate) crowd_rate: f64,
    /// The share of the crowd's requests without a success.
    pub(crate) turned_away: f64,
    /// The p99 of the neighbour in milliseconds: without a load, with few clients, and with the crowd.
    pub(crate) idle_p99: f64,
    pub(crate) few_p99: f64,
    pub(crate) crowd_p99: f64,
}

/// The measurements of one load.
#[derive(Default)]
struct Side {
    /// Successes per second of each round.
    rates: Vec<f64>,
    failed: f64,
    requests: f64,
    /// Response times of the neighbour.
    neighbour: Vec<Duration>,
}

/// Measures each plugin with the other as its neighbour.
pub(crate) fn compare(wharf: &Wharf) -> Result<Vec<Crowd>, Failure> {
    let (hello, items) = (wharf.url("/api/v1/hello/"), wharf.url(&format!("/api/v1/items/?limit={LIST_LIMIT}")));
    let mut crowds = Vec::new();
    for (route, url, neighbour) in [("hello", &hello, &items), ("list", &items, &hello)] {
        let rest = || {
            std::thread::sleep(TIME);
            Ok(())
        };
        let ((), idle) = during(wharf, neighbour, rest)?;
        let (mut few, mut crowd) = (Side::default(), Side::default());
        for _ in 0..ROUNDS {
            few.measure(wharf, url, neighbour, CONNECTIONS)?;
            crowd.measure(wharf, url, neighbour, CROWD)?;
        }
        crowds.push(Crowd {
            route,
            few_rate: Series::new(few.rates).median(),
            crowd_rate: Series::new(crowd.rates).median(),
            turned_away: crowd.failed / crowd.requests,
            idle_p99: p99(idle),
            few_p99: p99(few.neighbour),
            crowd_p99: p99(crowd.neighbour),
        });
    }
    Ok(crowds)
}

impl Side {
    fn measure(&mut self, wharf: &Wharf, url: &str, neighbour: &str, connections: usize) -> Result<(), Failure> {
        let request = Request::get(url.to_owned()).with_token(wharf.token());
        let (load, times) = during(wharf, neighbour, || Load::measure(&request, &[wharf.pid()], connections))?;
        self.rates.push(load.rate);
        self.failed += load.failed;
        self.requests += load.requests;
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

/// Returns the time in milliseconds that one in a hundred responses exceeds.
fn p99(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let time = times.get(times.len().saturating_mul(99) / 100).copied().unwrap_or_default();
    time.as_secs_f64() * 1e3
}
