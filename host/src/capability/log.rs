//! `wharf:log`: structured log lines and audit entries of a plugin.
//!
//! The host adds plugin, release, request id and caller, so a plugin cannot speak in another's name. Log lines are rated
//! for each plugin, by their number and their bytes: beyond its rate they are counted, and the count is logged once the
//! second is over. Audit entries go to the host's database before the call goes on; none is dropped, so beyond its rate
//! ([`pace`]) the call waits.

mod pace;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use wasmtime::component::{HasSelf, Linker};

use self::pace::Pace;
use super::parameter::parameters;
use super::{Boot, CallContext, Candidate, Capability, Guest, HostCalls, Limit};
use crate::clock::{Clock, Timestamp};
use crate::config::{self, kind};
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

/// The longest message, field name or field value kept, in bytes.
const MAX_TEXT: usize = 8 * 1024;
/// What a line may take on average: so many bytes for each of the lines a second that a plugin may write.
const MEAN_LINE: usize = 1024;
/// The most fields kept of one entry.
const MAX_FIELDS: usize = 32;
/// What an audit entry may take, all its texts together.
const MAX_ENTRY: usize = 16 * 1024;
/// In place of what is beyond that.
const CUT: &str = "…";
/// Entries of all plugins that are written at once: the host's connections are for its requests.
const WRITERS: usize = 2;

parameters! {
    /// What a grant may bound.
    Quota {
        /// Lines a second; more are counted and summarised.
        rate: u32 = kind::count(1..=1_000_000), else log_rate;
        /// Audit entries a second; who writes more waits.
        audit: u32 = kind::count(1..=10_000), else log_audit;
    }
}

/// The capability.
pub struct Log {
    audit: Audit,
    logs: PluginLogs,
}

/// Where audit entries go.
#[derive(Clone)]
struct Audit {
    db: Db,
    clock: Clock,
    writers: Arc<Semaphore>,
}

/// What a release logs with.
pub struct LogRelease {
    audit: Audit,
    log: Arc<PluginLog>,
    quota: Quota,
}

/// What a call logs with.
pub struct LogCall {
    context: Arc<CallContext>,
    audit: Audit,
    log: Arc<PluginLog>,
}

impl Capability for Log {
    const NAME: &'static str = "log";
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

    fn withdraw(&self, plugin: &PluginName) {
        // What a plugin prints is logged without the grant too.
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
        let _held = self.hold(texts.fold(message.len(), usize::saturating_add))?;
        self.entered.log()?;
        if !self.output.write(&self.context, level, &message, &fields) {
            self.usage.hit(Limit::LogRate);
        }
        Ok(())
    }
}

/// What the host itself does with plugins; no plugin may write its own history.
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
        let handed = detail.iter().map(|(name, value)| name.len().saturating_add(value.len()));
        let texts = action.len().saturating_add(object.len());
        let _held = self.hold(handed.fold(texts, usize::saturating_add))?;
        let call = self.entered.log()?;
        let mut room = MAX_ENTRY;
        let (action, object) = (within(&mut room, &action).to_owned(), within(&mut room, &object).to_owned());
        let detail = kept(&mut room, &detail);
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
        // No entry vanishes: the deadline ends who writes more than he may.
        if let Some(wait) = call.log.audit.turn(MAX_ENTRY.saturating_sub(room)) {
            self.usage.hit(Limit::LogAudit);
            wait.over().await;
        }
        let _writer = call.audit.writers.acquire().await;
        // The interface has no error to give back: an entry that cannot be kept must not pass unseen.
        audit::insert(&call.audit.db, &entry).await.map_err(|error| {
            tracing::error!(plugin = %call.context.plugin, error = error.report(), "an audit entry was not kept");
            wasmtime::Error::msg("the audit entry could not be kept")
        })
    }
}

/// As much of a text as there is room for, which is less from then on.
fn within<'a>(room: &mut usize, text: &'a str) -> &'a str {
    let kept = shorten(text);
    let kept = kept.get(..kept.floor_char_boundary(*room)).unwrap_or_default();
    *room = room.saturating_sub(kept.len());
    kept
}

/// As many fields as there is room for; whoever reads it sees that there were more.
fn kept(room: &mut usize, detail: &[(String, String)]) -> serde_json::Map<String, serde_json::Value> {
    let mut kept = serde_json::Map::new();
    let mut is_all = detail.len() <= MAX_FIELDS;
    for (name, value) in detail.iter().take(MAX_FIELDS) {
        if *room == 0 {
            is_all = false;
            break;
        }
        let (kept_name, kept_value) = (within(room, name), within(room, value));
        is_all &= kept_name.len() == name.len() && kept_value.len() == value.len();
        kept.insert(kept_name.to_owned(), kept_value.into());
    }
    if !is_all {
        kept.insert(CUT.to_owned(), true.into());
    }
    kept
}

/// The log of one plugin: writes to the host's log within the plugin's rate.
pub struct PluginLog {
    clock: Clock,
    rate: AtomicU32,
    dropped: AtomicU64,
    window: Mutex<Window>,
    audit: Pace,
}

#[derive(Default)]
struct Window {
    second: i64,
    written: u32,
    bytes: usize,
    dropped: u64,
}

impl PluginLog {
    /// A log of at most so many lines, and so many audit entries, a second.
    pub fn new(clock: Clock, rates: Rates) -> Self {
        let Rates { lines, entries } = rates;
        let window = Mutex::default();
        Self { clock, rate: lines.into(), dropped: AtomicU64::new(0), window, audit: Pace::new(entries) }
    }

    /// At most so many lines a second from now on.
    pub fn set_rate(&self, rate: u32) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// Writes one entry, or counts it; whether it was written.
    pub fn write(&self, call: &CallContext, level: Level, message: &str, fields: &[(String, String)]) -> bool {
        let texts = fields.iter().take(MAX_FIELDS).map(|(name, value)| shorten(name).len() + shorten(value).len());
        let bytes = shorten(message).len() + texts.sum::<usize>();
        let (admitted, dropped) = self.admit(self.clock.now(), bytes);
        tell_dropped(&call.plugin, dropped);
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

    /// Entries that were dropped in a second that is over, and that nobody was told of.
    fn take_dropped(&self) -> u64 {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.second == self.clock.now().as_secs() { 0 } else { std::mem::take(&mut window.dropped) }
    }

    /// Entries that were dropped since it was opened.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Whether an entry may be written now, and how many were dropped in the second that is over.
    fn admit(&self, now: Timestamp, bytes: usize) -> (bool, u64) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dropped = 0;
        if window.second != now.as_secs() {
            dropped = window.dropped;
            *window = Window { second: now.as_secs(), ..Window::default() };
        }
        let rate = self.rate.load(Ordering::Relaxed);
        let room = usize::try_from(rate).unwrap_or(usize::MAX).saturating_mul(MEAN_LINE);
        if window.written < rate && window.bytes.saturating_add(bytes) <= room.max(MAX_TEXT) {
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

/// What a plugin may write in a second.
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

/// One [`PluginLog`] for each plugin, so that a rate outlives a release.
#[derive(Clone)]
pub struct PluginLogs {
    clock: Clock,
    rates: Rates,
    plugins: Arc<Mutex<HashMap<PluginName, Arc<PluginLog>>>>,
}

impl PluginLogs {
    /// None yet.
    pub fn new(clock: Clock, rates: Rates) -> Self {
        Self { clock, rates, plugins: Arc::default() }
    }

    /// The log of a plugin.
    pub fn plugin(&self, name: &PluginName) -> Arc<PluginLog> {
        let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        let log =
            plugins.entry(name.clone()).or_insert_with(|| Arc::new(PluginLog::new(self.clock.clone(), self.rates)));
        Arc::clone(log)
    }

    /// Tells of entries that were dropped of plugins that wrote nothing since.
    pub fn tell_dropped(&self) {
        let plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        for (plugin, log) in &*plugins {
            tell_dropped(plugin, log.take_dropped());
        }
    }
}

fn tell_dropped(plugin: &PluginName, dropped: u64) {
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
    fn beyond_the_rate_entries_are_counted_and_told_once() {
        let log = PluginLog::new(Clock::manual(Timestamp(0)), Rates { lines: 2, entries: 1 });
        let second = |second: i64| Timestamp(second * 1_000_000);
        assert_eq!(log.admit(second(0), 9_000), (false, 0), "more than the lines of a second may take together");
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
    fn what_was_dropped_is_told_when_nothing_follows() {
        let clock = Clock::manual(Timestamp(0));
        let log = PluginLog::new(clock.clone(), Rates { lines: 1, entries: 1 });
        for _ in 0..3 {
            log.admit(clock.now(), 10);
        }
        assert_eq!(log.take_dropped(), 0, "there may be more in this second");
        clock.advance(std::time::Duration::from_secs(1));
        assert_eq!([log.take_dropped(), log.take_dropped()], [2, 0]);
        assert_eq!(log.admit(clock.now(), 10), (true, 0));
    }

    #[test]
    fn an_entry_says_that_there_was_more() {
        let field = |name: &str, length: usize| (name.to_owned(), "x".repeat(length));
        let mut room = MAX_ENTRY;
        assert_eq!(kept(&mut room, &[field("a", 5), field("b", 0)]).len(), 2);
        let long: Vec<_> = (0..5).map(|n| field(&n.to_string(), 5_000)).collect();
        let cut = kept(&mut room, &long);
        assert_eq!((room, cut.get(CUT)), (0, Some(&true.into())));
        assert!(serde_json::Value::from(cut).to_string().len() < MAX_ENTRY + 100);
        let many: Vec<_> = (0..40).map(|n| field(&n.to_string(), 1)).collect();
        assert_eq!(kept(&mut MAX_ENTRY.clone(), &many).len(), MAX_FIELDS + 1);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shorten(&"ä".repeat(MAX_TEXT)).len(), MAX_TEXT);
        assert_eq!(shorten(&format!("x{}", "ä".repeat(MAX_TEXT))).len(), MAX_TEXT - 1);
    }
}
