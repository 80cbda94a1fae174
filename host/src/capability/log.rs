//! `wharf:log`: structured log lines and audit entries of a plugin.
//!
//! The host adds plugin, release, request id and caller, so a plugin cannot write in another's name. Log lines are
//! rate-limited per plugin, by their number and their bytes. Lines beyond the rate are counted, and the count is logged when
//! the second is over. Audit entries are in the host's database before the call continues. None is dropped: beyond the rate
//! ([`audit_rate`]) the call waits.

mod audit_rate;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use wasmtime::component::{HasSelf, Linker};

use self::audit_rate::AuditRateLimiter;
use super::parameter::parameters;
use super::{Boot, CallContext, Candidate, Capability, Guest, HostCalls, Limit};
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::db::Db;
use crate::db::audit::{self, Outcome};
use crate::error::Result;
use crate::id::PluginName;

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    wasmtime::component::bindgen!({
        inline: "package wharf:host-log; world imports { import wharf:log/log@0.1.0; import wharf:log/audit@0.1.0; }",
        path: "../wit",
        imports: {
            "wharf:log/audit": async | trappable,
            default: trappable,
        },
    });
}
use bindings::wharf::log::{audit as audit_wit, log as log_wit};

pub use log_wit::Level;

/// Maximum length of a message, a field name or a field value in bytes; longer texts are cut.
const MAX_TEXT: usize = 8 * 1024;
/// Average size of a line in bytes: a plugin may write this many bytes for each line of its rate.
const MEAN_LINE: usize = 1024;
/// Maximum number of fields of one entry; further fields are dropped.
const MAX_FIELDS: usize = 32;
/// Maximum size of an audit entry, all its texts together.
const MAX_ENTRY: usize = 16 * 1024;
/// The name of the field that marks an entry as cut.
const CUT: &str = "…";
/// Audit entries of all plugins that are written concurrently. Few, so that the host's requests find database connections.
const WRITERS: usize = 2;

parameters! {
    /// The limits that a grant may change.
    Quota {
        rate: u32 = log_rate,
        audit: u32 = log_audit,
    }
}

/// The capability.
pub struct Log {
    audit: Audit,
    logs: PluginLogs,
}

/// The destination of audit entries.
#[derive(Clone)]
struct Audit {
    db: Db,
    clock: Clock,
    writers: Arc<Semaphore>,
}

/// The state of one release.
pub struct LogRelease {
    audit: Audit,
    log: Arc<PluginLog>,
    quota: Quota,
}

/// The state of one call.
pub struct LogCall {
    context: Arc<CallContext>,
    audit: Audit,
    log: Arc<PluginLog>,
}

impl Capability for Log {
    const NAME: &'static str = "log";
    const MEANING: &'static str = "may write lines to the host's log and entries to its audit log";
    const INTERFACES: &'static [&'static str] = &["wharf:log/log@0.1.0", "wharf:log/audit@0.1.0"];
    type Grant = Quota;
    type Release = LogRelease;
    type Call = LogCall;

    async fn open(boot: &Boot) -> Result<Self> {
        let writers = Arc::new(Semaphore::new(WRITERS));
        let audit = Audit { db: boot.db.clone(), clock: boot.clock.clone(), writers };
        Ok(Self { audit, logs: boot.logs.clone() })
    }

    fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        log_wit::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)?;
        audit_wit::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
    }

    async fn admit(&self, candidate: &Candidate<'_>, quota: Quota) -> Result<LogRelease> {
        let log = self.logs.plugin(candidate.plugin);
        Ok(LogRelease { audit: self.audit.clone(), log, quota })
    }

    fn serve(release: &LogRelease) {
        release.log.set_rate(release.quota.rate);
        release.log.audit.set_rate(release.quota.audit);
    }

    fn reset_shared(&self, plugin: &PluginName) {
        // A plugin's standard output is logged without the grant too.
        self.logs.plugin(plugin).set_rate(self.logs.rates.lines);
    }

    fn enter(release: &LogRelease, context: &Arc<CallContext>) -> LogCall {
        LogCall { context: Arc::clone(context), audit: release.audit.clone(), log: Arc::clone(&release.log) }
    }
}

impl log_wit::Host for Guest {
    fn write(&mut self, level: Level, message: String, fields: Vec<(String, String)>) -> wasmtime::Result<()> {
        self.charge(HostCalls::log)?;
        let texts = fields.iter().map(|(name, value)| name.len().saturating_add(value.len()));
        let _reservation = self.reserve(texts.fold(message.len(), usize::saturating_add))?;
        self.entered.log()?;
        if !self.output.write(&self.context, level, &message, &fields) {
            self.usage.hit(Limit::LogRate);
        }
        Ok(())
    }
}

/// The prefix of the host's own actions. A plugin must not be able to write its own history.
const HOST_ACTIONS: &str = "plugin.";

impl audit_wit::Host for Guest {
    async fn record_entry(
        &mut self,
        action: String,
        object: String,
        outcome: audit_wit::Outcome,
        detail: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        self.charge(HostCalls::log)?;
        if action.starts_with(HOST_ACTIONS) {
            return Err(wasmtime::Error::msg(format!("audit actions that begin with '{HOST_ACTIONS}' are the host's")));
        }
        let fields = detail.iter().map(|(name, value)| name.len().saturating_add(value.len()));
        let texts = action.len().saturating_add(object.len());
        let _reservation = self.reserve(fields.fold(texts, usize::saturating_add))?;
        let call = self.entered.log()?;
        let mut space = MAX_ENTRY;
        let (action, object) = (cut(&mut space, &action).to_owned(), cut(&mut space, &object).to_owned());
        let detail = cut_detail(&mut space, &detail);
        let entry = audit::Entry {
            at: call.audit.clock.now(),
            actor: call.context.caller.as_ref().map(|caller| caller.user.id),
            plugin: Some(call.context.plugin.clone()),
            action,
            object,
            outcome: match outcome {
                audit_wit::Outcome::Success => Outcome::Success,
                audit_wit::Outcome::Denied => Outcome::Denied,
                audit_wit::Outcome::Failure => Outcome::Failure,
            },
            detail: detail.into(),
            request_id: Some(call.context.request_id.to_string()),
        };
        // No entry is lost: a plugin that exceeds its rate waits here until its call's deadline.
        if let Some(delay) = call.log.audit.reserve(MAX_ENTRY.saturating_sub(space)) {
            self.usage.hit(Limit::LogAudit);
            delay.wait().await;
        }
        let _writer = call.audit.writers.acquire().await;
        // The interface has no error, and an entry that cannot be stored must not go unnoticed. So the call traps.
        audit::insert(&call.audit.db, &entry).await.map_err(|error| {
            tracing::error!(plugin = %call.context.plugin, error = error.report(), "an audit entry was not stored");
            wasmtime::Error::msg("the audit entry could not be stored")
        })
    }
}

/// Cuts a text to the space that is left, and takes that space.
fn cut<'a>(space: &mut usize, text: &'a str) -> &'a str {
    let text = shorten(text);
    let text = text.get(..text.floor_char_boundary(*space)).unwrap_or_default();
    *space = space.saturating_sub(text.len());
    text
}

/// Cuts fields to the space that is left. Marks the result if anything was cut.
fn cut_detail(space: &mut usize, detail: &[(String, String)]) -> serde_json::Map<String, serde_json::Value> {
    let mut result = serde_json::Map::new();
    let mut is_all = detail.len() <= MAX_FIELDS;
    for (name, value) in detail.iter().take(MAX_FIELDS) {
        if *space == 0 {
            is_all = false;
            break;
        }
        let (cut_name, cut_value) = (cut(space, name), cut(space, value));
        is_all &= cut_name.len() == name.len() && cut_value.len() == value.len();
        result.insert(cut_name.to_owned(), cut_value.into());
    }
    if !is_all {
        result.insert(CUT.to_owned(), true.into());
    }
    result
}

/// The log of one plugin. Writes to the host's log within the plugin's rate.
pub struct PluginLog {
    clock: Clock,
    rate: AtomicU32,
    dropped: AtomicU64,
    window: Mutex<Window>,
    audit: AuditRateLimiter,
}

#[derive(Default)]
struct Window {
    second: i64,
    written: u32,
    bytes: usize,
    dropped: u64,
}

impl PluginLog {
    /// Creates a log with the given rates.
    pub fn new(clock: Clock, rates: Rates) -> Self {
        let Rates { lines, entries } = rates;
        let window = Mutex::default();
        Self { clock, rate: lines.into(), dropped: AtomicU64::new(0), window, audit: AuditRateLimiter::new(entries) }
    }

    /// Changes the number of lines per second.
    pub fn set_rate(&self, rate: u32) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// Writes one entry and returns `true`, or counts it as dropped and returns `false`.
    pub fn write(&self, call: &CallContext, level: Level, message: &str, fields: &[(String, String)]) -> bool {
        let texts = fields.iter().take(MAX_FIELDS).map(|(name, value)| shorten(name).len() + shorten(value).len());
        let bytes = shorten(message).len() + texts.sum::<usize>();
        let (admitted, dropped) = self.admit(self.clock.now(), bytes);
        log_dropped(&call.plugin, dropped);
        if !admitted {
            return false;
        }
        let plugin = call.plugin.as_str();
        let release = call.release;
        let request_id = &*call.request_id;
        let caller = call.caller.as_ref().map(|caller| tracing::field::display(caller.user.id));
        let fields: HashMap<&str, &str> =
            fields.iter().take(MAX_FIELDS).map(|(name, value)| (shorten(name), shorten(value))).collect();
        let fields = (!fields.is_empty()).then(|| serde_json::to_string(&fields).unwrap_or_default());
        let message = shorten(message);
        macro_rules! event {
            ($level:ident) => {
                tracing::$level!(target: "wharf::plugin::log", plugin, release, request_id, caller, fields, "{message}")
            };
        }
        match level {
            Level::Trace => event!(trace),
            Level::Debug => event!(debug),
            Level::Info => event!(info),
            Level::Warn => event!(warn),
            Level::Error => event!(error),
        }
        true
    }

    /// Takes the number of entries that were dropped in a past second and are not logged yet.
    fn take_dropped(&self) -> u64 {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.second == self.clock.now().as_secs() { 0 } else { std::mem::take(&mut window.dropped) }
    }

    /// Returns the number of entries that were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Returns whether an entry may be written now, and the number of entries that were dropped in the past second.
    fn admit(&self, now: Timestamp, bytes: usize) -> (bool, u64) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dropped = 0;
        if window.second != now.as_secs() {
            dropped = window.dropped;
            *window = Window { second: now.as_secs(), ..Window::default() };
        }
        let rate = self.rate.load(Ordering::Relaxed);
        let space = usize::try_from(rate).unwrap_or(usize::MAX).saturating_mul(MEAN_LINE);
        if window.written < rate && window.bytes.saturating_add(bytes) <= space.max(MAX_TEXT) {
            window.written += 1;
            window.bytes += bytes;
            (true, dropped)
        } else {
            window.dropped += 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
            (false, dropped)
        }
    }
}

/// The rates of a plugin per second.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Lines.
    pub lines: u32,
    /// Audit entries.
    pub entries: u32,
}

impl From<&config::Plugins> for Rates {
    fn from(config: &config::Plugins) -> Self {
        Self { lines: config.log_rate, entries: config.log_audit }
    }
}

/// One [`PluginLog`] per plugin, so that a rate spans releases.
#[derive(Clone)]
pub struct PluginLogs {
    clock: Clock,
    rates: Rates,
    plugins: Arc<Mutex<HashMap<PluginName, Arc<PluginLog>>>>,
}

impl PluginLogs {
    /// Creates an empty set of logs.
    pub fn new(clock: Clock, rates: Rates) -> Self {
        Self { clock, rates, plugins: Arc::default() }
    }

    /// Returns the log of a plugin.
    pub fn plugin(&self, name: &PluginName) -> Arc<PluginLog> {
        let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        let log =
            plugins.entry(name.clone()).or_insert_with(|| Arc::new(PluginLog::new(self.clock.clone(), self.rates)));
        Arc::clone(log)
    }

    /// Logs the number of dropped entries for plugins that wrote nothing since.
    pub fn log_dropped(&self) {
        let plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        for (plugin, log) in &*plugins {
            log_dropped(plugin, log.take_dropped());
        }
    }
}

fn log_dropped(plugin: &PluginName, dropped: u64) {
    if dropped > 0 {
        tracing::warn!(target: "wharf::plugin::log", %plugin, dropped, "log entries were dropped: over the plugin's rate");
    }
}

fn shorten(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_beyond_the_rate_are_counted_and_logged_once() {
        let log = PluginLog::new(Clock::manual(Timestamp(0)), Rates { lines: 2, entries: 1 });
        let second = |second: i64| Timestamp(second * 1_000_000);
        assert_eq!(
            log.admit(second(0), 9_000),
            (false, 0),
            "more bytes than the lines of one second may have together"
        );
        assert_eq!(log.admit(second(1), 10), (true, 1));
        assert_eq!(log.admit(second(1), 10), (true, 0));
        assert_eq!(log.admit(second(1), 10), (false, 0));
        assert_eq!(log.admit(second(1), 10), (false, 0));
        assert_eq!(log.admit(second(2), 10), (true, 2));
        assert_eq!(log.admit(second(2), 10), (true, 0));
        log.set_rate(1);
        assert_eq!(log.admit(second(3), 10), (true, 0));
        assert_eq!(log.admit(second(3), 10), (false, 0));
        log.set_rate(2);
        assert_eq!(log.admit(second(3), 10), (true, 0));
    }

    #[test]
    fn dropped_entries_are_reported_when_no_entry_follows() {
        let clock = Clock::manual(Timestamp(0));
        let log = PluginLog::new(clock.clone(), Rates { lines: 1, entries: 1 });
        for _ in 0..3 {
            log.admit(clock.now(), 10);
        }
        assert_eq!(log.take_dropped(), 0, "the second is not over");
        clock.advance(std::time::Duration::from_secs(1));
        assert_eq!([log.take_dropped(), log.take_dropped()], [2, 0]);
        assert_eq!(log.admit(clock.now(), 10), (true, 0));
    }

    #[test]
    fn an_entry_that_was_cut_says_so() {
        let field = |name: &str, length: usize| (name.to_owned(), "x".repeat(length));
        let mut space = MAX_ENTRY;
        assert_eq!(cut_detail(&mut space, &[field("a", 5), field("b", 0)]).len(), 2);
        let long: Vec<_> = (0..5).map(|n| field(&n.to_string(), 5_000)).collect();
        let detail = cut_detail(&mut space, &long);
        assert_eq!((space, detail.get(CUT)), (0, Some(&true.into())));
        assert!(serde_json::Value::from(detail).to_string().len() < MAX_ENTRY + 100);
        let many: Vec<_> = (0..40).map(|n| field(&n.to_string(), 1)).collect();
        assert_eq!(cut_detail(&mut MAX_ENTRY.clone(), &many).len(), MAX_FIELDS + 1);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shorten(&"ä".repeat(MAX_TEXT)).len(), MAX_TEXT);
        assert_eq!(shorten(&format!("x{}", "ä".repeat(MAX_TEXT))).len(), MAX_TEXT - 1);
    }
}
