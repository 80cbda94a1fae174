//! `wharf:log`: structured log lines and audit entries of a plugin.
//!
//! The host adds plugin, release, request id and caller, so a plugin cannot write in another's name. Log lines are
//! rate-limited per plugin ([`plugin_log`]), by their number and their bytes. Lines beyond the rate are counted, and
//! the count is logged when the second is over. Audit entries are in the host's database before the call continues.
//! None is dropped: beyond the rate ([`audit_rate`]) the call waits.

mod audit_rate;
mod plugin_log;

use std::sync::Arc;

use tokio::sync::Semaphore;
use wasmtime::component::{HasSelf, Linker};

use self::plugin_log::{MAX_FIELDS, shorten};
use super::parameter::parameters;
use super::{Boot, CallContext, Candidate, Capability, Dependency, Guest, HostCalls, Limit};
use crate::clock::Clock;
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

pub use self::plugin_log::{Level, PluginLog, PluginLogs, Rates};

/// Maximum size of an audit entry, all its texts together.
const MAX_ENTRY: usize = 16 * 1024;
/// The name of the field that marks an entry as cut.
const CUT: &str = "…";
/// Audit entries of all plugins that are written concurrently. Few, so that the host's requests find database
/// connections.
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
    fn write(&mut self, level: log_wit::Level, message: String, fields: Vec<(String, String)>) -> wasmtime::Result<()> {
        self.charge(HostCalls::log)?;
        let texts = fields.iter().map(|(name, value)| name.len().saturating_add(value.len()));
        let _reservation = self.reserve(texts.fold(message.len(), usize::saturating_add))?;
        self.entered.log()??;
        if !self.output.write(&self.context, level.into(), &message, &fields) {
            self.usage.hit(Limit::LogRate);
        }
        Ok(())
    }
}

impl From<log_wit::Level> for Level {
    fn from(level: log_wit::Level) -> Self {
        match level {
            log_wit::Level::Trace => Self::Trace,
            log_wit::Level::Debug => Self::Debug,
            log_wit::Level::Info => Self::Info,
            log_wit::Level::Warn => Self::Warn,
            log_wit::Level::Error => Self::Error,
        }
    }
}

/// The prefix of the host's own actions. A plugin must not be able to write its own history.
const HOST_ACTIONS: &str = "plugin.";

/// An audit entry could not be stored, and the guest has no way to be told: its call ends.
#[derive(Debug, thiserror::Error)]
#[error("the audit entry could not be stored")]
pub struct EntryNotStored;

impl audit_wit::Host for Guest {
    async fn store_entry(
        &mut self,
        action: String,
        object: String,
        outcome: audit_wit::Outcome,
        detail: Vec<(String, String)>,
    ) -> wasmtime::Result<Result<(), audit_wit::Error>> {
        self.charge(HostCalls::log)?;
        if action.starts_with(HOST_ACTIONS) {
            return Err(wasmtime::Error::msg(format!("audit actions that begin with '{HOST_ACTIONS}' are the host's")));
        }
        let fields = detail.iter().map(|(name, value)| name.len().saturating_add(value.len()));
        let texts = action.len().saturating_add(object.len());
        let _reservation = self.reserve(fields.fold(texts, usize::saturating_add))?;
        let call = self.entered.log()??;
        let mut space = MAX_ENTRY;
        let [action, object] = [action, object].map(|text| cut_storable(&mut space, &text));
        let detail = cut_detail(&mut space, &detail);
        let outcome = match outcome {
            audit_wit::Outcome::Success => Outcome::Success,
            audit_wit::Outcome::Denied => Outcome::Denied,
            audit_wit::Outcome::Failure => Outcome::Failure,
        };
        let plugin = Some(call.context.plugin.clone());
        let entry = audit::Entry::of(&call.context.initiator(), call.audit.clock.now(), &action, object);
        let entry = audit::Entry { plugin, outcome, ..entry }.with_detail(detail.into());
        // No entry is lost: a plugin that exceeds its rate waits here until its call's deadline.
        if let Some(delay) = call.log.audit.reserve(MAX_ENTRY.saturating_sub(space)) {
            self.usage.hit(Limit::LogAudit);
            delay.wait().await;
        }
        let wait = self.dependencies.wait_for(Dependency::Audit);
        let _writer = call.audit.writers.acquire().await;
        let stored = audit::insert(&call.audit.db, &entry).await;
        wait.over();
        Ok(stored.map_err(|error| {
            tracing::error!(plugin = %call.context.plugin, error = error.report(), "an audit entry was not stored");
            self.dependencies.record_failure(Dependency::Audit);
            audit_wit::Error::Unavailable
        }))
    }

    async fn record_entry(
        &mut self,
        action: String,
        object: String,
        outcome: audit_wit::Outcome,
        detail: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        self.store_entry(action, object, outcome, detail).await?.map_err(|_| wasmtime::Error::new(EntryNotStored))
    }
}

/// Replaces the character NUL, which PostgreSQL refuses: a plugin must not be able to make the host's database fail.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}

/// Makes a text storable and cuts it to the space that is left, in this order: the replacement makes a text longer.
fn cut_storable(space: &mut usize, text: &str) -> String {
    cut(space, &storable(shorten(text))).to_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_its_nul_characters_stays_within_the_space() {
        let mut space = MAX_ENTRY;
        let texts = [(); 3].map(|()| cut_storable(&mut space, &"\0".repeat(MAX_ENTRY)));
        let bytes: usize = texts.iter().map(String::len).sum();
        assert!(bytes > 0 && bytes <= MAX_ENTRY && !texts.concat().contains('\0'), "{bytes}");
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
}
