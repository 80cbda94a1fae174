//! `GET /metrics`: the state of the host and its plugins, for Prometheus. Callers with the permission `metrics:read` may
//! read it, and so may a client with the token `server.metrics_token`.
//!
//! Each metric is declared here and nowhere else: name, help text and type stand where its samples are read. The counts
//! themselves are kept where the counted things happen. Label values are plugin names, numbers of loaded releases and
//! words of the host, and never text of a client or a guest, so the number of series is bounded.

mod exposition;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use subtle::ConstantTimeEq as _;

use self::exposition::{Families, Histogram, Labels};
use crate::capability::Dependency;
use crate::db::email::operator as mails;
use crate::db::task::operator;
use crate::error::{Error, Result};
use crate::http::browser_rules::{self, Credential};
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::Reply;
use crate::http::{Host, access};
use crate::id::PluginName;
use crate::permission::HostPermission;
use crate::plugin::Release;
use crate::plugin::call_stats;
use crate::plugin::drain::Drain;
use crate::plugin::generation::Absence;
use crate::route::Access;
use crate::telemetry;

/// Returns the route of the metrics.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    // Public, because the handler accepts a token that the access check does not know.
    vec![HostRoute::get("/metrics", read_metrics).public().undocumented()]
}

async fn read_metrics(host: Arc<Host>, call: Call) -> Result<Reply> {
    if !has_token(&host, &call.headers) {
        let bearer = browser_rules::bearer(&call.headers).map_or(Credential::None, Credential::Bearer);
        let access = Access::Host(HostPermission::MetricsRead);
        access::check(&host.auth, bearer, call.address, &access, None).await?;
    }
    let mut families = Families::default();
    add_http(&mut families, &host);
    add_host(&mut families, &host);
    add_mails(&mut families, &host).await;
    add_tasks(&mut families, &host).await;
    // With many plugins this takes long.
    let writing = tokio::task::spawn_blocking(move || {
        let generation = host.plugins.generation();
        let releases: Vec<&Arc<Release>> = generation.plugins.releases().collect();
        add_calls(&mut families, &releases, &host.plugins.drains());
        add_releases(&mut families, &releases);
        add_plugins(&mut families, &host, &releases);
        families.into_text()
    });
    let text = writing.await.map_err(|error| Error::internal("the metrics panicked").with_source(error))??;
    Ok(Reply::new(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
}

fn has_token(host: &Host, headers: &HeaderMap) -> bool {
    let Some(token) = &host.config.server.metrics_token else { return false };
    browser_rules::bearer(headers).is_some_and(|given| given.as_bytes().ct_eq(token.expose().as_bytes()).into())
}

/// Requests and connections of clients.
fn add_http(families: &mut Families, host: &Host) {
    let traffic = &host.traffic;
    families.counter(
        "http_requests",
        "Requests that ended, by status class",
        traffic.ended().map(|(class, count)| (label("status", class), count)),
    );
    families.single_gauge("http_requests_in_flight", "Requests without a response yet", traffic.in_flight());
    let budgets = [("request", &host.body_memory.requests), ("response", &host.body_memory.responses)];
    families.gauge(
        "http_body_bytes",
        "Memory for bodies of requests, and of responses that clients have not read yet",
        budgets.map(|(kind, budget)| (label("kind", kind), budget.reserved())),
    );
    families.counter(
        "http_bodies_refused",
        "Requests refused because the memory for bodies was full",
        budgets.map(|(kind, budget)| (label("kind", kind), budget.refused())),
    );
    families.single_gauge("http_connections", "Open connections of clients", traffic.connections());
    let max_connections = host.config.server.connections;
    families.single_gauge("http_connections_max", "Maximum number of open connections of clients", max_connections);
    families.counter(
        "http_connections_dropped",
        "Connections closed by the host because the client was too slow or did not send valid HTTP",
        traffic.dropped().map(|(reason, count)| (label("reason", reason), count)),
    );
    families.counter(
        "http_streams_stalled",
        "HTTP/2 streams reset by the host because the client stopped reading the response",
        [(Labels::new(), traffic.stalled())],
    );
    let places = &host.live_events.places;
    families.single_gauge("event_streams", "Open streams of events", places.taken());
    families.single_gauge("event_streams_max", "Maximum number of open streams of events", places.all());
}

/// The rest of the host: version, call slots, instance pool, deploys, database.
fn add_host(families: &mut Families, host: &Host) {
    families.gauge("build", "Version of the host", [(label("version", env!("CARGO_PKG_VERSION")), 1)]);
    let (running, waiting) = host.plugins.calls();
    families.single_gauge("calls_running", "Plugin calls that are running", running);
    families.single_gauge("calls_waiting", "Plugin calls that are waiting for a call slot of the host", waiting);
    let waiting_bytes = host.plugins.waiting_bytes();
    families.single_gauge(
        "calls_waiting_bytes",
        "Memory of the calls that wait for their turn or for a call slot",
        waiting_bytes,
    );
    families.single_gauge("call_slots", "Call slots of the host", host.plugins.call_slots());
    let pool = host.plugins.instance_pool();
    families.gauge(
        "pool_slots",
        "Slots of the instance pool in use, by kind",
        pool.in_use.map(|(kind, count)| (label("kind", kind), count)),
    );
    families.single_gauge("pool_idle_bytes", "Memory kept by idle slots of the instance pool", pool.resident);
    let number = host.plugins.generation().number;
    families.single_gauge("generation", "Number of changes to the served plugins since the start", number);
    let draining = host.plugins.draining();
    families.single_gauge("releases_draining", "Replaced releases that requests still use", draining);
    let [succeeded, failed] = host.plugins.deploys();
    families.counter(
        "deploys",
        "Deploys that ended, by outcome",
        [(label("outcome", "succeeded"), succeeded), (label("outcome", "failed"), failed)],
    );
    let (connections, idle) = host.db.connections();
    families.gauge(
        "database_connections",
        "Connections to the host database, by state",
        [(label("state", "idle"), idle), (label("state", "in_use"), connections.saturating_sub(idle))],
    );
    let audit = host.audit.counts();
    families.counter("audit_sealed", "Entries of the audit log that were sealed", [(Labels::new(), audit.sealed())]);
    families.counter("audit_pruned", "Entries of the audit log that were deleted", [(Labels::new(), audit.pruned())]);
    families.counter("audit_broken", "Chains of the audit log found changed", [(Labels::new(), audit.broken())]);
    families.counter(
        "attempts_refused",
        "Attempts refused by a rate limit of an account or of a network of clients, by action",
        host.auth.throttle().refusals().map(|(action, count)| (label("action", action), count)),
    );
    families.counter(
        "log_lines_dropped",
        "Lines of the log dropped because standard error did not take them in time",
        [(Labels::new(), telemetry::dropped_lines())],
    );
}

/// Mails: those of the host, and those of the plugins that are not removed.
async fn add_mails(families: &mut Families, host: &Host) {
    let known = known_plugins(host);
    families.counter(
        "mails",
        "Mails that were sent or given up, by outcome",
        host.mail.outcomes().map(|(outcome, count)| (label("outcome", outcome), count)),
    );
    let outcomes = host.mail.plugin_outcomes().into_iter().filter(|(plugin, _)| known.contains(plugin));
    families.counter(
        "plugin_mail_outcomes",
        "Attempts to send mails of plugins that ended, by outcome",
        outcomes.flat_map(|(plugin, counts)| {
            let labels = |outcome: &str| vec![("plugin", plugin.to_string()), ("outcome", outcome.to_owned())];
            counts.map(|(outcome, count)| (labels(outcome), count))
        }),
    );
    families.single_gauge(
        "mail_queue_max",
        "Maximum number of mails of the host that wait to be sent",
        host.mail.queue_bound(),
    );
    // The other metrics are needed most while the database does not respond.
    let counts = match mails::counts(&host.db).await {
        Ok(counts) => counts,
        Err(error) => {
            tracing::debug!(error = error.report(), "cannot count the mail queue");
            return;
        }
    };
    let now = host.clock.now();
    let of_host = |state: &str| counts.iter().find(|count| count.plugin.is_none() && count.state == state);
    let mails = |state: &str| of_host(state).map_or(0, |count| count.mails);
    families.single_gauge("mail_queue", "Mails of the host waiting to be sent", mails("waiting"));
    families.single_gauge("mail_dead", "Mails of the host that were given up", mails("dead"));
    families.single_gauge(
        "mail_oldest_seconds",
        "Time since the oldest waiting mail of the host was queued",
        of_host("waiting").map_or(0, |count| now.since(count.oldest_at).as_secs()),
    );
    let of_plugins = counts.iter().filter_map(|count| {
        let plugin = count.plugin.as_ref().filter(|plugin| known.contains(*plugin))?;
        Some((plugin, count))
    });
    families.gauge(
        "plugin_mails",
        "Mails of plugins that wait to be sent or were given up, by state",
        of_plugins
            .clone()
            .map(|(plugin, count)| (vec![("plugin", plugin.to_string()), ("state", count.state.clone())], count.mails)),
    );
    families.gauge(
        "plugin_mails_oldest_seconds",
        "Time since the oldest waiting mail of a plugin was queued",
        of_plugins
            .filter(|(_, count)| count.state == "waiting")
            .map(|(plugin, count)| (label("plugin", plugin.as_str()), now.since(count.oldest_at).as_secs())),
    );
}

/// Deliveries of events and jobs, of the plugins that are not removed.
async fn add_tasks(families: &mut Families, host: &Host) {
    let known = known_plugins(host);
    let outcomes = host.plugins.task_counts().into_iter().filter(|(plugin, _)| known.contains(plugin));
    families.counter(
        "task_outcomes",
        "Attempts of deliveries and jobs that ended, by outcome",
        outcomes.flat_map(|(plugin, counts)| {
            let labels = |outcome: &str| vec![("plugin", plugin.to_string()), ("outcome", outcome.to_owned())];
            counts.map(|(outcome, count)| (labels(outcome), count))
        }),
    );
    let queues = match operator::queues(&host.db).await {
        Ok(queues) => queues,
        Err(error) => {
            tracing::debug!(error = error.report(), "cannot count the tasks");
            return;
        }
    };
    let now = host.clock.now();
    let mut sums = BTreeMap::<(&PluginName, &str), ([i64; 4], Duration)>::new();
    for queue in queues.iter().filter(|queue| known.contains(&queue.plugin)) {
        let (counts, oldest) = sums.entry((&queue.plugin, queue.kind.as_str())).or_default();
        for (sum, count) in counts.iter_mut().zip([queue.ready, queue.blocked, queue.running, queue.dead]) {
            *sum = sum.saturating_add(count);
        }
        *oldest = queue.oldest(now).unwrap_or_default().max(*oldest);
    }
    let labels = |plugin: &PluginName, kind: &str| vec![("plugin", plugin.to_string()), ("kind", kind.to_owned())];
    let mut states = Vec::new();
    for (&(plugin, kind), (counts, _)) in &sums {
        for (state, count) in ["ready", "blocked", "running", "dead"].into_iter().zip(counts) {
            let labels = labels(plugin, kind).into_iter().chain(label("state", state)).collect();
            states.push((labels, *count));
        }
    }
    families.gauge("tasks", "Deliveries of events and jobs that have not ended well, by state", states);
    families.gauge(
        "tasks_oldest_seconds",
        "Time since the oldest delivery or job that has not ended was due",
        sums.iter().map(|(&(plugin, kind), (_, oldest))| (labels(plugin, kind), oldest.as_secs())),
    );
}

/// Returns the plugins that are not removed, whether they are served or not.
fn known_plugins(host: &Host) -> BTreeSet<PluginName> {
    let generation = host.plugins.generation();
    let plugins = &generation.plugins;
    let is_known = |name: &&PluginName| plugins.absent.get(name).is_none_or(|absent| absent.reason != Absence::Removed);
    plugins.names().into_iter().filter(is_known).cloned().collect()
}

/// Calls per release, including replaced releases with in-flight calls.
fn add_calls(families: &mut Families, releases: &[&Arc<Release>], drained: &[Drain]) {
    let mut outcomes = Vec::new();
    let mut latencies = Vec::new();
    let served = releases.iter().map(|release| (&release.record.plugin, release.record.number, &release.stats));
    let drained = drained.iter().map(|drain| (&drain.plugin, drain.release, &drain.stats));
    for (plugin, number, stats) in served.chain(drained) {
        for (outcome, count) in stats.outcomes() {
            outcomes.push((release_labels(plugin, number, Some(("outcome", outcome.as_str()))), count));
        }
        let latency = stats.latency();
        let (sum, count) = (stats.latency_sum().as_secs_f64(), latency.calls());
        let histogram = Histogram { sum, count, buckets: buckets(&latency) };
        latencies.push((release_labels(plugin, number, None), histogram));
    }
    families.counter("plugin_calls", "Calls of a release by outcome", outcomes);
    families.histogram(
        "plugin_call_seconds",
        "Duration of calls without the wait for a turn and a call slot, including calls whose callers left",
        latencies,
    );
}

/// Resources used by the calls of each loaded release.
fn add_releases(families: &mut Families, releases: &[&Arc<Release>]) {
    let labels = |release: &Release, more| release_labels(&release.record.plugin, release.record.number, more);
    let counts = |count: &dyn Fn(&Release) -> u64| -> Vec<_> {
        releases.iter().map(|release| (labels(release, None), count(release))).collect()
    };
    let seconds = |time: &dyn Fn(&Release) -> Duration| -> Vec<_> {
        releases.iter().map(|release| (labels(release, None), time(release).as_secs_f64())).collect()
    };
    let prepared = releases.iter().filter(|release| release.is_prepared()).count();
    families.single_gauge("releases_prepared", "Releases whose machine code is loaded", prepared);
    families.counter("plugin_instances", "Instances created", counts(&|release| release.stats.instantiations().0));
    families.seconds(
        "plugin_instantiation_seconds",
        "Time spent creating instances",
        seconds(&|release| release.stats.instantiations().1),
    );
    families.seconds(
        "plugin_cpu_seconds",
        "Time that calls occupied a worker thread",
        seconds(&|release| release.stats.cpu_time()),
    );
    families.gauge(
        "plugin_memory_peak_bytes",
        "Highest memory use of a single call, including memory that the host held for it",
        releases.iter().map(|release| (labels(release, None), release.usage.memory_peak())),
    );
    families.counter(
        "plugin_statements_refused",
        "SQL statements refused because they are invalid or not allowed for plugins",
        counts(&|release| release.usage.refused_statements()),
    );
    let host_calls = releases.iter().flat_map(|release| {
        let each = release.usage.host_calls.each();
        each.map(|(capability, count)| (labels(release, Some(("capability", capability))), count)).collect::<Vec<_>>()
    });
    families.counter("plugin_host_calls", "Calls from the plugin into a capability", host_calls);
    let hits = releases.iter().flat_map(|release| {
        let each = release.usage.hits();
        each.map(|(limit, count)| (labels(release, Some(("limit", limit.as_str()))), count)).collect::<Vec<_>>()
    });
    let failures = releases.iter().flat_map(|release| {
        let each = release.usage.dependency_failures();
        let label = |dependency: Dependency| Some(("dependency", dependency.as_str()));
        each.map(|(dependency, count)| (labels(release, label(dependency)), count)).collect::<Vec<_>>()
    });
    families.counter(
        "plugin_dependency_failures",
        "Failures of a service of the host during calls, which are not held against the plugin",
        failures,
    );
    families.counter("plugin_limit_hits", "Operations refused or ended because a limit was hit", hits);
}

/// State that all releases of a plugin share.
fn add_plugins(families: &mut Families, host: &Host, releases: &[&Arc<Release>]) {
    let mut plugins: Vec<&Arc<Release>> = releases.to_vec();
    plugins.sort_by_key(|release| &release.record.plugin);
    plugins.dedup_by_key(|release| &release.record.plugin);
    let label = |release: &Release| label("plugin", release.record.plugin.as_str());
    let sizes = |size: &dyn Fn(&Release) -> usize| -> Vec<_> {
        plugins.iter().map(|release| (label(release), size(release))).collect()
    };
    families.gauge("plugin_calls_running", "Calls that are running", sizes(&|release| release.bulkhead.running()));
    families.gauge(
        "plugin_calls_waiting",
        "Calls that are waiting for their turn or for a call slot",
        sizes(&|release| release.bulkhead.waiting()),
    );
    families.gauge(
        "plugin_quarantined",
        "Whether the circuit breaker is open (1) or not (0)",
        plugins.iter().map(|release| (label(release), i64::from(release.breaker.is_open()))),
    );
    families.gauge(
        "plugin_cache_entries",
        "Entries in the cache of the plugin",
        plugins.iter().map(|release| (label(release), release.cache.usage().0)),
    );
    families.gauge(
        "plugin_cache_bytes",
        "Bytes in the cache of the plugin",
        plugins.iter().map(|release| (label(release), release.cache.usage().1)),
    );
    families.gauge(
        "plugin_sql_connections",
        "Database connections in use",
        sizes(&|release| host.plugins.connections(&release.record.plugin)),
    );
    families.gauge(
        "plugin_sql_disk_bytes",
        "Disk space used by the database of the plugin",
        plugins.iter().map(|release| (label(release), host.plugins.disk(&release.record.plugin).unwrap_or_default())),
    );
    families.counter(
        "plugin_log_dropped",
        "Log entries dropped because of the rate limit",
        plugins.iter().map(|release| (label(release), release.log.dropped())),
    );
}

/// Upper bounds of the first and the last finite bucket of the latency histogram.
const FIRST_BUCKET: Duration = Duration::from_micros(1 << 6);
const LAST_BUCKET: Duration = Duration::from_micros(1 << 24);

/// Returns the calls by duration, in powers of two of a microsecond.
fn buckets(latency: &call_stats::Histogram) -> Vec<(f64, u64)> {
    let (mut buckets, mut below) = (Vec::new(), 0);
    for (time, calls) in latency.by_octave() {
        below += calls;
        if (FIRST_BUCKET..=LAST_BUCKET).contains(&time) {
            buckets.push((time.as_secs_f64(), std::mem::take(&mut below)));
        }
    }
    buckets.push((f64::INFINITY, below));
    buckets
}

fn label(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}

fn release_labels(plugin: &PluginName, release: i64, more: Option<(&'static str, &'static str)>) -> Labels {
    let own = [("plugin", plugin.to_string()), ("release", release.to_string())];
    own.into_iter().chain(more.map(|(name, value)| (name, value.to_owned()))).collect()
}
