//! `GET /metrics`: what the host and its plugins do and did, for Prometheus. For superusers, and for whoever knows
//! `server.metrics_token`.
//!
//! Written at each scrape from what is counted elsewhere. Labels are names of plugins, numbers of loaded releases and
//! words of the host, never anything that a client or a guest made up, so there are only so many series.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use subtle::ConstantTimeEq as _;

use crate::db::email;
use crate::error::{Error, Result};
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::Reply;
use crate::http::{Host, access};
use crate::id::PluginName;
use crate::plugin::Release;
use crate::plugin::drain::Drain;
use crate::plugin::tally::Counts;
use crate::route::Access;

/// Route of the metrics.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    // Its handler knows more credentials than the check of access does.
    vec![HostRoute::get("/metrics", read_metrics).public().undocumented()]
}

async fn read_metrics(host: Arc<Host>, call: Call) -> Result<Reply> {
    if !has_token(&host, &call.headers) {
        access::check(&host.auth, &call.headers, &Access::Superuser, None).await?;
    }
    let mut registry = Registry::with_prefix("wharf");
    registry.register_collector(Box::new(Scrape::of(&host).await));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry).map_err(|error| Error::internal("metrics").with_source(error))?;
    Ok(Reply::new(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
}

fn has_token(host: &Host, headers: &HeaderMap) -> bool {
    let Some(token) = &host.config.server.metrics_token else { return false };
    access::bearer(headers).is_some_and(|given| given.as_bytes().ct_eq(token.expose().as_bytes()).into())
}

/// Calls that took less are in the first bucket, and those that took more in the last.
const FASTEST: Duration = Duration::from_micros(1 << 6);
const SLOWEST: Duration = Duration::from_micros(1 << 24);

type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
enum Sample {
    Counter(u64),
    Seconds(f64),
    Gauge(i64),
    Histogram { sum: f64, count: u64, buckets: Vec<(f64, u64)> },
}

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    samples: Vec<(Labels, Sample)>,
}

/// Everything at one moment.
#[derive(Debug, Default)]
struct Scrape {
    families: Vec<Family>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for family in &self.families {
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, family.kind)?;
            for (labels, sample) in &family.samples {
                sample.encode(metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

impl Sample {
    fn encode(&self, mut metric: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        match self {
            Self::Counter(count) => metric.encode_counter::<NoLabelSet, _, u64>(count, None),
            Self::Seconds(seconds) => metric.encode_counter::<NoLabelSet, _, u64>(seconds, None),
            Self::Gauge(value) => metric.encode_gauge(value),
            Self::Histogram { sum, count, buckets } => {
                metric.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)
            }
        }
    }
}

fn gauge(number: impl TryInto<i64>) -> Sample {
    Sample::Gauge(number.try_into().unwrap_or(i64::MAX))
}

impl Scrape {
    async fn of(host: &Host) -> Self {
        let mut scrape = Self::default();
        scrape.host(host).await;
        let generation = host.plugins.generation();
        let releases: Vec<&Arc<Release>> = generation.plugins.releases().collect();
        scrape.calls(&releases, &host.plugins.drained());
        scrape.work(&releases);
        scrape.shared(host, &releases);
        scrape
    }

    fn add(&mut self, name: &'static str, help: &'static str, kind: MetricType, samples: Vec<(Labels, Sample)>) {
        self.families.push(Family { name, help, kind, samples });
    }

    fn one(&mut self, name: &'static str, help: &'static str, value: impl TryInto<i64>) {
        self.add(name, help, MetricType::Gauge, vec![(Labels::new(), gauge(value))]);
    }

    /// What is the host's own.
    async fn host(&mut self, host: &Host) {
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        self.add("build", "The version that runs", MetricType::Gauge, vec![(version, gauge(1))]);
        let ended =
            host.traffic.ended().map(|(class, count)| (vec![("status", class.to_owned())], Sample::Counter(count)));
        self.add(
            "http_requests",
            "Requests that were answered, by the class of their status",
            MetricType::Counter,
            ended.collect(),
        );
        self.one("http_requests_in_flight", "Requests that have no answer yet", host.traffic.in_flight());
        let budgets = [("request", &host.body_memory.requests), ("answer", &host.body_memory.responses)];
        let of = |of: &str| vec![("of", of.to_owned())];
        let taken = budgets.map(|(name, budget)| (of(name), gauge(budget.reserved())));
        let help = "Memory for what requests brought, or answers wait with";
        self.add("http_body_bytes", help, MetricType::Gauge, taken.into());
        let refused = budgets.map(|(name, budget)| (of(name), Sample::Counter(budget.refused())));
        self.add("http_bodies_refused", "Requests that there was no memory for", MetricType::Counter, refused.into());
        let (running, waiting) = host.plugins.calls();
        self.one("calls_running", "Calls of plugins that run", running);
        self.one("calls_waiting", "Calls that wait for a place among those of all plugins", waiting);
        self.one("call_places", "Calls of plugins that may run at once", host.plugins.places());
        let pool = host.plugins.pool();
        let slots = pool.in_use.map(|(kind, count)| (vec![("of", kind.to_owned())], gauge(count)));
        self.add("pool_slots", "Slots of the pool of instances that are in use", MetricType::Gauge, slots.into());
        self.one("pool_idle_bytes", "Memory that idle slots of the pool keep", pool.resident);
        self.one("generation", "Changes of what is served since the start", host.plugins.generation().number);
        let [succeeded, failed] = host.plugins.deploys();
        let deploys = [("succeeded", succeeded), ("failed", failed)];
        let deploys = deploys.map(|(outcome, count)| (vec![("outcome", outcome.to_owned())], Sample::Counter(count)));
        self.add("deploys", "Deploys that came to an end", MetricType::Counter, deploys.into());
        self.one("http_connections", "Connections of clients", host.traffic.connections());
        let places = host.config.server.connections;
        self.one("http_connection_places", "Connections of clients that there may be at once", places);
        let dropped = host.traffic.dropped();
        let dropped = dropped.map(|(why, count)| (vec![("reason", why.to_owned())], Sample::Counter(count)));
        let help = "Connections that the host ended: their peer was too slow, or sent what is no request";
        self.add("http_connections_dropped", help, MetricType::Counter, dropped.into());
        let stalled = vec![(Labels::new(), Sample::Counter(host.traffic.stalled()))];
        let help = "Streams of HTTP/2 connections that the host ended, because nobody read their answer";
        self.add("http_streams_stalled", help, MetricType::Counter, stalled);
        let (connections, idle) = host.db.connections();
        let state = |state: &str, count: usize| (vec![("state", state.to_owned())], gauge(count));
        let connections = vec![state("idle", idle), state("in_use", connections.saturating_sub(idle))];
        self.add("database_connections", "Connections to the host's database", MetricType::Gauge, connections);
        // The rest matters most while the database does not answer.
        match email::count(&host.db).await {
            Ok(waiting) => self.one("mail_queue", "Mails that wait to be sent", waiting),
            Err(error) => tracing::debug!(error = error.report(), "the mail queue was not counted"),
        }
    }

    /// The calls of each release, and of those that calls ran on after they were replaced.
    fn calls(&mut self, releases: &[&Arc<Release>], drained: &[Drain]) {
        let mut outcomes = Vec::new();
        let mut latency = Vec::new();
        let served = releases.iter().map(|release| (&release.record.plugin, release.record.number, &release.tally));
        let drained = drained.iter().map(|drain| (&drain.plugin, drain.release, &drain.tally));
        for (plugin, number, tally) in served.chain(drained) {
            let labels = |more| labels_of(plugin, number, more);
            for (outcome, count) in tally.outcomes() {
                outcomes.push((labels(Some(("outcome", outcome.as_str()))), Sample::Counter(count)));
            }
            let counts = tally.counts();
            let (count, buckets) = (counts.calls(), buckets(&counts));
            let sum = tally.latency_sum().as_secs_f64();
            latency.push((labels(None), Sample::Histogram { sum, count, buckets }));
        }
        self.add("plugin_calls", "Calls of a release by what they came to", MetricType::Counter, outcomes);
        self.add("plugin_call_seconds", "How long calls took, waiting left out", MetricType::Histogram, latency);
    }

    /// What those calls took.
    fn work(&mut self, releases: &[&Arc<Release>]) {
        let seconds = |time: Duration| Sample::Seconds(time.as_secs_f64());
        let each = |sample: &dyn Fn(&Release) -> Sample| {
            releases.iter().map(|release| (labels(release, None), sample(release))).collect::<Vec<_>>()
        };
        let instances = each(&|release| Sample::Counter(release.tally.instantiations().0));
        self.add("plugin_instances", "Instances that were made", MetricType::Counter, instances);
        let instantiation = each(&|release| seconds(release.tally.instantiations().1));
        self.add("plugin_instantiation_seconds", "Time of making them", MetricType::Counter, instantiation);
        let cpu = each(&|release| seconds(release.tally.cpu_time()));
        self.add("plugin_cpu_seconds", "Time that calls kept a thread", MetricType::Counter, cpu);
        let memory = each(&|release| gauge(release.usage.memory_peak()));
        let help = "The most memory that one call took, what the host held for it included";
        self.add("plugin_memory_peak_bytes", help, MetricType::Gauge, memory);
        let refused = each(&|release| Sample::Counter(release.usage.refused_statements()));
        let help = "Statements that are none which the plugin may say, or that make no sense";
        self.add("plugin_statements_refused", help, MetricType::Counter, refused);
        let mut host_calls = Vec::new();
        let mut limits = Vec::new();
        for release in releases {
            for (capability, count) in release.usage.host_calls.each() {
                host_calls.push((labels(release, Some(("capability", capability))), Sample::Counter(count)));
            }
            for (limit, count) in release.usage.hits() {
                limits.push((labels(release, Some(("limit", limit.as_str()))), Sample::Counter(count)));
            }
        }
        self.add("plugin_host_calls", "Calls into a capability", MetricType::Counter, host_calls);
        self.add(
            "plugin_limits_met",
            "How often something was refused or ended for a limit",
            MetricType::Counter,
            limits,
        );
    }

    /// What all releases of a plugin share.
    fn shared(&mut self, host: &Host, releases: &[&Arc<Release>]) {
        let mut plugins: Vec<&Arc<Release>> = releases.to_vec();
        plugins.sort_by_key(|release| &release.record.plugin);
        plugins.dedup_by_key(|release| &release.record.plugin);
        let each = |sample: &dyn Fn(&Release) -> Sample| {
            let labels = |release: &Release| vec![("plugin", release.record.plugin.to_string())];
            plugins.iter().map(|release| (labels(release), sample(release))).collect::<Vec<_>>()
        };
        let running = each(&|release| gauge(release.bulkhead.running()));
        self.add("plugin_calls_running", "Calls that run", MetricType::Gauge, running);
        let waiting = each(&|release| gauge(release.bulkhead.waiting()));
        self.add("plugin_calls_waiting", "Calls that wait for a place", MetricType::Gauge, waiting);
        let quarantined = each(&|release| gauge(i64::from(release.breaker.is_open())));
        self.add("plugin_quarantined", "Whether it is quarantined", MetricType::Gauge, quarantined);
        let entries = each(&|release| gauge(release.cache.held().0));
        self.add("plugin_cache_entries", "Entries of its cache", MetricType::Gauge, entries);
        let bytes = each(&|release| gauge(release.cache.held().1));
        self.add("plugin_cache_bytes", "Bytes of its cache", MetricType::Gauge, bytes);
        let connections = each(&|release| gauge(host.plugins.connections(&release.record.plugin)));
        self.add("plugin_sql_connections", "Database connections in use", MetricType::Gauge, connections);
        let disk = each(&|release| gauge(host.plugins.disk(&release.record.plugin).unwrap_or_default()));
        self.add("plugin_sql_disk_bytes", "Disk that its database takes", MetricType::Gauge, disk);
        let dropped = each(&|release| Sample::Counter(release.log.dropped()));
        self.add("plugin_log_dropped", "Log entries beyond its rate", MetricType::Counter, dropped);
    }
}

/// Calls by the time they took, in the few steps that somebody looks at.
fn buckets(counts: &Counts) -> Vec<(f64, u64)> {
    let (mut buckets, mut below) = (Vec::new(), 0);
    for (time, calls) in counts.by_octave() {
        below += calls;
        if (FASTEST..=SLOWEST).contains(&time) {
            buckets.push((time.as_secs_f64(), std::mem::take(&mut below)));
        }
    }
    buckets.push((f64::INFINITY, below));
    buckets
}

fn labels(release: &Release, more: Option<(&'static str, &'static str)>) -> Labels {
    labels_of(&release.record.plugin, release.record.number, more)
}

fn labels_of(plugin: &PluginName, release: i64, more: Option<(&'static str, &'static str)>) -> Labels {
    let own = [("plugin", plugin.to_string()), ("release", release.to_string())];
    own.into_iter().chain(more.map(|(name, value)| (name, value.to_owned()))).collect()
}
