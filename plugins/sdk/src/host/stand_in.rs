//! Stands in for the host in native tests. Nothing leaves the process.
//!
//! Each module here has the functions of one generated import, so the capability modules do not know which of the two
//! they call. The state behind them is [`state`].

pub(crate) mod cache;
pub(crate) mod email;
pub(crate) mod events;
pub(crate) mod http;
pub(crate) mod jobs;
pub(crate) mod messages;
pub(crate) mod sql;
pub(crate) mod state;
pub(crate) mod users;

use crate::bindings::imports::wharf::log::log::Level;

/// Returns the current time of the test's clock.
pub(crate) fn now() -> std::time::SystemTime {
    std::time::SystemTime::now() + state::with(|host| host.clock)
}

/// Returns the current time of the test's clock in microseconds since 1970.
pub(crate) fn now_micros() -> i64 {
    let since = now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Appends an entry of the level `error` to the log of the test.
pub(crate) fn diagnostic(message: std::fmt::Arguments<'_>) {
    log::write(Level::Error, &message.to_string(), &[]);
}

pub(crate) mod auth {
    use super::state::with;
    pub(crate) use crate::bindings::imports::wharf::auth::caller::{AuthenticatedBy, Strength};
    use crate::bindings::imports::wharf::auth::caller::{Principal, Session};

    pub(crate) fn current() -> Option<Principal> {
        with(|host| host.caller.clone())
    }

    pub(crate) fn permissions() -> Vec<String> {
        let declared = with(|host| host.declared_permissions);
        let names = declared.iter().map(|(name, _)| (*name).to_owned());
        names.filter(|name| has_permission(name)).collect()
    }

    pub(crate) fn authentication() -> Option<AuthenticatedBy> {
        with(|host| {
            let caller = host.caller.as_ref()?;
            let set = host.authentications.get(&caller.id).cloned();
            Some(set.unwrap_or_else(|| {
                let id = crate::Uuid::nil().to_string();
                let strength = Strength::SingleFactor;
                AuthenticatedBy::Session(Session { id, strength, authenticated_at: 0, stepped_up_at: None })
            }))
        })
    }

    pub(crate) fn has_permission(name: &str) -> bool {
        with(|host| match &host.caller {
            Some(caller) => caller.superuser || host.permissions.contains(&(caller.id.clone(), name.to_owned())),
            None => false,
        })
    }
}

pub(crate) mod settings {
    use super::state::with;

    pub(crate) fn all() -> String {
        with(|host| if host.settings.is_empty() { "{}".to_owned() } else { host.settings.clone() })
    }
}

pub(crate) mod log {
    use super::state::{LogEntry, with};
    use crate::bindings::imports::wharf::log::log::Level;

    pub(crate) fn write(level: Level, message: &str, fields: &[(String, String)]) {
        with(|host| host.log.push(LogEntry { level, message: message.to_owned(), fields: fields.to_vec() }));
    }
}

pub(crate) mod audit {
    use super::state::{AuditEntry, with};
    use crate::bindings::imports::wharf::log::audit::{Error, Outcome};

    pub(crate) fn store_entry(
        action: &str,
        object: &str,
        outcome: Outcome,
        detail: &[(String, String)],
    ) -> Result<(), Error> {
        let (action, object) = (action.to_owned(), object.to_owned());
        with(|host| host.audit.push(AuditEntry { action, object, outcome, detail: detail.to_vec() }));
        Ok(())
    }
}
