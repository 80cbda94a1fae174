//! The way of an event, a job or a mail out of a call: into the outbox of the plugin's own database, or into the host's database.
//!
//! A plugin with the grant `sql` has an outbox. While a call has a transaction open, its messages belong to the
//! transaction. `plugin::relay` moves committed messages from the outbox into the host's database. A plugin without `sql`
//! has nothing to be in step with, so its messages are stored in the host's database at once.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::{Dependency, Guest};
use crate::clock::{Clock, Random};
use crate::db::plugin_data::DataError;
use crate::db::{Db, intake};
use crate::error::Error;
use crate::message::Message;

/// Statements on the host's database for events, for jobs, or for mails, of all plugins that run at once. Few, so that the host's
/// requests find database connections.
const STATEMENTS: usize = 2;
/// Long checks of payloads, of events or of jobs of all plugins, that run at once.
const LONG_CHECKS: usize = 2;

/// The services that messages are checked and handed over with.
#[derive(Clone)]
pub(super) struct MessageServices {
    /// The host's database.
    pub(super) db: Db,
    /// The clock.
    pub(super) clock: Clock,
    /// The source of ids.
    pub(super) random: Random,
    /// The permits of [`STATEMENTS`].
    pub(super) statements: Arc<Semaphore>,
    /// The permits of [`LONG_CHECKS`].
    pub(super) long_checks: Arc<Semaphore>,
}

impl MessageServices {
    /// Creates the services of one capability.
    pub(super) fn new(db: Db, clock: Clock, random: Random) -> Self {
        let [statements, long_checks] = [STATEMENTS, LONG_CHECKS].map(|permits| Arc::new(Semaphore::new(permits)));
        Self { db, clock, random, statements, long_checks }
    }
}

/// Why a message was not handed over.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The message is wrong. The text names the member.
    Invalid(String),
    /// A limit was hit. The text has its name and value.
    Limit(String),
    /// The transaction lost against a concurrent one.
    Conflict,
    /// The message cannot be stored now.
    Unavailable,
    /// The call ends.
    Trap(wasmtime::Error),
}

/// Converts a [`Refusal`] into the error of an interface, or into the end of the call. The interfaces of events, jobs and
/// mail have errors of the same names, and types of their own for them.
macro_rules! convert_refusals {
    ($error:ty) => {
        impl TryFrom<Refusal> for $error {
            type Error = wasmtime::Error;

            fn try_from(refusal: Refusal) -> wasmtime::Result<Self> {
                Ok(match refusal {
                    Refusal::Invalid(reason) => Self::Invalid(reason),
                    Refusal::Limit(limit) => Self::Limit(limit),
                    Refusal::Conflict => Self::Conflict,
                    Refusal::Unavailable => Self::Unavailable,
                    Refusal::Trap(error) => return Err(error),
                })
            }
        }
    };
}
pub(super) use convert_refusals;

impl From<wasmtime::Error> for Refusal {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}

impl From<DataError> for Refusal {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Invalid(reason) => Self::Invalid(reason),
            DataError::Conflict => Self::Conflict,
            DataError::Limit(_, limit) => Self::Limit(limit),
            // No plugin can violate a constraint of the outbox.
            DataError::Unavailable | DataError::Failed | DataError::Constraint(_) => Self::Unavailable,
        }
    }
}

impl Guest {
    /// Hands a message over: see the module.
    pub(super) async fn hand_over(&mut self, services: &MessageServices, message: Message) -> Result<(), Refusal> {
        if self.entered.sql.is_some() {
            let lane = match &message {
                Message::Event(event) => event.lane(),
                Message::Job(_) | Message::Cancel { .. } | Message::Mail(_) => None,
            };
            let text = serde_json::to_string(&message).map_err(wasmtime::Error::new)?;
            let reservation = self.reserve(text.len())?;
            return self.append_message(lane.as_deref(), text, reservation).await?.map_err(Refusal::from);
        }
        let wait = self.dependencies.wait_for(Dependency::Database);
        let _statement = services.statements.acquire().await;
        let stored = intake::store(&services.db, &self.context.plugin, std::slice::from_ref(&message)).await;
        wait.over();
        stored.map_err(|error| self.host_database_failed(&error))
    }

    /// Records that the host's database failed.
    pub(super) fn host_database_failed(&self, error: &Error) -> Refusal {
        let plugin = &self.context.plugin;
        tracing::warn!(%plugin, error = error.report(), "a statement for an event, a job or a mail of a plugin failed");
        self.dependencies.record_failure(Dependency::Database);
        Refusal::Unavailable
    }
}
