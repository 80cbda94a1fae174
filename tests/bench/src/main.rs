//! `make bench`: compares Wharf's routes with the same work in plain axum and sqlx, as ratios.
//!
//! Both servers run at the same time and are measured alternately, round by round, so that other load on the machine
//! affects both. Throughput comes from wrk. CPU time per request is the server's own, read from /proc, and is the
//! steadier figure. The program asserts none of these numbers, because machines differ. It fails if known and unknown
//! accounts can be told apart by time (`identity`). A thousand clients of one plugin are compared with a few (`crowd`).
//! `make bench-queue` measures the queue of jobs instead (`queue`), and `make bench-check` counts instructions (`count`).

mod baseline;
mod count;
mod crowd;
mod identity;
mod postgres;
mod queue;
mod wharf;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Rounds of each measurement.
const ROUNDS: usize = 5;
/// The duration of one measurement.
const TIME: Duration = Duration::from_secs(3);
/// Concurrent connections.
const CONNECTIONS: usize = 32;
/// Items in the list that is requested.
const ITEMS: usize = 20;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("baseline") => baseline::serve(&PathBuf::from(arguments.next().ok_or("baseline needs a database file")?)),
        Some("check") => {
            let program = PathBuf::from(arguments.next().ok_or("check needs the program")?);
            count::check(&program, arguments.next().as_deref() == Some("--record"))
        }
        Some("queue") => queue::measure(&PathBuf::from(arguments.next().ok_or("queue needs the program")?)),
        Some(binary) => compare(&PathBuf::from(binary)),
        None => Err("usage: wharf-bench [queue] WHARF, or wharf-bench check WHARF-COUNTED [--record]".into()),
    }
}

/// A benchmark: its name, and the URLs on both servers.
struct Benchmark<'a> {
    name: &'a str,
    wharf: String,
    plain: String,
}

#[allow(clippy::print_stdout, reason = "the report")]
fn compare(binary: &std::path::Path) -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    println!("Starting both servers …");
    let wharf = wharf::Wharf::start(binary, directory.path())?;
    let plain = baseline::Baseline::start(&directory.path().join("plain.sqlite"))?;
    wharf.create_items(ITEMS)?;
    let pairs = [
        Benchmark { name: "hello", wharf: wharf.url("/api/v1/hello/"), plain: plain.url("/hello") },
        Benchmark { name: "items list", wharf: wharf.url("/api/v1/items/"), plain: plain.url("/items") },
    ];
    println!("{ROUNDS} rounds of {}s each side, {CONNECTIONS} connections\n", TIME.as_secs());
    println!(
        "{:<12}{:>14}{:>14}{:>10}{:>14}{:>14}",
        "", "wharf req/s", "axum req/s", "ratio", "wharf µs CPU", "axum µs CPU"
    );
    for pair in &pairs {
        // One unmeasured run fills pools and caches.
        measure(&pair.wharf, Some(wharf.token()), wharf.pid())?;
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let ours = measure(&pair.wharf, Some(wharf.token()), wharf.pid())?;
            let theirs = measure(&pair.plain, None, plain.pid())?;
            rounds.push((ours, theirs));
        }
        let median = |of: &dyn Fn(&(Load, Load)) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or_default()
        };
        println!(
            "{:<12}{:>14.0}{:>14.0}{:>10.2}{:>14.1}{:>14.1}",
            pair.name,
            median(&|(ours, _)| ours.rate),
            median(&|(_, theirs)| theirs.rate),
            median(&|(ours, theirs)| ours.rate / theirs.rate),
            median(&|(ours, _)| ours.cpu_micros),
            median(&|(_, theirs)| theirs.cpu_micros),
        );
    }
    crowd::compare(&wharf)?;
    identity::compare(&wharf)
}

/// The result of one measurement.
struct Load {
    /// Responses per second.
    rate: f64,
    /// CPU time of the server per response, in microseconds.
    cpu_micros: f64,
    /// Responses with another status than 2xx or 3xx, and requests without a response.
    failed: f64,
}

/// Measures with the usual number of connections. A response that is not a success is an error.
fn measure(url: &str, token: Option<&str>, pid: u32) -> Result<Load, Failure> {
    let load = load(url, token, pid, CONNECTIONS)?;
    if load.failed > 0.0 { Err(format!("{url} failed {} times", load.failed).into()) } else { Ok(load) }
}

fn load(url: &str, token: Option<&str>, pid: u32, connections: usize) -> Result<Load, Failure> {
    let before = cpu_seconds(pid)?;
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", &format!("-c{connections}"), &format!("-d{}s", TIME.as_secs())]);
    if let Some(token) = token {
        wrk.args(["-H", &format!("Authorization: Bearer {token}")]);
    }
    let output =
        wrk.arg(url).output().map_err(|error| format!("wrk does not start ({error}); on Debian: apt install wrk"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(format!("{url} gave errors:\n{text}{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let number = |before: &str| -> Result<f64, Failure> {
        let line = text.lines().find(|line| line.contains(before)).ok_or("wrk said nothing")?;
        let word =
            if before.starts_with("Req") { line.split_whitespace().last() } else { line.split_whitespace().next() };
        Ok(word.ok_or("wrk said nothing")?.parse()?)
    };
    let requests = number("requests in")?;
    let failed = text.lines().filter(|line| line.contains("Non-2xx") || line.contains("Socket errors")).map(sum).sum();
    let cpu_micros = (cpu_seconds(pid)? - before) * 1e6 / requests;
    Ok(Load { rate: number("Requests/sec")?, cpu_micros, failed })
}

/// Returns the sum of the numbers in a line, such as `Socket errors: connect 0, read 2, write 0, timeout 1`.
fn sum(line: &str) -> f64 {
    line.split([' ', ',']).filter_map(|word| word.parse::<f64>().ok()).sum()
}

/// Returns the user and system time of a process from /proc/PID/stat (proc(5): fields 14 and 15, in ticks of 10 ms).
fn cpu_seconds(pid: u32) -> Result<f64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').ok_or("no name in /proc/PID/stat")?.1;
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|text| text.parse::<u64>().ok()).sum();
    #[allow(clippy::cast_precision_loss, reason = "a count of 10 ms ticks")]
    Ok(ticks as f64 / 100.0)
}
