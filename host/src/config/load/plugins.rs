//! The section `[plugins]`: what bounds them, and who may deploy what.

use std::time::Duration;

use super::{DAY, GIB, HOUR, KIB, MIB, MINUTE, SECOND, YEAR, duration};
use crate::config::reader::Reader;
use crate::config::{Plugins, kind};

impl Plugins {
    /// A body is as large as any may be unless it is set for plugins.
    pub(super) fn read(r: &mut Reader<'_>, max_body_bytes: usize) -> Self {
        let d = Self::default();
        let time = duration(Duration::from_millis(10)..=10 * MINUTE);
        let size = kind::bytes(64 * KIB..=4 * GIB);
        let calls = kind::count(1..=10_000);
        let compile = duration(SECOND..=HOUR);
        Self {
            memory_bytes: r.read("plugins.memory_bytes", "WHARF_PLUGIN_MEMORY_BYTES", &size, d.memory_bytes),
            cpu_time: r.read("plugins.cpu_time", "WHARF_PLUGIN_CPU_TIME", &time, d.cpu_time),
            deadline: r.read("plugins.deadline", "WHARF_PLUGIN_DEADLINE", &time, d.deadline),
            concurrency: r.read("plugins.concurrency", "WHARF_PLUGIN_CONCURRENCY", &calls, d.concurrency),
            total_concurrency: r.read(
                "plugins.total_concurrency",
                "WHARF_PLUGIN_TOTAL_CONCURRENCY",
                // The pool reserves addresses for all of them, and a process has 47 bits.
                &kind::count(1..=2_048),
                d.total_concurrency,
            ),
            queue_time: r.read(
                "plugins.queue_time",
                "WHARF_PLUGIN_QUEUE_TIME",
                &duration(Duration::ZERO..=MINUTE),
                d.queue_time,
            ),
            request_bytes: r.read(
                "plugins.request_bytes",
                "WHARF_PLUGIN_REQUEST_BYTES",
                &kind::bytes(KIB..=GIB),
                max_body_bytes,
            ),
            header_bytes: r.read(
                "plugins.header_bytes",
                "WHARF_PLUGIN_HEADER_BYTES",
                &kind::bytes(KIB..=64 * KIB),
                d.header_bytes,
            ),
            response_bytes: r.read("plugins.response_bytes", "WHARF_PLUGIN_RESPONSE_BYTES", &size, d.response_bytes),
            upload_bytes: r.read("plugins.upload_bytes", "WHARF_PLUGIN_UPLOAD_BYTES", &size, d.upload_bytes),
            compile_memory_bytes: r.read(
                "plugins.compile_memory_bytes",
                "WHARF_PLUGIN_COMPILE_MEMORY_BYTES",
                &kind::bytes(256 * MIB..=64 * GIB),
                d.compile_memory_bytes,
            ),
            compile_cpu_time: r.read(
                "plugins.compile_cpu_time",
                "WHARF_PLUGIN_COMPILE_CPU_TIME",
                &compile,
                d.compile_cpu_time,
            ),
            compile_time: r.read("plugins.compile_time", "WHARF_PLUGIN_COMPILE_TIME", &compile, d.compile_time),
            host_calls: r.read(
                "plugins.host_calls",
                "WHARF_PLUGIN_HOST_CALLS",
                &kind::count(1..=1_000_000_000),
                d.host_calls,
            ),
            sql_rows: r.read("plugins.sql_rows", "WHARF_PLUGIN_SQL_ROWS", &kind::count(1..=10_000_000), d.sql_rows),
            sql_bytes: r.read("plugins.sql_bytes", "WHARF_PLUGIN_SQL_BYTES", &size, d.sql_bytes),
            sql_time: r.read("plugins.sql_time", "WHARF_PLUGIN_SQL_TIME", &time, d.sql_time),
            sql_connections: r.read(
                "plugins.sql_connections",
                "WHARF_PLUGIN_SQL_CONNECTIONS",
                &kind::count(1..=1000),
                d.sql_connections,
            ),
            sql_disk_bytes: r.read(
                "plugins.sql_disk_bytes",
                "WHARF_PLUGIN_SQL_DISK_BYTES",
                &kind::bytes(MIB..=1024 * 1024 * GIB),
                d.sql_disk_bytes,
            ),
            cache_bytes: r.read(
                "plugins.cache_bytes",
                "WHARF_PLUGIN_CACHE_BYTES",
                &kind::bytes(64 * KIB..=64 * GIB),
                d.cache_bytes,
            ),
            http_time: r.read("plugins.http_time", "WHARF_PLUGIN_HTTP_TIME", &time, d.http_time),
            http_bytes: r.read("plugins.http_bytes", "WHARF_PLUGIN_HTTP_BYTES", &size, d.http_bytes),
            http_requests: r.read(
                "plugins.http_requests",
                "WHARF_PLUGIN_HTTP_REQUESTS",
                &kind::count(1..=1_000),
                d.http_requests,
            ),
            log_rate: r.read("plugins.log_rate", "WHARF_PLUGIN_LOG_RATE", &kind::count(1..=1_000_000), d.log_rate),
            log_audit: r.read("plugins.log_audit", "WHARF_PLUGIN_LOG_AUDIT", &kind::count(1..=10_000), d.log_audit),
            drain_time: r.read("plugins.drain_time", "WHARF_PLUGIN_DRAIN_TIME", &time, d.drain_time),
            breaker_faults: r.read(
                "plugins.breaker_faults",
                "WHARF_PLUGIN_BREAKER_FAULTS",
                &kind::count(1..=20),
                d.breaker_faults,
            ),
            quarantine: r.read("plugins.quarantine", "WHARF_PLUGIN_QUARANTINE", &time, d.quarantine),
            probation: r.read(
                "plugins.probation",
                "WHARF_PLUGIN_PROBATION",
                &duration(Duration::ZERO..=DAY),
                d.probation,
            ),
            keep_releases: r.read(
                "plugins.keep_releases",
                "WHARF_PLUGIN_KEEP_RELEASES",
                &kind::count(1..=1_000),
                d.keep_releases,
            ),
            keep_releases_for: r.read(
                "plugins.keep_releases_for",
                "WHARF_PLUGIN_KEEP_RELEASES_FOR",
                &duration(Duration::ZERO..=3_650 * DAY),
                d.keep_releases_for,
            ),
            trusted_keys: r
                .find("plugins.trusted_keys", "WHARF_PLUGIN_TRUSTED_KEYS", &kind::trusted_keys())
                .unwrap_or(d.trusted_keys),
            require_signed: r.read(
                "plugins.require_signed",
                "WHARF_PLUGIN_REQUIRE_SIGNED",
                &kind::boolean(),
                d.require_signed,
            ),
            signature_max_age: r.find(
                "plugins.signature_max_age",
                "WHARF_PLUGIN_SIGNATURE_MAX_AGE",
                &duration(MINUTE..=10 * YEAR),
            ),
        }
    }
}
