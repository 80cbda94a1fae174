//! `make bench-many`: the cost of ten thousand deployed plugins for a start, for a request to `hello`, and in memory.
//!
//! Two hosts run at the same time, with the default log and the default settings, but without limits on sign-ins
//! (`Wharf::attend`). One has `hello` alone. The other one also has many tiny plugins, each of them different
//! (`many/tiny.wat`). While one host gets the requests that are measured, the other one is stopped, because its own work would
//! slow both. The memory is anonymous memory. The memory of a plugin is the difference between the two hosts, divided by the
//! number of plugins.
//!
//! Everything is measured twice: after a start, when nobody has called the plugins, and after a call of each. The host with
//! `hello` alone gets as many calls. The figures are written to `tests/bench/results` (`page`), and the program asserts none of
//! them.

mod page;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::ladder::{Climb, Route, Rung};
use crate::load::Request;
use crate::series::Series;
use crate::usage::{anonymous, cpu_seconds};
use crate::wharf::{Wharf, empty_log, open_log};
use crate::{CONNECTIONS, Failure, climb, targets};

/// The plugins besides `hello`, unless the command says otherwise.
const PLUGINS: u32 = 10_000;
/// Their numbers have five digits.
const MOST: u32 = 100_000;
/// Concurrent deploys, and concurrent first calls. An agent of ureq keeps three idle connections to a host.
const CLIENTS: usize = 3;
/// Starts of each host.
const STARTS: usize = 5;
/// How long a host rests before its memory is read: background work ends, and the allocator gives memory back.
const REST: Duration = Duration::from_secs(5);
/// How long the idle hosts are watched.
const IDLE_TIME: Duration = Duration::from_secs(10);
/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(120);

const HELLO: &str = "target/plugins/hello.wasm";
const HELLO_PATH: &str = "/api/v1/hello/";
/// The component of a tiny plugin, and the items of its core module.
const COMPONENT: &str = include_str!("../../guests/raw.wat");
const CORE: &str = include_str!("many/tiny.wat");

/// The names of the rungs.
pub(crate) const ALONE: &str = "hello alone";
pub(crate) const AMONG: &str = "hello among many";

/// A figure of both hosts.
pub(crate) struct Both<T> {
    pub(crate) alone: T,
    pub(crate) among: T,
}

impl<T> Both<T> {
    fn map<U>(&self, of: impl Fn(&T) -> Result<U, Failure>) -> Result<Both<U>, Failure> {
        Ok(Both { alone: of(&self.alone)?, among: of(&self.among)? })
    }
}

/// Everything that a run measured.
pub(crate) struct Many {
    pub(crate) plugins: u32,
    /// Deploys per second, and first calls per second, in each tenth of the plugins.
    deploys: Vec<f64>,
    first_calls: Vec<f64>,
    /// Anonymous memory in KiB after the deploys, and after a call of each plugin.
    after_deploys: Both<f64>,
    after_calls: Both<f64>,
    starts: Vec<Both<Start>>,
    /// After the calls: loaded releases, and KiB in idle slots of the instance pool.
    loaded: Both<f64>,
    pool: Both<f64>,
    pub(crate) not_called: State,
    pub(crate) called: State,
}

/// A start of a host without deploys.
struct Start {
    /// The time until the first response of `hello`, in milliseconds.
    time: f64,
    /// Anonymous memory in KiB.
    anonymous: f64,
}

/// The work of both hosts, before or after a call of each plugin.
pub(crate) struct State {
    /// CPU time per second without requests, in milliseconds.
    idle_cpu: Both<f64>,
    pub(crate) climbs: Vec<Climb>,
}

impl Many {
    /// Returns the anonymous memory of a plugin that nobody called since the start, in KiB.
    pub(crate) fn memory_not_called(&self) -> f64 {
        let memory = self.series(|start| start.anonymous);
        self.of_a_plugin(&Both { alone: memory.alone.median(), among: memory.among.median() })
    }

    /// Returns the anonymous memory of a plugin that was called, and is idle now, in KiB. The instance pool does not belong
    /// to it: the size of the pool is a setting, and calls of one plugin fill the pool too.
    pub(crate) fn memory_called(&self) -> f64 {
        let (all, pool) = (&self.after_calls, &self.pool);
        self.of_a_plugin(&Both { alone: all.alone - pool.alone, among: all.among - pool.among })
    }

    fn of_a_plugin(&self, memory: &Both<f64>) -> f64 {
        (memory.among - memory.alone) / f64::from(self.plugins)
    }

    /// Returns a figure of all starts.
    fn series(&self, of: impl Fn(&Start) -> f64) -> Both<Series> {
        Both {
            alone: Series::new(self.starts.iter().map(|start| of(&start.alone))),
            among: Series::new(self.starts.iter().map(|start| of(&start.among))),
        }
    }
}

/// A host with its directory.
struct Host {
    binary: PathBuf,
    directory: PathBuf,
}

impl Host {
    fn start(&self, arguments: &[&str]) -> Result<Wharf, Failure> {
        let mut command = Command::new(&self.binary);
        command.arg("serve").args(arguments).stderr(open_log(&self.directory)?);
        Wharf::attend(command, &self.directory, (HELLO_PATH, 200), PATIENCE)
    }

    fn try_start(&self) -> Result<Start, Failure> {
        let wharf = self.start(&[])?;
        std::thread::sleep(REST);
        let start = Start { time: wharf.start_time().as_secs_f64() * 1e3, anonymous: anonymous(wharf.pid())? };
        wharf.stop()?;
        Ok(start)
    }
}

/// Deploys, measures, and writes the results.
#[allow(clippy::print_stdout, reason = "the report")]
pub(crate) fn measure(binary: &Path, plugins: Option<&str>) -> Result<(), Failure> {
    let plugins = plugins.map_or(Ok(PLUGINS), str::parse)?;
    if !(1..=MOST).contains(&plugins) {
        return Err(format!("the number of plugins is from 1 to {MOST}").into());
    }
    let directory = tempfile::tempdir()?;
    let host = |name: &str| Host { binary: binary.to_owned(), directory: directory.path().join(name) };
    let many = run(&Both { alone: host("alone"), among: host("among") }, plugins)?;
    let targets = targets::judge_many(&many);
    println!();
    for targets::Target { text, reached, verdict } in &targets {
        println!("{verdict:<14}{text}: {reached}");
    }
    println!("\nThe results are in {}", page::write(&many, &targets)?);
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the report")]
fn run(hosts: &Both<Host>, plugins: u32) -> Result<Many, Failure> {
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();

    println!("Deploying {plugins} plugins …");
    let running = hosts.map(|host| host.start(&["--deploy", HELLO]))?;
    let deploys = for_each_plugin(plugins, |number| deploy(&agent, &running.among, number))?;
    std::thread::sleep(REST);
    let after_deploys = running.map(|wharf| anonymous(wharf.pid()))?;
    running.alone.stop()?;
    running.among.stop()?;

    println!("Starting each host {STARTS} times …");
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        starts.push(hosts.map(Host::try_start)?);
    }

    let running = hosts.map(|host| host.start(&[]))?;
    std::thread::sleep(REST);
    let not_called = State::measure("hello, the others were not called", hosts, &running)?;
    println!("\nCalling each plugin once …");
    let of_plugin = |number| running.among.url(&format!("/api/v1/{}/", name_of(number)));
    let first_calls = for_each_plugin(plugins, |number| call(&agent, &of_plugin(number)))?;
    println!("Calling hello alone as often …");
    for_each_plugin(plugins, |_| call(&agent, &running.alone.url(HELLO_PATH)))?;
    std::thread::sleep(REST);
    let after_calls = running.map(|wharf| anonymous(wharf.pid()))?;
    // Only now: the text takes memory.
    let metrics = running.map(Wharf::metrics)?;
    let loaded = metrics.map(|metrics| metrics.sample("wharf_releases_prepared"))?;
    let pool = metrics.map(|metrics| Ok(metrics.sample("wharf_pool_idle_bytes")? / 1024.0))?;
    let called = State::measure("hello, the others were called once", hosts, &running)?;
    Ok(Many { plugins, deploys, first_calls, after_deploys, after_calls, starts, loaded, pool, not_called, called })
}

impl State {
    fn measure(name: &'static str, hosts: &Both<Host>, running: &Both<Wharf>) -> Result<Self, Failure> {
        let before = running.map(|wharf| cpu_seconds(wharf.pid()))?;
        std::thread::sleep(IDLE_TIME);
        let after = running.map(|wharf| cpu_seconds(wharf.pid()))?;
        let per_second = |seconds: f64| seconds * 1e3 / IDLE_TIME.as_secs_f64();
        let idle_cpu =
            Both { alone: per_second(after.alone - before.alone), among: per_second(after.among - before.among) };
        let mut climbs = Vec::new();
        for connections in [CONNECTIONS, 1] {
            hosts.map(|host| empty_log(&host.directory))?;
            let rung = |name, wharf: &Wharf, other: &Wharf| {
                Rung::new(name, wharf.pid(), Request::get(wharf.url(HELLO_PATH))).without(other.pid())
            };
            let Both { alone, among } = running;
            let rungs = vec![rung(ALONE, alone, among), rung(AMONG, among, alone)];
            climbs.push(climb(&Route { name, connections, rungs })?);
        }
        Ok(Self { idle_cpu, climbs })
    }
}

/// Does the work for the number of each plugin, [`CLIENTS`] at a time, and prints the progress. Returns the rate per second in
/// each tenth of the plugins.
#[allow(clippy::print_stdout, reason = "the progress")]
fn for_each_plugin(plugins: u32, work: impl Fn(u32) -> Result<(), Failure> + Sync) -> Result<Vec<f64>, Failure> {
    let mut rates = Vec::new();
    let mut from = 0;
    for tenth in 1..=10 {
        let to = from + (plugins - from) / (11 - tenth);
        let next = AtomicU32::new(from);
        let client = || -> Result<(), Failure> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= to {
                    return Ok(());
                }
                // The other clients end too.
                work(number).inspect_err(|_| next.store(to, Ordering::Relaxed))?;
            }
        };
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            clients.into_iter().try_for_each(|client| -> Result<(), Failure> {
                client.join().map_err(|_| "a client of the host panicked")?
            })
        })?;
        rates.push(f64::from(to - from) / begun.elapsed().as_secs_f64());
        println!("{to:>8} of {plugins}, {:.1} per second", rates.last().copied().unwrap_or_default());
        from = to;
    }
    Ok(rates)
}

fn deploy(agent: &ureq::Agent, wharf: &Wharf, number: u32) -> Result<(), Failure> {
    let request = agent.post(wharf.url("/api/v1/plugins/"));
    let request = request.header("Authorization", format!("Bearer {}", wharf.token()));
    succeeded(request.header("Content-Type", "application/wasm").send(component(number)?)?)
}

fn call(agent: &ureq::Agent, url: &str) -> Result<(), Failure> {
    succeeded(agent.get(url).call()?)
}

fn succeeded(mut response: ureq::http::Response<ureq::Body>) -> Result<(), Failure> {
    let text = response.body_mut().read_to_string()?;
    let status = response.status();
    if status.is_success() { Ok(()) } else { Err(format!("a plugin gave {status}: {text}").into()) }
}

fn name_of(number: u32) -> String {
    format!("many-{number:05}")
}

/// Returns a tiny plugin that differs from all others.
fn component(number: u32) -> Result<Vec<u8>, Failure> {
    let core = CORE.replace("\"NAME\"", &format!("\"{}\"", name_of(number)));
    Ok(wat::parse_str(COMPONENT.replace(";; CORE", &core))?)
}

#[cfg(test)]
mod tests {
    use wasmtime::Engine;
    use wasmtime::component::Component;

    use super::*;

    #[test]
    fn tiny_plugins_are_components_that_differ() {
        let [one, other] = [7, 99_999].map(|number| component(number).unwrap());
        let engine = Engine::default();
        for bytes in [&one, &other] {
            // Compiles it, and so validates it.
            Component::from_binary(&engine, bytes).unwrap();
        }
        assert_eq!(one.len(), other.len());
        assert_ne!(one, other);
        assert_eq!(name_of(MOST - 1).len(), name_of(0).len());
    }
}
