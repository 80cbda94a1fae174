//! The services that a call depends on, and whether one of them failed during the call. Owns the record of the failures
//! of one call. Only the host classifies failures: a plugin's own mistakes, such as invalid SQL or a limit that its own
//! call used up, are no failures of a service. So a call cannot escape the circuit breaker with errors that it causes
//! itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Dependency, Usage};

/// The time after which a service that has not responded counts as failed when the call ends. Shorter waits are usual,
/// and a plugin must not be able to end each call in one.
const UNRESPONSIVE: Duration = Duration::from_secs(1);

/// The failures of services during one call. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dependencies(Arc<State>);

#[derive(Debug)]
struct State {
    usage: Arc<Usage>,
    /// The requests to other servers that this call has open or waits for.
    requests: AtomicUsize,
    /// The first failure, for the log.
    first: Mutex<Option<Dependency>>,
}

impl Dependencies {
    /// Creates the record of a call of the release with these usage counts.
    pub fn new(usage: Arc<Usage>) -> Self {
        Self(Arc::new(State { usage, requests: AtomicUsize::new(0), first: Mutex::default() }))
    }

    /// Records that a service failed.
    pub fn record_failure(&self, dependency: Dependency) {
        self.0.usage.count_dependency_failure(dependency);
        self.0.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(dependency);
    }

    /// Returns whether a service failed during the call.
    pub fn has_failed(&self) -> bool {
        self.first_failure().is_some()
    }

    /// Returns the service that failed first.
    pub fn first_failure(&self) -> Option<Dependency> {
        *self.0.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a wait for a service. If the call ends during the wait, and the wait has been long, the service failed.
    pub(super) fn wait_for(&self, dependency: Dependency) -> Wait {
        Wait { dependencies: self.clone(), dependency, since: Instant::now(), is_over: false }
    }

    /// Counts a request to another server until the returned value is dropped.
    pub(super) fn open_request(&self) -> OpenRequest {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        OpenRequest(self.clone())
    }
}

/// A wait for a service.
#[derive(Debug)]
#[must_use]
pub(super) struct Wait {
    dependencies: Dependencies,
    dependency: Dependency,
    since: Instant,
    is_over: bool,
}

impl Wait {
    /// Ends the wait: the service responded.
    pub(super) fn over(mut self) {
        self.is_over = true;
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if !self.is_over && self.since.elapsed() >= UNRESPONSIVE {
            self.dependencies.record_failure(self.dependency);
        }
    }
}

/// A request to another server that is open or waits.
#[derive(Debug)]
#[must_use]
pub(super) struct OpenRequest(Dependencies);

impl OpenRequest {
    /// Returns whether the call has no other request. If it has, it may have taken the places itself.
    pub(super) fn is_alone(&self) -> bool {
        self.0.0.requests.load(Ordering::Relaxed) <= 1
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_counted_for_the_release_and_remembered_for_the_call() {
        let usage = Arc::new(Usage::default());
        let [one, other] = [(), ()].map(|()| Dependencies::new(Arc::clone(&usage)));
        one.record_failure(Dependency::Audit);
        one.record_failure(Dependency::Database);
        assert!(one.has_failed() && !other.has_failed());
        assert_eq!((one.first_failure(), other.first_failure()), (Some(Dependency::Audit), None));
        assert_eq!(usage.dependency_failures().map(|(_, count)| count).collect::<Vec<_>>(), [1, 1, 0, 0]);
    }

    #[test]
    fn a_service_fails_if_the_call_ends_in_a_long_wait_for_it() {
        let call = Dependencies::new(Arc::default());
        drop(call.wait_for(Dependency::Audit));
        assert!(!call.has_failed(), "a plugin may end its call in any short wait");
        let mut wait = call.wait_for(Dependency::Audit);
        wait.since = wait.since.checked_sub(UNRESPONSIVE).unwrap();
        let mut long = call.wait_for(Dependency::Audit);
        long.since = wait.since;
        long.over();
        assert!(!call.has_failed());
        drop(wait);
        assert!(call.has_failed());
    }

    #[test]
    fn a_call_with_several_requests_is_not_alone() {
        let call = Dependencies::new(Arc::default());
        let first = call.open_request();
        assert!(first.is_alone());
        let second = call.open_request();
        assert!(!first.is_alone() && !second.is_alone());
        drop(first);
        assert!(second.is_alone());
    }
}
