//! The attack suite: a hostile plugin or client attacks a real host while a well-behaved neighbour is served.
//!
//! An attack test passes when the host survives, the attacker gets the right status and code, a metric counts the
//! attack, the neighbour's responses are unaffected, and the host's memory, threads and file descriptors return to
//! their earlier level. `make attack` runs the suite alone and also compares the neighbour's p99 with its quiet value.
//! That comparison is left out when other tests run on the same two cores.

mod cpu;
mod data;
mod egress;
pub(crate) mod handwritten_component;
mod http;
mod http2;
mod identity;
mod lifecycle;
mod mail;
mod memory;
mod messages;
mod outbox;
mod pool;
mod time;
mod users;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::http::metrics::samples;
use crate::support::compiled_components;
use crate::support::host::CHAMELEON;
use crate::support::patience::PATIENCE;
use crate::support::postgres::{self, TestDatabase};
use crate::support::process::{Process, ProcessResources, home};
use crate::support::{Backend, Client, Component, TestResponse};

/// The number of attacks that run at once. It does not depend on the machine, because each attack may take gigabytes.
/// `make attack` runs one test at a time, because each test measures things that others would disturb.
static ARENAS: Semaphore = Semaphore::const_new(2);

/// The highest permitted ratio of the neighbour's p99 during an attack to its quiet p99 before or after it.
const MAX_RATIO: u32 = 3;
/// A p99 below this says nothing about an attack: the operating system's scheduler may take as long.
const MIN_P99: Duration = Duration::from_millis(10);
/// Calls of the neighbour in a quiet measurement.
const QUIET_CALLS: usize = 300;
/// The number of neighbour calls that a comparison needs. The attack is repeated until there are as many, at most
/// `REPEATS` times.
const SAMPLES: usize = 100;
const REPEATS: usize = 20;
/// Measurements before the test fails. A machine that is briefly busy is slow once; a neighbour that is starved is slow
/// each time.
const ATTEMPTS: usize = 3;

/// Whether the neighbour's p99 is compared with its quiet value.
fn is_strict() -> bool {
    std::env::var_os("WHARF_ATTACK_ALONE").is_some()
}

/// The number of calls in a quiet measurement; fewer where the p99 is not compared.
fn calls() -> usize {
    if is_strict() { QUIET_CALLS } else { QUIET_CALLS / 10 }
}

/// The metric that must count an attack.
#[derive(Debug, Clone, Copy)]
enum CountedBy {
    /// `wharf_plugin_limit_hits_total` of the attacker.
    Limit(&'static str),
    /// `wharf_plugin_calls_total` of the attacker.
    Outcome(&'static str),
    /// A metric of the host, with any labels.
    Host(&'static str),
    /// A recorded deploy that failed.
    Deploy,
}

/// The neighbour plugin's behaviour.
#[derive(Debug, Clone, Copy)]
enum Neighbour {
    /// It returns a greeting and needs no capability.
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

    fn response(self) -> &'static str {
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

/// A host with a neighbour and an attacker. The attacker is the `chameleon` guest, which misbehaves as its URL says.
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

    /// Returns `None` if the database is not installed.
    async fn open_on(backend: Backend, settings: &[(&str, &str)], limits: &str, neighbour: Neighbour) -> Option<Self> {
        let database = match backend {
            Backend::Sqlite => None,
            Backend::Postgres => Some(postgres::database().await?),
        };
        let permit = ARENAS.acquire().await.unwrap();
        let mut settings = settings.to_vec();
        settings.extend(database.as_ref().map(|database| ("WHARF_DATABASE_URL", database.url.as_str())));
        // An open circuit breaker would respond in place of the attacker.
        settings.push(("WHARF_PLUGIN_BREAKER_FAULTS", "20"));
        settings.push(("WHARF_PLUGIN_QUARANTINE", "10ms"));
        // An automatic rollback would replace the attacker by its previous release.
        settings.push(("WHARF_PLUGIN_PROBATION", "0s"));
        let home = home();
        compiled_components::lend(home.path());
        let process = Process::start_with(home, &settings).await;
        let superuser = process.superuser().await;
        neighbour.deploy(&superuser).await;
        let attacker = format!("name=attacker&{CHAMELEON}{limits}");
        superuser.deploy(&Component::chameleon().0, &attacker).await.ok();
        compiled_components::keep(process.home.path());
        let client = process.client();
        let arena = Self { process, client, superuser, neighbour, _database: database, _permit: permit };
        arena.neighbour(calls()).await;
        Some(arena)
    }

    /// Replaces the attacker by another component.
    async fn replace_attacker(&self, component: &Component) {
        self.superuser.deploy(&component.0, "name=attacker").await.ok();
    }

    async fn get(&self, path: &str) -> TestResponse {
        get_after_quarantine(&self.client, &format!("/attacker/{path}")).await
    }

    /// Sends the same request from the given number of clients at once.
    async fn flood(&self, clients: usize, path: &str) -> Vec<TestResponse> {
        let calls = (0..clients).map(|_| {
            let (client, path) = (self.process.client(), format!("/attacker/{path}"));
            tokio::spawn(async move { get_after_quarantine(&client, &path).await })
        });
        let mut responses = Vec::new();
        for call in calls.collect::<Vec<_>>() {
            responses.push(call.await.unwrap());
        }
        responses
    }

    /// Returns the p99 of the neighbour's response times.
    async fn neighbour(&self, calls: usize) -> Duration {
        let mut times = Vec::with_capacity(calls);
        for _ in 0..calls {
            times.push(self.greet().await);
        }
        p99(times)
    }

    async fn greet(&self) -> Duration {
        let began = Instant::now();
        let response = self.client.get(self.neighbour.path()).await;
        assert_eq!((response.status, response.text().as_str()), (200, self.neighbour.response()), "the neighbour");
        began.elapsed()
    }

    /// Attacks while the neighbour is called without pause.
    async fn attack(&mut self, name: &str, counted: CountedBy, attack: impl AsyncFn(&Self)) {
        for attempt in 1..=ATTEMPTS {
            let (during, quiet) = self.measure(name, counted, &attack).await;
            eprintln!("{name}: p99 of the neighbour {during:?}, quiet {quiet:?}");
            if !is_strict() || during <= quiet * MAX_RATIO {
                return;
            }
            let message = format!("{name}: the neighbour's p99 was {during:?}, and {quiet:?} when it is quiet");
            assert!(attempt < ATTEMPTS, "{message}, {ATTEMPTS} times");
        }
    }

    /// Returns the neighbour's p99 during the attack, and when it is quiet.
    async fn measure(&mut self, name: &str, counted: CountedBy, attack: &impl AsyncFn(&Self)) -> (Duration, Duration) {
        let quiet_before = self.neighbour(calls()).await;
        let before = self.count(counted).await;
        let resources = self.process.resources();
        let (over, completed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let asking = {
            let (client, over, completed) = (self.process.client(), Arc::clone(&over), Arc::clone(&completed));
            let neighbour = self.neighbour;
            tokio::spawn(async move {
                let mut times = Vec::new();
                while !over.load(Ordering::Relaxed) || times.is_empty() {
                    let began = Instant::now();
                    let response = client.get(neighbour.path()).await;
                    let actual = (response.status, response.text());
                    assert_eq!(actual, (200, neighbour.response().to_owned()), "the neighbour: {response:?}");
                    times.push(began.elapsed());
                    completed.store(times.len(), Ordering::Relaxed);
                }
                times
            })
        };
        for _ in 0..if is_strict() { REPEATS } else { 1 } {
            attack(self).await;
            if completed.load(Ordering::Relaxed) >= SAMPLES {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
        let during = p99(asking.await.unwrap_or_else(|error| panic!("{name}: {error}")));
        assert!(self.process.child.try_wait().unwrap().is_none(), "{name}: the host has ended: {}", self.process.log());
        let after = self.count(counted).await;
        assert!(after > before, "{name}: {counted:?} did not count the attack: {before} → {after}");
        self.wait_until_recovered(&resources, name).await;
        (during, quiet_before.max(self.neighbour(calls()).await).max(MIN_P99))
    }

    async fn count(&self, counted: CountedBy) -> f64 {
        let attacker = |metric: &str| format!("wharf_{metric}{{plugin=\"attacker\"");
        let (name, with) = match counted {
            CountedBy::Limit(limit) => (attacker("plugin_limit_hits_total"), format!("limit=\"{limit}\"")),
            CountedBy::Outcome(outcome) => (attacker("plugin_calls_total"), format!("outcome=\"{outcome}\"")),
            CountedBy::Host(name) => (name.to_owned(), String::new()),
            CountedBy::Deploy => ("wharf_deploys_total".to_owned(), "failed".to_owned()),
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

    /// Waits until no call runs or waits, no resource is held, and the process is as large as before, apart from pooled
    /// memory, threads and file descriptors.
    async fn wait_until_recovered(&self, before: &ProcessResources, name: &str) {
        let zero = [
            "wharf_calls_running",
            "wharf_calls_waiting",
            "wharf_calls_waiting_bytes",
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
            let now = self.process.resources();
            let near = now.threads <= before.threads + 40
                && now.descriptors <= before.descriptors + 24
                && now.resident_kib <= before.resident_kib + 96 * 1024;
            if samples.is_empty() && near {
                return;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "the host did not recover after {name}: {samples:?}, {now:?}, before {before:?}"
            );
            tokio::time::sleep(MIN_P99).await;
        }
    }
}

/// Returns the response to a request once the circuit breaker lets it through: the attacker fails so often that it is
/// quarantined too.
async fn get_after_quarantine(client: &Client, path: &str) -> TestResponse {
    loop {
        let response = client.get(path).await;
        if response.status != 503 || response.problem()["code"] != "plugin_quarantined" {
            return response;
        }
        tokio::time::sleep(MIN_P99).await;
    }
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let rank = (times.len() * 99).div_ceil(100);
    times[rank.clamp(1, times.len()) - 1]
}
