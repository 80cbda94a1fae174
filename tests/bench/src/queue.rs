//! `make bench-queue`: measures the queue of jobs on SQLite and on PostgreSQL. The courier (`tests/guests/courier`) enqueues
//! 100 000 jobs that do nothing, so all time is the host's. The program asserts none of the numbers.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::postgres::Postgres;
use crate::usage::{cpu_seconds, most_resident, resident};
use crate::wharf::Wharf;

const JOBS: u32 = 100_000;
/// Jobs that one call enqueues in one transaction.
const JOBS_OF_CALL: u32 = 500;
/// Jobs that measure how long they wait for their start.
const PROBES: usize = 200;
/// The time between two of them.
const PROBE_INTERVAL: Duration = Duration::from_millis(25);
/// How long the idle host is watched.
const IDLE_TIME: Duration = Duration::from_secs(10);
/// How long the jobs of one database may take.
const LIMIT: Duration = Duration::from_secs(15 * 60);

const COURIER: &str = "target/wasm32-wasip2/plugin/courier.wasm";
const GRANTS: &str = "config,events,http,jobs,sql";
/// All slots are for the courier.
const SLOTS: &str = "8";

/// Measures one database after the other.
#[allow(clippy::print_stdout, reason = "the report")]
pub(crate) fn measure(binary: &Path) -> Result<(), Failure> {
    println!("{JOBS} jobs that do nothing, {SLOTS} at once");
    let directory = tempfile::tempdir()?;
    measure_on("SQLite", binary, directory.path(), None)?;
    match Postgres::start()? {
        Some(postgres) => {
            let directory = tempfile::tempdir()?;
            measure_on("PostgreSQL", binary, directory.path(), Some(&postgres))
        }
        None => {
            println!("\nPostgreSQL is not installed");
            Ok(())
        }
    }
}

#[allow(clippy::print_stdout, reason = "the report")]
fn measure_on(name: &str, binary: &Path, directory: &Path, postgres: Option<&Postgres>) -> Result<(), Failure> {
    println!("\n{name}");
    let mut command = Command::new(binary);
    command.args(["serve", "--deploy", COURIER, "--grant", GRANTS, "--grant", "jobs.rate=1000000"]);
    command.args(["--grant", &format!("jobs.concurrency={SLOTS}")]).env("WHARF_PLUGIN_BACKGROUND_PER_PLUGIN", SLOTS);
    if let Some(postgres) = postgres {
        command.env("WHARF_DATABASE_URL", postgres.url());
    }
    let courier = Courier(Wharf::serve(command, directory, ("/api/v1/courier/waits", 200))?);

    // The machine code is loaded, and the pools are filled.
    courier.probe()?;
    courier.until_waits(1)?;
    std::thread::sleep(Duration::from_secs(2));
    let (cpu, transactions) = (cpu_seconds(courier.0.pid())?, count(postgres)?);
    std::thread::sleep(IDLE_TIME);
    let seconds = IDLE_TIME.as_secs_f64();
    line("idle: CPU time per second", format!("{:.1} ms", (cpu_seconds(courier.0.pid())? - cpu) * 1e3 / seconds));
    if let Some((before, after)) = transactions.zip(count(postgres)?) {
        line("idle: transactions per second", format!("{:.1}", (after - before) / seconds));
    }

    for _ in 0..PROBES {
        courier.probe()?;
        std::thread::sleep(PROBE_INTERVAL);
    }
    line("start after the commit, nothing else runs", courier.take_waits(PROBES)?);
    line("memory before", format!("{:.0} MiB", resident(courier.0.pid())?));

    let begun = Instant::now();
    let done = courier.jobs()?.succeeded;
    for _ in 0..JOBS / JOBS_OF_CALL {
        courier.0.post(&format!("/api/v1/courier/nothing/{JOBS_OF_CALL}"))?;
    }
    let enqueued = begun.elapsed();
    line("enqueued per second", rate(f64::from(JOBS), enqueued));
    let done_meanwhile = courier.jobs()?.succeeded - done;
    // Jobs pass the outbox of their plugin in their order, so a probe would wait there for all jobs before it.
    let waiting = loop {
        let Jobs { waiting, running, succeeded } = courier.jobs()?;
        if waiting + running + succeeded - done >= f64::from(JOBS) {
            break waiting;
        }
        if begun.elapsed() > LIMIT {
            return Err(format!("{name}: the jobs did not reach the queue within {LIMIT:?}").into());
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    line("moved into the queue per second", rate(f64::from(JOBS), begun.elapsed()));
    line("jobs that wait then", format!("{waiting:.0}"));
    for _ in 0..PROBES {
        courier.probe()?;
        std::thread::sleep(PROBE_INTERVAL);
    }
    #[allow(clippy::cast_precision_loss, reason = "some hundred")]
    let probes = PROBES as f64;
    while courier.jobs()?.succeeded - done < f64::from(JOBS) + probes {
        if begun.elapsed() > LIMIT {
            return Err(format!("{name}: the jobs did not end within {LIMIT:?}").into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    line("drained per second, while jobs are enqueued", rate(done_meanwhile, enqueued));
    line("drained per second, afterwards", rate(f64::from(JOBS) - done_meanwhile, begun.elapsed() - enqueued));
    line("start after the commit, high priority, before those", courier.take_waits(PROBES)?);
    line("memory at most", format!("{:.0} MiB", most_resident(courier.0.pid())?));
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the report")]
fn line(what: &str, value: impl std::fmt::Display) {
    println!("  {what:<52}{value:>32}");
}

fn rate(count: f64, time: Duration) -> String {
    format!("{:.0}", count / time.as_secs_f64())
}

#[allow(clippy::cast_precision_loss, reason = "some thousands")]
fn count(postgres: Option<&Postgres>) -> Result<Option<f64>, Failure> {
    Ok(postgres.map(Postgres::transactions).transpose()?.map(|count| count as f64))
}

/// The jobs of the courier that the queue has, and those that ended well since the start.
struct Jobs {
    waiting: f64,
    running: f64,
    succeeded: f64,
}

/// A host with the courier.
struct Courier(Wharf);

impl Courier {
    /// Enqueues a job that measures how long it waits for its start.
    fn probe(&self) -> Result<(), Failure> {
        self.0.post("/api/v1/courier/measure")
    }

    /// Waits until this many measurements are there. Returns them in microseconds, the shortest first.
    fn until_waits(&self, number: usize) -> Result<Vec<i64>, Failure> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let waits: Vec<i64> = ureq::get(self.0.url("/api/v1/courier/waits")).call()?.body_mut().read_json()?;
            if waits.len() >= number {
                return Ok(waits);
            }
            if Instant::now() > until {
                return Err(format!("{} of {number} jobs started within a minute", waits.len()).into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns the median and the 99th percentile of the measurements, and forgets them.
    fn take_waits(&self, number: usize) -> Result<String, Failure> {
        let waits = self.until_waits(number)?;
        ureq::delete(self.0.url("/api/v1/courier/waits")).call()?;
        let millis = |percent: usize| -> f64 {
            let micros = waits.get((waits.len() * percent / 100).min(waits.len().saturating_sub(1)));
            Duration::from_micros(micros.and_then(|micros| u64::try_from(*micros).ok()).unwrap_or_default())
                .as_secs_f64()
                * 1e3
        };
        Ok(format!("median {:.1} ms, 99 % {:.1} ms", millis(50), millis(99)))
    }

    /// Returns the numbers of jobs at one moment.
    fn jobs(&self) -> Result<Jobs, Failure> {
        let metrics = self.0.metrics()?;
        Ok(Jobs {
            waiting: metrics.sample(r#"wharf_tasks{plugin="courier",kind="job",state="ready"}"#)?,
            running: metrics.sample(r#"wharf_tasks{plugin="courier",kind="job",state="running"}"#)?,
            succeeded: metrics.sample(r#"wharf_task_outcomes_total{plugin="courier",outcome="succeeded"}"#)?,
        })
    }
}
