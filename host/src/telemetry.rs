//! The log: its filter, its format, and an entry for every panic. Lines go to standard error, so that standard output
//! stays free for the results of commands.

use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Log, LogFormat};
use crate::error::{Error, Result};

/// The filter unless `log.filter` sets another.
const DEFAULT_FILTER: &str = "info";

/// Characters of a panic's text that are logged: it may quote the data that caused it.
const PANIC_TEXT: usize = 300;

/// Starts the log of this process, once.
///
/// # Errors
/// The filter is malformed, or the log was started before.
pub fn start(config: &Log, colours: bool) -> Result<()> {
    let filter = config.filter.as_deref().unwrap_or(DEFAULT_FILTER);
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(filter)
        .map_err(|error| Error::internal("log.filter is malformed").with_source(error))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if is_text(config) {
        lines.with_ansi(colours && std::io::stderr().is_terminal()).finish().try_init()
    } else {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).finish().try_init()
    }
    .map_err(|error| Error::internal("the log was started before").with_source(error))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Returns whether log lines are for people.
pub fn is_text(config: &Log) -> bool {
    match config.format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let text: String = panic.payload_as_str().unwrap_or("(no text)").chars().take(PANIC_TEXT).collect();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    tracing::error!(place, thread = thread.name().unwrap_or("unnamed"), "panic: {text}");
}
