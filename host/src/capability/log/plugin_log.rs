//! The logs of plugins. Each writes to the host's log within the plugin's rate: a number of lines per second, and as
//! many bytes as that number of average lines has. Owns the count of dropped lines. Never waits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

use super::audit_rate::AuditRateLimiter;
use crate::capability::CallContext;
use crate::clock::{Clock, Timestamp};
use crate::config::Plugins;
use crate::id::PluginName;
use crate::telemetry::PLUGIN_LINES;

/// Maximum length of a message, a field name or a field value in bytes; longer texts are cut.
pub(super) const MAX_TEXT: usize = 8 * 1024;
/// Average size of a line in bytes: a plugin may write this many bytes for each line of its rate.
const MEAN_LINE: usize = 1024;
/// Maximum number of fields of one entry; further fields are dropped.
pub(super) const MAX_FIELDS: usize = 32;

/// The severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Very detailed diagnostics.
    Trace,
    /// Diagnostics.
    Debug,
    /// Normal operation.
    Info,
    /// Something unexpected that the plugin handled.
    Warn,
    /// A failure.
    Error,
}

/// The log of one plugin. Writes to the host's log within the plugin's rate.
pub struct PluginLog {
    clock: Clock,
    rate: AtomicU32,
    dropped: AtomicU64,
    window: Mutex<Window>,
    pub(super) audit: AuditRateLimiter,
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
        let request_id = call.request_id.as_deref();
        let caller = call.caller.as_ref().map(|caller| tracing::field::display(caller.id()));
        let fields: Map<String, Value> =
            fields.iter().take(MAX_FIELDS).map(|(name, value)| (shorten(name).into(), shorten(value).into())).collect();
        let fields = (!fields.is_empty()).then(|| Value::from(fields).to_string());
        let message = shorten(message);
        macro_rules! event {
            ($level:ident) => {
                tracing::$level!(target: PLUGIN_LINES, plugin, release, request_id, caller, fields, "{message}")
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

impl From<&Plugins> for Rates {
    fn from(config: &Plugins) -> Self {
        Self { lines: config.log_rate, entries: config.log_audit }
    }
}

/// One [`PluginLog`] per plugin, so that a rate spans releases.
#[derive(Clone)]
pub struct PluginLogs {
    clock: Clock,
    pub(super) rates: Rates,
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
        tracing::warn!(target: PLUGIN_LINES, %plugin, dropped, "log entries were dropped: over the plugin's rate");
    }
}

pub(super) fn shorten(text: &str) -> &str {
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
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shorten(&"ä".repeat(MAX_TEXT)).len(), MAX_TEXT);
        assert_eq!(shorten(&format!("x{}", "ä".repeat(MAX_TEXT))).len(), MAX_TEXT - 1);
    }
}
