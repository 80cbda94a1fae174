//! The texts of statements on SQLite, as sqlx logs them: those of connections whose worker threads have the name of this
//! log. So a test sees every statement that the host runs on a pool of the test.

use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The beginning of the names of the threads.
pub(crate) const THREAD: &str = "statement-log";

/// The target of sqlx's events.
pub(crate) const TARGET: &str = "sqlx::query";

static STATEMENTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Receives the events of sqlx.
pub(crate) struct StatementLog;

impl<S: Subscriber> Layer<S> for StatementLog {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if std::thread::current().name().is_some_and(|name| name.starts_with(THREAD)) {
            event.record(&mut Recorder);
        }
    }
}

struct Recorder;

impl Visit for Recorder {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "db.statement" {
            STATEMENTS.lock().unwrap_or_else(PoisonError::into_inner).push(value.trim().to_owned());
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn Debug) {}
}

/// Returns the statements so far.
pub(crate) fn statements() -> Vec<String> {
    STATEMENTS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
