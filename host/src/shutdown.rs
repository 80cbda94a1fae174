//! Graceful shutdown by signal: the first SIGINT or SIGTERM cancels a token, the second one ends the process. Owns the
//! signals; the parts that hold the token do their own stopping.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// Cancels `token` at the first signal and ends the process at the second.
///
/// # Errors
/// The operating system refuses a handler.
pub fn on_signal(token: CancellationToken) -> Result<()> {
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    tokio::spawn(async move {
        let name = next(&mut interrupt, &mut terminate).await;
        tracing::info!(signal = name, "stopping; requests in flight may finish; a second signal ends at once");
        token.cancel();
        let name = next(&mut interrupt, &mut terminate).await;
        tracing::warn!(signal = name, "ended at once by a second signal");
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

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| Error::internal("the operating system refused a signal handler").with_source(error))
}
