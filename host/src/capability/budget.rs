//! The budget of one call: memory and calls into the host. Memory is the sum of two parts. The guest's own memory only
//! grows. The host's memory for the call changes: values that the guest passed, results that it is about to get,
//! objects behind its handles. The budget is shared, because a request to another server may run concurrently with the
//! guest and reserve memory too.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Limit;
use crate::egress::ResponseMemory;

/// The budget of one call.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    memory: usize,
    taken: AtomicUsize,
    peak: AtomicUsize,
    host_calls: AtomicU64,
    limit_hit: Mutex<Option<Limit>>,
}

/// Memory that counts as used by a call until this is dropped.
#[derive(Debug)]
pub struct MemoryReservation {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    /// Creates a budget of `memory` bytes and `host_calls` calls into the host.
    pub fn new(memory: usize, host_calls: u64) -> Self {
        Self(Arc::new(Shared {
            memory,
            taken: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            host_calls: AtomicU64::new(host_calls),
            limit_hit: Mutex::default(),
        }))
    }

    /// Takes memory for the rest of the call. Returns `false` if the budget has less left.
    pub fn take(&self, bytes: usize) -> bool {
        let more = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= self.0.memory);
        match self.0.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(before) => {
                self.0.peak.fetch_max(before.saturating_add(bytes), Ordering::Relaxed);
                true
            }
            Err(_) => {
                self.record_limit_hit(Limit::Memory);
                false
            }
        }
    }

    /// Takes memory until the returned reservation is dropped.
    ///
    /// # Errors
    /// The budget has less memory left.
    pub fn reserve(&self, bytes: usize) -> wasmtime::Result<MemoryReservation> {
        if !self.take(bytes) {
            return Err(out_of_memory());
        }
        Ok(MemoryReservation { budget: self.clone(), bytes })
    }

    /// Counts one call into the host.
    ///
    /// # Errors
    /// The budget of host calls is used up.
    pub fn spend_host_call(&self) -> wasmtime::Result<()> {
        let one_less = |left: u64| left.checked_sub(1);
        match self.0.host_calls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
            Ok(_) => Ok(()),
            Err(_) => {
                self.record_limit_hit(Limit::HostCalls);
                Err(wasmtime::Error::msg("the call used up its budget of host calls"))
            }
        }
    }

    /// Returns the most bytes that were taken at once.
    pub fn peak(&self) -> usize {
        self.0.peak.load(Ordering::Relaxed)
    }

    /// Records that the call hit a limit.
    pub fn record_limit_hit(&self, limit: Limit) {
        *self.0.limit_hit.lock().unwrap_or_else(PoisonError::into_inner) = Some(limit);
    }

    /// Returns the limit that the call hit last.
    pub fn limit_hit(&self) -> Option<Limit> {
        *self.0.limit_hit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryReservation {
    /// Returns the number of reserved bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes the number of reserved bytes.
    ///
    /// # Errors
    /// The budget has less memory left. The reservation then keeps its size.
    pub fn resize(&mut self, bytes: usize) -> wasmtime::Result<()> {
        if bytes <= self.bytes {
            self.budget.0.taken.fetch_sub(self.bytes.saturating_sub(bytes), Ordering::Relaxed);
        } else if !self.budget.take(bytes.saturating_sub(self.bytes)) {
            return Err(out_of_memory());
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl ResponseMemory for MemoryReservation {
    fn grow(&mut self, bytes: usize) -> bool {
        self.resize(bytes).is_ok()
    }
}

fn out_of_memory() -> wasmtime::Error {
    wasmtime::Error::msg("the host's memory for the call would exceed the call's memory limit")
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.budget.0.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_memory_is_the_taken_and_the_reserved_memory() {
        let budget = Budget::new(100, 0);
        assert!(budget.take(50));
        let reservation = budget.reserve(50).unwrap();
        assert!(budget.reserve(1).is_err());
        assert_eq!(budget.limit_hit(), Some(Limit::Memory));
        drop(reservation);
        let mut reservation = budget.reserve(10).unwrap();
        reservation.resize(50).unwrap();
        assert!(reservation.resize(51).is_err());
        reservation.resize(20).unwrap();
        assert!(budget.take(30));
        drop(reservation);
        assert!(budget.take(20));
        assert!(!budget.take(usize::MAX));
        assert_eq!(budget.peak(), 100);
    }

    #[test]
    fn host_calls_beyond_the_budget_are_refused() {
        let budget = Budget::new(0, 1);
        budget.spend_host_call().unwrap();
        assert!(budget.spend_host_call().is_err());
        assert_eq!(budget.limit_hit(), Some(Limit::HostCalls));
    }
}
