//! The state of one test's host. The capabilities of the stand-in read and write it; `testing` sets it up.
//!
//! Code under test runs on the test's own thread, so the current state is thread-local.

use crate::bindings::imports::wharf::auth::caller::{AuthenticatedBy, Principal};
use crate::bindings::imports::wharf::http::client::{Error, Request, Response};
use crate::bindings::imports::wharf::log::audit::Outcome;
use crate::bindings::imports::wharf::log::log::Level;
use crate::bindings::imports::wharf::users::directory::User;
use crate::host::stand_in::messages::{Message, Messages};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

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

/// One cached value.
#[derive(Debug)]
pub(crate) struct CacheEntry {
    pub(crate) value: Vec<u8>,
    /// `None` means without an end.
    pub(crate) expires_at: Option<Instant>,
    pub(crate) tags: Vec<String>,
}

/// A function that handles the requests to one server.
pub(crate) type Handler = dyn Fn(&Request) -> Result<Response, Error>;

/// Another server: an origin that the grant would allow, and the function that handles its requests.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) origin: String,
    pub(crate) handler: Rc<Handler>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)
    }
}

#[derive(Debug, Default)]
pub(crate) struct HostState {
    pub(crate) caller: Option<Principal>,
    /// The caller's id and the permission's name.
    pub(crate) permissions: HashSet<(String, String)>,
    /// The permissions that the plugin declares: name and summary.
    pub(crate) declared_permissions: &'static [(&'static str, &'static str)],
    /// How callers were authenticated, by the caller's id. Others have a session of one factor.
    pub(crate) authentications: HashMap<String, AuthenticatedBy>,
    /// JSON; empty without settings.
    pub(crate) settings: String,
    pub(crate) connection: Option<rusqlite::Connection>,
    pub(crate) cache: HashMap<String, CacheEntry>,
    pub(crate) servers: Vec<Server>,
    pub(crate) log: Vec<LogEntry>,
    pub(crate) audit: Vec<AuditEntry>,
    /// The accounts by their ids.
    pub(crate) users: BTreeMap<String, User>,
    /// The domains to whose addresses the grant would allow mails.
    pub(crate) mail_domains: Vec<String>,
    /// How far the test advanced the clock.
    pub(crate) clock: Duration,
    /// The request that the plugin handles, or that caused the task that runs.
    pub(crate) request_id: Option<String>,
    pub(crate) messages: Messages,
}

impl HostState {
    /// Returns whether the plugin has a transaction open.
    pub(crate) fn has_transaction(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| !connection.is_autocommit())
    }

    /// Takes a message. While a transaction is open, the message belongs to it.
    pub(crate) fn hand_over(&mut self, message: Message) {
        match self.has_transaction() {
            true => self.messages.uncommitted.push(message),
            false => self.messages.store(message),
        }
    }
}

thread_local! {
    /// The host of the code that runs now. Code outside a `TestPlugin` has one without a database.
    static CURRENT: RefCell<HostState> = RefCell::default();
}

/// Calls `work` with the current host.
pub(crate) fn with<T>(work: impl FnOnce(&mut HostState) -> T) -> T {
    CURRENT.with_borrow_mut(work)
}

/// Runs `code` with `host` as the current one and restores the previous one afterwards, also when the code panics.
pub(crate) fn enter<T>(host: &RefCell<HostState>, code: impl FnOnce() -> T) -> T {
    struct Restore<'a>(&'a RefCell<HostState>);
    impl Drop for Restore<'_> {
        fn drop(&mut self) {
            with(|current| std::mem::swap(current, &mut self.0.borrow_mut()));
        }
    }
    with(|current| std::mem::swap(current, &mut host.borrow_mut()));
    let _restore = Restore(host);
    code()
}
