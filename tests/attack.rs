//! The attack suite: what a hostile plugin or client does to a real host, while a well-behaved neighbour is served.
//!
//! An attack passes when the host lives, the attacker gets the right status and code, a metric counts it, the neighbour is
//! served as if nothing happened, and what the host holds returns to where it was. `make attack` runs it alone and also
//! holds the neighbour's p99 against its quiet value; beside other tests, which want the same two cores, that is left out.

mod cpu;
mod data;
mod egress;
mod handwritten_component;
mod http;
mod http2;
mod lifecycle;
mod memory;
mod pool;
mod time;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::http::metrics::samples;
use crate::support::host::CHAMELEON;
use crate::support::postgres::{self, TestDatabase};
use crate::support::process::{Holdings, Process, home};
use crate::support::{Answer, Backend, Client, Component};

/// As many attacks at a time, whatever the machine: each may take gigabytes. `make attack` runs one test after the other,
/// because there each measures what others would disturb.
static ARENAS: Semaphore = Semaphore::const_new(2);

/// The neighbour's p99 during an attack, against the quiet one before or after it.
const TIMES: u32 = 3;
/// Below this a p99 says nothing of an attack: the machine's own scheduler may take as long.
const LEAST: Duration = Duration::from_millis(10);
/// Calls of the neighbour in a quiet measurement.
const CALLS: usize = 300;
/// Calls of the neighbour that an attack is held against; it is repeated until there are as many, so often at most.
const SAMPLES: usize = 100;
const REPEATS: usize = 20;
/// How long it may take until nothing of an attack is left; far more than it does.
const REST: Duration = Duration::from_secs(30);
/// A machine that does something else for a moment is slow once; a neighbour that is starved is slow each time.
const ATTEMPTS: usize = 3;

/// Whether an attack is held against the clock.
fn is_strict() -> bool {
    std::env::var_os("WHARF_ATTACK_ALONE").is_some()
}

/// Where nothing is held against it, the quiet neighbour need not be known so well.
fn calls() -> usize {
    if is_strict() { CALLS } else { CALLS / 10 }
}

/// What must have counted an attack.
#[derive(Debug, Clone, Copy)]
enum Counted {
    /// `wharf_plugin_limits_met_total` of the attacker.
    Limit(&'static str),
    /// `wharf_plugin_calls_total` of the attacker.
    Outcome(&'static str),
    /// A metric of the host, whatever its labels.
    Host(&'static str),
    /// A recorded deploy that failed.
    Deploy,
}

/// What the neighbour does.
#[derive(Debug, Clone, Copy)]
enum Neighbour {
    /// It greets, and needs nothing.
    Greeting,
    /// It reads its own table.
    Notes,
}

impl Neighbour {
    fn path(self) -> &'static str {
        match self {
            Self::Greeting => "/neighbour/",
            Self::Notes => "/neighbour/notes",
        }
    }

    fn answer(self) -> &'static str {
        match self {
            Self::Greeting => r#"{"message":"Hello"}"#,
            Self::Notes => r#"["mine"]"#,
        }
    }

    async fn deploy(self, superuser: &Client) {
        match self {
            Self::Greeting => drop(superuser.deploy(&Component::hello().0, "name=neighbour").await.ok()),
            Self::Notes => {
                superuser.deploy(&Component::chameleon().0, &format!("name=neighbour&{CHAMELEON}")).await.ok();
                let noted = superuser.request(Method::POST, "/neighbour/notes/mine").send().await;
                assert_eq!(noted.status, 204);
            }
        }
    }
}

/// A host with a neighbour and an attacker, which is the guest that does what it is asked for.
struct Arena {
    process: Process,
    client: Client,
    superuser: Client,
    neighbour: Neighbour,
    // Dropped after the host that uses it.
    _database: Option<TestDatabase>,
    _permit: SemaphorePermit<'static>,
}

impl Arena {
    async fn open(settings: &[(&str, &str)], limits: &str) -> Self {
        Self::open_on(Backend::Sqlite, settings, limits, Neighbour::Greeting).await.unwrap()
    }

    /// None where the database is not installed.
    async fn open_on(backend: Backend, settings: &[(&str, &str)], limits: &str, neighbour: Neighbour) -> Option<Self> {
        let database = match backend {
            Backend::Sqlite => None,
            Backend::Postgres => Some(postgres::database().await?),
        };
        let permit = ARENAS.acquire().await.unwrap();
        let mut settings = settings.to_vec();
        settings.extend(database.as_ref().map(|database| ("WHARF_DATABASE_URL", database.url.as_str())));
        // A breaker that opens would answer in the attacker's place.
        settings.push(("WHARF_PLUGIN_BREAKER_FAULTS", "20"));
        settings.push(("WHARF_PLUGIN_QUARANTINE", "10ms"));
        // And the release before would come back in its place.
        settings.push(("WHARF_PLUGIN_PROBATION", "0s"));
        let process = Process::start_with(home(), &settings).await;
        let superuser = process.superuser().await;
        neighbour.deploy(&superuser).await;
        let attacker = format!("name=attacker&{CHAMELEON}{limits}");
        superuser.deploy(&Component::chameleon().0, &attacker).await.ok();
        let client = process.client();
        let arena = Self { process, client, superuser, neighbour, _database: database, _permit: permit };
        arena.neighbour(calls()).await;
        Some(arena)
    }

    /// Deploys another component in the attacker's place.
    async fn becomes(&self, component: &Component) {
        self.superuser.deploy(&component.0, "name=attacker").await.ok();
    }

    async fn get(&self, path: &str) -> Answer {
        answered(&self.client, &format!("/attacker/{path}")).await
    }

    /// The same request from so many clients at once.
    async fn flood(&self, clients: usize, path: &str) -> Vec<Answer> {
        let calls = (0..clients).map(|_| {
            let (client, path) = (self.process.client(), format!("/attacker/{path}"));
            tokio::spawn(async move { answered(&client, &path).await })
        });
        let mut answers = Vec::new();
        for call in calls.collect::<Vec<_>>() {
            answers.push(call.await.unwrap());
        }
        answers
    }

    /// How long the slowest of a hundred calls of the neighbour takes.
    async fn neighbour(&self, calls: usize) -> Duration {
        let mut times = Vec::with_capacity(calls);
        for _ in 0..calls {
            times.push(self.greet().await);
        }
        p99(times)
    }

    async fn greet(&self) -> Duration {
        let began = Instant::now();
        let answer = self.client.get(self.neighbour.path()).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, self.neighbour.answer()), "the neighbour");
        began.elapsed()
    }

    /// Attacks while the neighbour is asked without pause.
    async fn attack(&mut self, name: &str, counted: Counted, attack: impl AsyncFn(&Self)) {
        for attempt in 1..=ATTEMPTS {
            let (during, quiet) = self.measure(name, counted, &attack).await;
            eprintln!("{name}: p99 of the neighbour {during:?}, quiet {quiet:?}");
            if !is_strict() || during <= quiet * TIMES {
                return;
            }
            let told = format!("{name}: the neighbour's p99 was {during:?}, and {quiet:?} when it is quiet");
            assert!(attempt < ATTEMPTS, "{told}, {ATTEMPTS} times");
        }
    }

    /// The neighbour's p99 while it lasts, and when it is quiet.
    async fn measure(&mut self, name: &str, counted: Counted, attack: &impl AsyncFn(&Self)) -> (Duration, Duration) {
        let quiet_before = self.neighbour(calls()).await;
        let before = self.count(counted).await;
        let holdings = self.process.holdings();
        let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let asking = {
            let (client, over, answered) = (self.process.client(), Arc::clone(&over), Arc::clone(&answered));
            let neighbour = self.neighbour;
            tokio::spawn(async move {
                let mut times = Vec::new();
                while !over.load(Ordering::Relaxed) || times.is_empty() {
                    let began = Instant::now();
                    let answer = client.get(neighbour.path()).await;
                    let told = (answer.status, answer.text());
                    assert_eq!(told, (200, neighbour.answer().to_owned()), "the neighbour: {answer:?}");
                    times.push(began.elapsed());
                    answered.store(times.len(), Ordering::Relaxed);
                }
                times
            })
        };
        for _ in 0..if is_strict() { REPEATS } else { 1 } {
            attack(self).await;
            if answered.load(Ordering::Relaxed) >= SAMPLES {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
        let during = p99(asking.await.unwrap_or_else(|error| panic!("{name}: {error}")));
        assert!(self.process.child.try_wait().unwrap().is_none(), "{name}: the host has ended: {}", self.process.log());
        let after = self.count(counted).await;
        assert!(after > before, "{name}: {counted:?} did not count it: {before} → {after}");
        self.returns_to(&holdings, name).await;
        (during, quiet_before.max(self.neighbour(calls()).await).max(LEAST))
    }

    async fn count(&self, counted: Counted) -> f64 {
        let attacker = |metric: &str| format!("wharf_{metric}{{plugin=\"attacker\"");
        let (name, with) = match counted {
            Counted::Limit(limit) => (attacker("plugin_limits_met_total"), format!("limit=\"{limit}\"")),
            Counted::Outcome(outcome) => (attacker("plugin_calls_total"), format!("outcome=\"{outcome}\"")),
            Counted::Host(name) => (name.to_owned(), String::new()),
            Counted::Deploy => ("wharf_deploys_total".to_owned(), "failed".to_owned()),
        };
        let samples = samples(&self.superuser).await;
        let named = |key: &str| {
            key == name
                || key.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('{') || name.contains('{'))
        };
        let matching = samples.iter().filter(|(key, _)| named(key) && key.contains(&with));
        let values: Vec<f64> = matching.map(|(_, value)| *value).collect();
        assert!(!values.is_empty(), "there is no metric {name} with {with}");
        values.iter().sum()
    }

    /// Nothing runs, waits or is held any more, and the process is as large as it was, give or take what pools keep.
    async fn returns_to(&self, before: &Holdings, name: &str) {
        let zero = [
            "wharf_calls_running",
            "wharf_calls_waiting",
            "wharf_plugin_calls_running",
            "wharf_plugin_calls_waiting",
            "wharf_plugin_sql_connections",
            "wharf_pool_slots",
            "wharf_http_body_bytes",
        ];
        let began = Instant::now();
        loop {
            let mut samples = samples(&self.superuser).await;
            samples.retain(|(key, value)| {
                *value != 0.0 && zero.iter().any(|zero| key == zero || key.starts_with(&format!("{zero}{{")))
            });
            let now = self.process.holdings();
            let near = now.threads <= before.threads + 40
                && now.descriptors <= before.descriptors + 24
                && now.resident_kib <= before.resident_kib + 96 * 1024;
            if samples.is_empty() && near {
                return;
            }
            assert!(began.elapsed() < REST, "no rest after {name}: {samples:?}, {now:?} and before {before:?}");
            tokio::time::sleep(LEAST).await;
        }
    }
}

/// The answer to a request, once the breaker lets it through: the attacker fails so often that it is quarantined too.
async fn answered(client: &Client, path: &str) -> Answer {
    loop {
        let answer = client.get(path).await;
        if answer.status != 503 || answer.problem()["code"] != "plugin_quarantined" {
            return answer;
        }
        tokio::time::sleep(LEAST).await;
    }
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let rank = (times.len() * 99).div_ceil(100);
    times[rank.clamp(1, times.len()) - 1]
}
