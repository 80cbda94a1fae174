//! What the calls of one release used, and which limits they met: counted without a lock while they run, read by whoever
//! looks. Owns the counts; never decides anything by them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::HostCalls;

/// A limit that something was refused, cut or ended for. Named as operators write it, those that nobody can set likewise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Memories and tables of a call, and what the host holds for it, together.
    Memory,
    /// CPU time of a call.
    CpuTime,
    /// Wall time of a call.
    Deadline,
    /// Calls into the host.
    HostCalls,
    /// The request's body.
    RequestBytes,
    /// Headers of the request, or of the answer.
    HeaderBytes,
    /// Bytes of an answer.
    ResponseBytes,
    /// Calls at once, with their queue.
    Concurrency,
    /// Rows of an SQL answer.
    SqlRows,
    /// Bytes of an SQL answer, or of a statement with its parameters.
    SqlBytes,
    /// Time of an SQL statement.
    SqlTime,
    /// Database connections.
    SqlConnections,
    /// Disk of the database.
    SqlDisk,
    /// Statements of a batch, and the text of one.
    SqlStatements,
    /// Bytes of a value, key or tags for the cache.
    CacheBytes,
    /// Servers, and their addresses, that may be spoken to.
    HttpHosts,
    /// Time of an exchange with another server.
    HttpTime,
    /// Bytes of one.
    HttpBytes,
    /// Requests to other servers at once.
    HttpRequests,
    /// Time of finding and connecting to another server.
    HttpConnect,
    /// Headers of an exchange.
    HttpHeaders,
    /// Redirects of one.
    HttpRedirects,
    /// Log lines or bytes a second.
    LogRate,
    /// Audit entries a second.
    LogAudit,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::Memory,
        Self::CpuTime,
        Self::Deadline,
        Self::HostCalls,
        Self::RequestBytes,
        Self::HeaderBytes,
        Self::ResponseBytes,
        Self::Concurrency,
        Self::SqlRows,
        Self::SqlBytes,
        Self::SqlTime,
        Self::SqlConnections,
        Self::SqlDisk,
        Self::SqlStatements,
        Self::CacheBytes,
        Self::HttpHosts,
        Self::HttpTime,
        Self::HttpBytes,
        Self::HttpRequests,
        Self::HttpConnect,
        Self::HttpHeaders,
        Self::HttpRedirects,
        Self::LogRate,
        Self::LogAudit,
    ];

    /// As an operator writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::CpuTime => "cpu_time",
            Self::Deadline => "deadline",
            Self::HostCalls => "host_calls",
            Self::RequestBytes => "request_bytes",
            Self::HeaderBytes => "header_bytes",
            Self::ResponseBytes => "response_bytes",
            Self::Concurrency => "concurrency",
            Self::SqlRows => "sql.rows",
            Self::SqlBytes => "sql.bytes",
            Self::SqlTime => "sql.time",
            Self::SqlConnections => "sql.connections",
            Self::SqlDisk => "sql.disk",
            Self::SqlStatements => "sql.statements",
            Self::CacheBytes => "cache.bytes",
            Self::HttpHosts => "http.hosts",
            Self::HttpTime => "http.time",
            Self::HttpBytes => "http.bytes",
            Self::HttpRequests => "http.requests",
            Self::HttpConnect => "http.connect",
            Self::HttpHeaders => "http.headers",
            Self::HttpRedirects => "http.redirects",
            Self::LogRate => "log.rate",
            Self::LogAudit => "log.audit",
        }
    }
}

/// Counts of one release.
#[derive(Debug, Default)]
pub struct Usage {
    /// Calls into each capability.
    pub host_calls: HostCalls,
    hits: [AtomicU64; Limit::ALL.len()],
    refused_statements: AtomicU64,
    memory_peak: AtomicU64,
}

impl Usage {
    /// A limit was met.
    pub fn hit(&self, limit: Limit) {
        if let Some(count) = self.hits.get(limit as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often each limit was met.
    pub fn hits(&self) -> impl Iterator<Item = (Limit, u64)> + '_ {
        Limit::ALL.into_iter().zip(&self.hits).map(|(limit, count)| (limit, count.load(Ordering::Relaxed)))
    }

    /// A statement was none that the plugin may, or can, say.
    pub fn refused_statement(&self) {
        self.refused_statements.fetch_add(1, Ordering::Relaxed);
    }

    /// How many statements were refused.
    pub fn refused_statements(&self) -> u64 {
        self.refused_statements.load(Ordering::Relaxed)
    }

    /// A call took so many bytes, of its own and of the host, at once.
    pub fn took_memory(&self, bytes: usize) {
        self.memory_peak.fetch_max(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The most bytes that one call took at once.
    pub fn memory_peak(&self) -> u64 {
        self.memory_peak.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_a_count_of_its_own() {
        let usage = Usage::default();
        for (index, limit) in Limit::ALL.into_iter().enumerate() {
            (0..=index).for_each(|_| usage.hit(limit));
        }
        for (index, (limit, count)) in usage.hits().enumerate() {
            assert_eq!(count, index as u64 + 1, "{}", limit.as_str());
        }
    }
}
