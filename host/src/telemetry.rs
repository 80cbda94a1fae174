//! The log: its filter, its format, and an entry for every panic. Lines go to standard error, so that standard output
//! stays free for the results of commands.
//!
//! A thread that logs never waits for the reader of standard error: its line goes into a bounded queue
//! ([`line_queue`]), and a thread of its own writes it. A line that does not fit is dropped and counted. Errors of the host
//! have room beyond that of other lines. A thread that panics waits a moment for the writing thread, because the process
//! may end.

mod json_lines;
mod line_output;
mod line_queue;
mod text_lines;

use std::io::{self, IsTerminal as _};
use std::panic::PanicHookInfo;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format;
use tracing_subscriber::util::SubscriberInitExt as _;

use self::json_lines::JsonLines;
pub use self::json_lines::PLUGIN_LINES;
pub use self::line_queue::CALL_ERRORS;
use self::line_queue::{LineQueue, QueueWriter};
use crate::config::{Log, LogFormat};
use crate::error::{Error, Result};

/// The filter unless `log.filter` sets another.
const DEFAULT_FILTER: &str = "info";

/// Characters of a panic's text that are logged: it may quote the data that caused it.
const PANIC_TEXT: usize = 300;

/// Maximum bytes of lines that wait to be written. As many again may be in the hands of the operating system.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// How long the end of the process waits for the last lines. A reader that does not read must not hold it up.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// How long a panic waits until its line is written: the process may end by it, without another word.
const PANIC_FLUSH_TIME: Duration = Duration::from_millis(100);

/// The lines of this process, once the log is started.
static LINES: OnceLock<Arc<LineQueue>> = OnceLock::new();

/// Starts the log of this process, once.
///
/// # Errors
/// The filter is malformed, the writing thread does not start, or the log was started before.
pub fn start(config: &Log, colours: bool) -> Result<()> {
    let filter = config.filter.as_deref().unwrap_or(DEFAULT_FILTER);
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(filter)
        .map_err(|error| Error::internal("log.filter is malformed").with_source(error))?;
    let queue = Arc::new(LineQueue::new(QUEUE_BYTES));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(QueueWriter(Arc::clone(&queue)));
    if is_text(config) {
        let fields = format::debug_fn(text_lines::write_field).delimited(" ");
        lines.with_ansi(colours && io::stderr().is_terminal()).fmt_fields(fields).finish().try_init()
    } else {
        lines.event_format(JsonLines).finish().try_init()
    }
    .map_err(|error| Error::internal("the log was started before").with_source(error))?;
    LineQueue::start(&queue, io::stderr())
        .map_err(|error| Error::internal("the thread that writes the log does not start").with_source(error))?;
    let _ = LINES.set(queue);
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Waits a moment until the lines so far are written. Each end of the process calls it.
pub fn flush() {
    flush_within(FLUSH_TIME);
}

fn flush_within(limit: Duration) {
    if let Some(lines) = LINES.get() {
        lines.flush(limit);
    }
}

/// Returns the number of lines that were dropped because standard error did not take them in time.
pub fn dropped_lines() -> u64 {
    LINES.get().map_or(0, |lines| lines.dropped())
}

/// Returns whether log lines are for people.
pub fn is_text(config: &Log) -> bool {
    match config.format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let text: String = panic.payload_as_str().unwrap_or("(no text)").chars().take(PANIC_TEXT).collect();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    tracing::error!(place, thread = thread.name().unwrap_or("unnamed"), "panic: {text}");
    flush_within(PANIC_FLUSH_TIME);
}
