//! What one call may take beside time: memory and calls into the host. Memory is what the guest grew to, which it never
//! gives back, and what the host holds for it at the moment: what it handed over, what it is about to get, what its
//! handles stand for. Shared, because a request that is on its way beside the guest holds some too.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Limit;
use crate::egress::Memory;

/// What one call may take.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    memory: usize,
    taken: AtomicUsize,
    peak: AtomicUsize,
    host_calls: AtomicU64,
    met: Mutex<Option<Limit>>,
}

/// Memory that the host holds for a call until this is dropped.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    /// So many bytes, and so many calls into the host.
    pub fn new(memory: usize, host_calls: u64) -> Self {
        Self(Arc::new(Shared {
            memory,
            taken: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            host_calls: AtomicU64::new(host_calls),
            met: Mutex::default(),
        }))
    }

    /// Takes memory for the rest of the call, if there is as much.
    pub fn take(&self, bytes: usize) -> bool {
        let more = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= self.0.memory);
        match self.0.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(before) => {
                self.0.peak.fetch_max(before.saturating_add(bytes), Ordering::Relaxed);
                true
            }
            Err(_) => {
                self.meet(Limit::Memory);
                false
            }
        }
    }

    /// Takes memory until the answer is dropped.
    ///
    /// # Errors
    /// There is not as much.
    pub fn hold(&self, bytes: usize) -> wasmtime::Result<Held> {
        if !self.take(bytes) {
            return Err(beyond());
        }
        Ok(Held { budget: self.clone(), bytes })
    }

    /// Counts a call into the host.
    ///
    /// # Errors
    /// There were as many as there may be.
    pub fn spend_host_call(&self) -> wasmtime::Result<()> {
        let one_less = |left: u64| left.checked_sub(1);
        match self.0.host_calls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
            Ok(_) => Ok(()),
            Err(_) => {
                self.meet(Limit::HostCalls);
                Err(wasmtime::Error::msg("the call used up its budget of host calls"))
            }
        }
    }

    /// The most bytes that were taken at once.
    pub fn peak(&self) -> usize {
        self.0.peak.load(Ordering::Relaxed)
    }

    /// Remembers a limit that was met.
    pub fn meet(&self, limit: Limit) {
        *self.0.met.lock().unwrap_or_else(PoisonError::into_inner) = Some(limit);
    }

    /// The limit that was met last.
    pub fn met(&self) -> Option<Limit> {
        *self.0.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// How many.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds so many bytes from now on.
    ///
    /// # Errors
    /// There is not as much; it holds what it held.
    pub fn resize(&mut self, bytes: usize) -> wasmtime::Result<()> {
        if bytes <= self.bytes {
            self.budget.0.taken.fetch_sub(self.bytes.saturating_sub(bytes), Ordering::Relaxed);
        } else if !self.budget.take(bytes.saturating_sub(self.bytes)) {
            return Err(beyond());
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Memory for Held {
    fn grow(&mut self, bytes: usize) -> bool {
        self.resize(bytes).is_ok()
    }
}

fn beyond() -> wasmtime::Error {
    wasmtime::Error::msg("what the host would hold for the call is beyond its memory")
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.0.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_was_taken_and_what_is_held() {
        let budget = Budget::new(100, 0);
        assert!(budget.take(50));
        let held = budget.hold(50).unwrap();
        assert!(budget.hold(1).is_err());
        assert_eq!(budget.met(), Some(Limit::Memory));
        drop(held);
        let mut held = budget.hold(10).unwrap();
        held.resize(50).unwrap();
        assert!(held.resize(51).is_err());
        held.resize(20).unwrap();
        assert!(budget.take(30));
        drop(held);
        assert!(budget.take(20));
        assert!(!budget.take(usize::MAX));
        assert_eq!(budget.peak(), 100);
    }

    #[test]
    fn so_many_calls_and_no_more() {
        let budget = Budget::new(0, 1);
        budget.spend_host_call().unwrap();
        assert!(budget.spend_host_call().is_err());
        assert_eq!(budget.met(), Some(Limit::HostCalls));
    }
}
