//! Graceful shutdown by signal: the first SIGINT, SIGTERM or SIGHUP cancels a token, a second SIGINT or SIGTERM ends the
//! process. Owns the signals; the parts that hold the token do their own stopping.
//!
//! A terminal that closes sends SIGHUP, often twice, and a service manager may send it next to SIGTERM. So a further
//! SIGHUP changes nothing. A process that was started with SIGHUP ignored (`nohup`) keeps ignoring it.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::telemetry;

/// The bit of SIGHUP in the masks of `/proc/self/status`.
const HANGUP_BIT: u64 = 1;

/// Cancels `token` at the first signal and ends the process at the second.
///
/// # Errors
/// The operating system refuses a handler.
pub fn on_signal(token: CancellationToken) -> Result<()> {
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = if is_hangup_ignored() { None } else { Some(listen(SignalKind::hangup())?) };
    tokio::spawn(async move {
        let name = tokio::select! {
            name = next(&mut interrupt, &mut terminate) => name,
            Some(()) = received(hangup.as_mut()) => "SIGHUP",
        };
        tracing::info!(signal = name, "stopping; requests in flight may finish; a second signal ends at once");
        token.cancel();
        let name = next(&mut interrupt, &mut terminate).await;
        tracing::warn!(signal = name, "ended at once by a second signal");
        telemetry::flush();
        std::process::exit(1);
    });
    Ok(())
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

async fn received(hangup: Option<&mut Signal>) -> Option<()> {
    hangup?.recv().await
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| Error::internal("the operating system refused a signal handler").with_source(error))
}

/// Returns whether this process ignores SIGHUP. Where there is no `/proc`, the answer is no.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & HANGUP_BIT != 0)
}
