//! The execution of guest code within its CPU share and its deadline, and the errors that a stopped guest becomes.

use std::future::Future;
use std::time::Duration;

use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};

use crate::capability::log::EntryNotStored;
use crate::capability::{CpuSlot, Limit, Revoked};
use crate::error::{Error, Kind, Result, code};
use crate::plugin::artifact::printable;
use crate::plugin::bulkhead::busy;
use crate::plugin::call_stats::CallStats;
use crate::plugin::refusal::plugin_revoked;
use crate::plugin::shortage::lacks_resources;

/// Marks an error that occurred while an instance was created.
#[derive(Debug, thiserror::Error)]
#[error("creating an instance")]
pub(super) struct Instantiating;

/// Why guest code did not finish.
pub(super) enum Stop {
    Deadline,
    Failed(wasmtime::Error),
}

/// Runs guest code. Epochs do not see time inside host calls, so the deadline covers everything; when it passes,
/// dropping the work cancels the host call that it waits in. The guest holds its time slice and uses CPU time only
/// while it runs, not while it waits.
pub(super) async fn run_until<T>(
    slot: &CpuSlot,
    stats: &CallStats,
    deadline: Duration,
    work: impl Future<Output = wasmtime::Result<T>>,
) -> Result<T, Stop> {
    let mut work = std::pin::pin!(work);
    let running = std::future::poll_fn(|context| {
        let (polled, took) = slot.run(|| work.as_mut().poll(context));
        stats.computed(took);
        polled
    });
    match tokio::time::timeout(deadline, running).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Stop::Failed(error)),
        Err(_) => Err(Stop::Deadline),
    }
}

impl Stop {
    /// Returns how the types of an export differ from those of the host. wasmtime finds this when it creates an
    /// instance, and reports neither a trap nor a backtrace, as it does for errors in a start function.
    pub(super) fn type_mismatch(&self) -> Option<String> {
        let Self::Failed(error) = self else { return None };
        let ran = error.is::<Trap>() || error.is::<WasmBacktrace>();
        let has_place = !error.is::<PoolConcurrencyLimitError>() && !lacks_resources(error);
        // The first of the chain is the mark itself.
        let causes = || error.chain().skip(1).map(ToString::to_string).collect::<Vec<_>>().join(": ");
        (error.is::<Instantiating>() && !ran && has_place).then(|| printable(&causes()))
    }

    /// Converts it to the error of the call; `hit` is the limit that the guest hit.
    pub(super) fn into_error(self, hit: Option<Limit>) -> Error {
        let error = match self {
            Self::Deadline => {
                return Error::new(Kind::Timeout, code::PLUGIN_DEADLINE, "The plugin did not respond in time");
            }
            Self::Failed(error) => error,
        };
        if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
            return busy().with_internal("the instance pool is full");
        }
        if let Some(revoked) = error.downcast_ref::<Revoked>() {
            return plugin_revoked().with_internal(revoked.to_string());
        }
        if let Some(cause) = error.downcast_ref::<EntryNotStored>() {
            return dependency_unavailable().with_internal(cause);
        }
        if hit.is_none() && lacks_resources(&error) {
            let report = format!("the system lacks memory, mappings or file descriptors for an instance: {error:#}");
            return dependency_unavailable().with_internal(printable(&report));
        }
        let (kind, code, public) = match hit {
            Some(Limit::Memory) => {
                (Kind::Plugin, code::PLUGIN_MEMORY_LIMIT, "The plugin needs more memory than its limit")
            }
            Some(Limit::CpuTime) => (Kind::Timeout, code::PLUGIN_CPU_LIMIT, "The plugin used up its CPU time"),
            Some(Limit::HostCalls) => {
                (Kind::Plugin, code::PLUGIN_HOST_CALL_LIMIT, "The plugin used up its calls into the host")
            }
            _ => (Kind::Plugin, code::PLUGIN_TRAP, "The plugin failed"),
        };
        // The cause comes first, because the guest's backtrace can be long.
        Error::new(kind, code, public).with_internal(printable(&format!("{}; {error}", error.root_cause())))
    }
}

/// Returns the error of a call that ended because a service of the host failed.
pub(super) fn dependency_unavailable() -> Error {
    let text = "A service of the host that the plugin needs is not available now, try again later";
    Error::new(Kind::Unavailable(Duration::from_secs(1)), code::DEPENDENCY_UNAVAILABLE, text)
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::plugin::call_stats::CallOutcome;

    fn failed(error: wasmtime::Error) -> Stop {
        Stop::Failed(error.context(Instantiating))
    }

    #[test]
    fn a_shortage_of_the_system_is_not_the_fault_of_the_plugin() {
        let shortage = || failed(wasmtime::Error::from(Errno::NOMEM).context("mmap failed"));
        let error = shortage().into_error(None);
        assert_eq!(*error.code(), code::DEPENDENCY_UNAVAILABLE);
        assert_eq!(CallOutcome::of_error(&error), CallOutcome::Dependency, "the breaker does not count it");
        assert_eq!(shortage().type_mismatch(), None);
        // Its own limit is its own fault.
        assert_eq!(*shortage().into_error(Some(Limit::Memory)).code(), code::PLUGIN_MEMORY_LIMIT);

        let mismatch = || failed(wasmtime::Error::msg("expected func found nothing"));
        assert_eq!(*mismatch().into_error(None).code(), code::PLUGIN_TRAP);
        assert_eq!(mismatch().type_mismatch().as_deref(), Some("expected func found nothing"));
    }
}
