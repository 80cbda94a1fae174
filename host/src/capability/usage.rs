//! The usage counts of one release: host calls, limit hits, failed services, peak memory. Calls count without a lock;
//! operators and metrics read. Owns the counts; never decides anything by them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{HostCalls, Limit};

/// A service of the host that calls of plugins depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependency {
    /// The database of the plugin, or a free connection to it; for events and jobs also the host's database.
    Database,
    /// The audit log, which is in the host's database.
    Audit,
    /// The directory of accounts, which is in the host's database.
    Users,
    /// The host's client for other servers, or a free place among the plugin's requests to them. The other servers
    /// themselves are no dependency: the plugin chooses them.
    Egress,
}

impl Dependency {
    /// All services.
    pub const ALL: [Self; 4] = [Self::Database, Self::Audit, Self::Users, Self::Egress];

    /// Returns the name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Audit => "audit",
            Self::Users => "users",
            Self::Egress => "egress",
        }
    }
}

/// The counts of one release.
#[derive(Debug, Default)]
pub struct Usage {
    /// Host calls of each capability.
    pub host_calls: HostCalls,
    hits: Hits,
    refused_statements: AtomicU64,
    dependency_failures: [AtomicU64; Dependency::ALL.len()],
    memory_peak: AtomicU64,
}

/// The counts of limit hits. Arrays of more than 32 elements have no `Default` of their own.
#[derive(Debug)]
struct Hits([AtomicU64; Limit::ALL.len()]);

impl Default for Hits {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Usage {
    /// Counts a limit hit.
    pub fn hit(&self, limit: Limit) {
        if let Some(count) = self.hits.0.get(limit as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of hits of each limit.
    pub fn hits(&self) -> impl Iterator<Item = (Limit, u64)> + '_ {
        Limit::ALL.iter().copied().zip(&self.hits.0).map(|(limit, count)| (limit, count.load(Ordering::Relaxed)))
    }

    /// Counts an SQL statement that was refused: not permitted, or not valid.
    pub fn count_refused_statement(&self) {
        self.refused_statements.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of refused statements.
    pub fn refused_statements(&self) -> u64 {
        self.refused_statements.load(Ordering::Relaxed)
    }

    /// Counts a failure of a service that a call depended on.
    pub fn count_dependency_failure(&self, dependency: Dependency) {
        if let Some(count) = self.dependency_failures.get(dependency as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of failures of each service.
    pub fn dependency_failures(&self) -> impl Iterator<Item = (Dependency, u64)> + '_ {
        let counts = self.dependency_failures.iter().map(|count| count.load(Ordering::Relaxed));
        Dependency::ALL.into_iter().zip(counts)
    }

    /// Records the peak memory of a call: its own and the host's for it, together.
    pub fn record_peak(&self, bytes: usize) {
        self.memory_peak.fetch_max(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns the highest peak memory of a call.
    pub fn memory_peak(&self) -> u64 {
        self.memory_peak.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_counted_separately() {
        let usage = Usage::default();
        for (index, limit) in Limit::ALL.iter().copied().enumerate() {
            (0..=index).for_each(|_| usage.hit(limit));
        }
        for (index, (limit, count)) in usage.hits().enumerate() {
            assert_eq!(count, index as u64 + 1, "{}", limit.as_str());
        }
    }
}
