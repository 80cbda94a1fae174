//! The state behind the capabilities of a test, and the small ones: caller, settings, log, audit.
//!
//! The functions here have the signatures of the generated imports, so that the capability modules do not know which
//! of the two they call.

use super::cache::Entry;
use super::http::Server;
use crate::bindings::imports::wharf::auth::caller::Principal;
use crate::bindings::imports::wharf::log::audit::Outcome;
use crate::bindings::imports::wharf::log::log::Level;
use crate::{Caller, Uuid};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

/// One entry of the plugin's log.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "as in `wharf_sdk::log`")]
pub struct LogEntry {
    pub level: Level,
    pub message: String,
    pub fields: Vec<(String, String)>,
}

/// One entry of the audit log.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "as in `wharf_sdk::audit`")]
pub struct AuditEntry {
    pub action: String,
    pub object: String,
    pub outcome: Outcome,
    pub detail: Vec<(String, String)>,
}

#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) caller: Option<Caller>,
    pub(super) permissions: HashSet<(Uuid, String)>,
    /// JSON; empty for none.
    pub(super) settings: String,
    pub(super) connection: Option<rusqlite::Connection>,
    pub(super) cache: HashMap<String, Entry>,
    pub(super) servers: Vec<Server>,
    pub(super) log: Vec<LogEntry>,
    pub(super) audit: Vec<AuditEntry>,
}

thread_local! {
    /// The host of the code that runs now. Code outside a `TestPlugin` has one without a database.
    static CURRENT: RefCell<Host> = RefCell::default();
}

pub(super) fn with<T>(work: impl FnOnce(&mut Host) -> T) -> T {
    CURRENT.with_borrow_mut(work)
}

/// Runs code with `host` as the current one, and gives it back, also when the code panics.
pub(super) fn enter<T>(host: &RefCell<Host>, code: impl FnOnce() -> T) -> T {
    struct Back<'a>(&'a RefCell<Host>);
    impl Drop for Back<'_> {
        fn drop(&mut self) {
            with(|current| std::mem::swap(current, &mut self.0.borrow_mut()));
        }
    }
    with(|current| std::mem::swap(current, &mut host.borrow_mut()));
    let _back = Back(host);
    code()
}

pub(crate) mod auth {
    use super::{Principal, with};

    pub(crate) fn current() -> Option<Principal> {
        with(|host| {
            host.caller.clone().map(|caller| Principal {
                id: caller.id.to_string(),
                email: caller.email,
                superuser: caller.superuser,
                roles: caller.roles,
            })
        })
    }

    pub(crate) fn has_permission(name: &str) -> bool {
        with(|host| match &host.caller {
            Some(caller) => caller.superuser || host.permissions.contains(&(caller.id, name.to_owned())),
            None => false,
        })
    }
}

pub(crate) mod config {
    pub(crate) fn all() -> String {
        super::with(|host| if host.settings.is_empty() { "{}".to_owned() } else { host.settings.clone() })
    }
}

pub(crate) mod log {
    use super::{Level, LogEntry, with};

    pub(crate) fn write(level: Level, message: &str, fields: &[(String, String)]) {
        with(|host| host.log.push(LogEntry { level, message: message.to_owned(), fields: fields.to_vec() }));
    }
}

pub(crate) mod audit {
    use super::{AuditEntry, Outcome, with};

    pub(crate) fn record_entry(action: &str, object: &str, outcome: Outcome, detail: &[(String, String)]) {
        let (action, object) = (action.to_owned(), object.to_owned());
        with(|host| host.audit.push(AuditEntry { action, object, outcome, detail: detail.to_vec() }));
    }
}
