//! The section `[plugins]`: the limits of every plugin, and the rules for deploys. Owns the declaration of every limit:
//! its setting, its range, its default, and the name under which its hits are counted. A grant or `--limit` that
//! changes a limit for one plugin takes its range from here (`capability::parameter`).

use std::time::Duration;

use super::kind::{self, DAY, GIB, HOUR, KIB, MIB, MINUTE, SECOND, YEAR};
use super::section::settings;
use crate::public_key::TrustedKey;

/// The most memory that a call may get. A 32-bit memory ends here, and each slot of the instance pool reserves the
/// addresses for it.
pub const MAX_MEMORY: usize = 4 << 30;

const TEN_MILLISECONDS: Duration = Duration::from_millis(10);

/// Declares the section and, from its entries with `counted as`, [`Limit`].
macro_rules! plugins {
    (
        $(#[$about:meta])*
        settings {
            $(
                $(#[$meaning:meta])* $field:ident: $type:ty = $default:expr, $env:literal, $kind:expr
                    $(, counted as $limit:ident $name:literal)?;
            )*
        }
        fixed {
            $($(#[$fixed_meaning:meta])* $fixed:ident $fixed_name:literal;)*
        }
    ) => {
        settings! {
            $(#[$about])*
            Plugins in plugins { $($(#[$meaning])* $field: $type = $default, $env, $kind;)* }
        }

        /// A limit for which the host refuses, cuts or ends something, and counts that.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Limit {
            $($(#[doc = concat!("`", $name, "`, set by `plugins.", stringify!($field), "`.")] $limit,)?)*
            $($(#[$fixed_meaning])* $fixed,)*
        }

        impl Limit {
            /// Every limit.
            pub const ALL: &[Self] = &[$($(Self::$limit,)?)* $(Self::$fixed,)*];

            /// Returns the name that operators and metrics use, such as `memory` or `sql.rows`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($(Self::$limit => $name,)?)*
                    $(Self::$fixed => $fixed_name,)*
                }
            }

            /// Returns the setting in `[plugins]`, or `None` for a limit that nobody can set there.
            pub fn setting(self) -> Option<&'static str> {
                match self {
                    $($(Self::$limit => Some(stringify!($field)),)?)*
                    $(Self::$fixed => None,)*
                }
            }
        }
    };
}

plugins! {
    /// The limits of every plugin, unless its grant or its own limits say otherwise, and the rules for deploys.
    settings {
        /// All memories and tables of one call, and the host's memory for it, together.
        memory_bytes: usize = 64 * 1024 * 1024, "WHARF_PLUGIN_MEMORY_BYTES", kind::bytes(64 * KIB..=MAX_MEMORY as u64),
            counted as Memory "memory";
        /// CPU time of one call.
        cpu_time: Duration = SECOND, "WHARF_PLUGIN_CPU_TIME", kind::duration(TEN_MILLISECONDS..=10 * MINUTE),
            counted as CpuTime "cpu_time";
        /// Wall time of one call, host calls included.
        deadline: Duration = 10 * SECOND, "WHARF_PLUGIN_DEADLINE", kind::duration(TEN_MILLISECONDS..=10 * MINUTE),
            counted as Deadline "deadline";
        /// Concurrent calls of one plugin.
        concurrency: usize = 64, "WHARF_PLUGIN_CONCURRENCY", kind::count(1..=10_000),
            counted as Concurrency "concurrency";
        /// Concurrent calls of all plugins; sizes the instance pool, which reserves addresses for every call. A process
        /// has 47 bits of them.
        total_concurrency: usize = 256, "WHARF_PLUGIN_TOTAL_CONCURRENCY", kind::count(1..=2_048);
        /// Concurrent deliveries of events and jobs of all plugins; adds to the instance pool. A quarter of them is for
        /// deliveries only.
        background_concurrency: usize = 8, "WHARF_PLUGIN_BACKGROUND_CONCURRENCY", kind::count(1..=256);
        /// CPU time of one delivery or job, but no more than its deadline. A longer `cpu_time` of the plugin counts instead.
        task_cpu_time: Duration = 10 * SECOND, "WHARF_PLUGIN_TASK_CPU_TIME",
            kind::duration(TEN_MILLISECONDS..=HOUR);
        /// Concurrent deliveries of events and jobs of one plugin.
        background_per_plugin: usize = 3, "WHARF_PLUGIN_BACKGROUND_PER_PLUGIN", kind::count(1..=256);
        /// How long events are kept. One that a task needs stays longer. Within this time, a client can resume a stream.
        keep_events: Duration = HOUR, "WHARF_PLUGIN_KEEP_EVENTS", kind::duration(MINUTE..=YEAR);
        /// Dead letters of one plugin that are kept, and ended jobs of one plugin. Beyond it, the oldest are deleted.
        keep_ended: usize = 100_000, "WHARF_PLUGIN_KEEP_ENDED", kind::count(100..=10_000_000);
        /// How long a call may wait for its turn and a call slot before the response is 503.
        queue_time: Duration = SECOND, "WHARF_PLUGIN_QUEUE_TIME", kind::duration(Duration::ZERO..=MINUTE);
        /// Memory of the calls that wait, for all plugins together: 2 KiB for each call that waits for its turn, 16 KiB for
        /// each that waits for a call slot, and its request with all headers. The calls of one plugin may take as much as
        /// they leave free.
        queue_bytes: usize = 64 * 1024 * 1024, "WHARF_PLUGIN_QUEUE_BYTES", kind::bytes(MIB..=64 * GIB);
        /// Body of a request. Defaults to `server.max_body_bytes`.
        request_bytes: usize = 2 * 1024 * 1024, "WHARF_PLUGIN_REQUEST_BYTES", kind::bytes(KIB..=GIB),
            counted as RequestBytes "request_bytes";
        /// Headers of a request, credentials aside, and headers of a response.
        header_bytes: usize = 16 * 1024, "WHARF_PLUGIN_HEADER_BYTES", kind::bytes(KIB..=64 * KIB),
            counted as HeaderBytes "header_bytes";
        /// Body of a response.
        response_bytes: usize = 8 * 1024 * 1024, "WHARF_PLUGIN_RESPONSE_BYTES", kind::bytes(64 * KIB..=4 * GIB),
            counted as ResponseBytes "response_bytes";
        /// Largest component file in bytes.
        upload_bytes: usize = 64 * 1024 * 1024, "WHARF_PLUGIN_UPLOAD_BYTES", kind::bytes(64 * KIB..=4 * GIB);
        /// Memory of the process that compiles a component.
        compile_memory_bytes: u64 = 2 * 1024 * 1024 * 1024, "WHARF_PLUGIN_COMPILE_MEMORY_BYTES",
            kind::bytes(256 * MIB..=64 * GIB);
        /// CPU time of compiling a component, summed over its threads.
        compile_cpu_time: Duration = MINUTE, "WHARF_PLUGIN_COMPILE_CPU_TIME", kind::duration(SECOND..=HOUR);
        /// Wall time of compiling a component.
        compile_time: Duration = MINUTE, "WHARF_PLUGIN_COMPILE_TIME", kind::duration(SECOND..=HOUR);
        /// Wall time of all smoke calls of one deploy together.
        smoke_time: Duration = 30 * SECOND, "WHARF_PLUGIN_SMOKE_TIME", kind::duration(TEN_MILLISECONDS..=10 * MINUTE);
        /// Calls from one plugin call into the host.
        host_calls: u64 = 10_000, "WHARF_PLUGIN_HOST_CALLS", kind::count(1..=1_000_000_000),
            counted as HostCalls "host_calls";
        /// Rows of one SQL result.
        sql_rows: usize = 10_000, "WHARF_PLUGIN_SQL_ROWS", kind::count(1..=10_000_000), counted as SqlRows "sql.rows";
        /// Bytes of one SQL result, and of one statement with its parameters.
        sql_bytes: usize = 8 * 1024 * 1024, "WHARF_PLUGIN_SQL_BYTES", kind::bytes(64 * KIB..=4 * GIB),
            counted as SqlBytes "sql.bytes";
        /// Time of one SQL statement.
        sql_time: Duration = 5 * SECOND, "WHARF_PLUGIN_SQL_TIME", kind::duration(TEN_MILLISECONDS..=10 * MINUTE),
            counted as SqlTime "sql.time";
        /// Database connections of one plugin.
        sql_connections: u32 = 4, "WHARF_PLUGIN_SQL_CONNECTIONS", kind::count(1..=1_000),
            counted as SqlConnections "sql.connections";
        /// Disk space of a plugin's database.
        sql_disk_bytes: u64 = 10 * 1024 * 1024 * 1024, "WHARF_PLUGIN_SQL_DISK_BYTES",
            kind::bytes(MIB..=1024 * 1024 * GIB), counted as SqlDisk "sql.disk";
        /// Cache of one plugin, its cached responses included. A refused value, key or tag counts as a hit too.
        cache_bytes: u64 = 16 * 1024 * 1024, "WHARF_PLUGIN_CACHE_BYTES", kind::bytes(64 * KIB..=64 * GIB),
            counted as CacheBytes "cache.bytes";
        /// Time of one request to another server, redirects included.
        http_time: Duration = 30 * SECOND, "WHARF_PLUGIN_HTTP_TIME", kind::duration(TEN_MILLISECONDS..=10 * MINUTE),
            counted as HttpTime "http.time";
        /// Body of a request to another server, and body of its response.
        http_bytes: usize = 8 * 1024 * 1024, "WHARF_PLUGIN_HTTP_BYTES", kind::bytes(KIB..=4 * GIB),
            counted as HttpBytes "http.bytes";
        /// Concurrent requests of one plugin to other servers.
        http_requests: usize = 16, "WHARF_PLUGIN_HTTP_REQUESTS", kind::count(1..=1_000),
            counted as HttpRequests "http.requests";
        /// Events that one plugin publishes per second. Further ones are refused, so a plugin that publishes one with each
        /// write makes fewer writes than this.
        events_rate: u32 = 2_000, "WHARF_PLUGIN_EVENTS_RATE", kind::count(1..=1_000_000),
            counted as EventsRate "events.rate";
        /// Payload of an event.
        events_payload: usize = 256 * 1024, "WHARF_PLUGIN_EVENTS_PAYLOAD", kind::bytes(KIB..=4 * MIB),
            counted as EventsPayload "events.payload";
        /// Payloads of the events that one plugin publishes in an hour. Further events are refused.
        events_volume: u64 = 10 * GIB, "WHARF_PLUGIN_EVENTS_VOLUME", kind::bytes(MIB..=1024 * GIB),
            counted as EventsVolume "events.volume";
        /// Jobs that one plugin enqueues or cancels per second. Further ones are refused.
        jobs_rate: u32 = 200, "WHARF_PLUGIN_JOBS_RATE", kind::count(1..=1_000_000), counted as JobsRate "jobs.rate";
        /// Payload of a job.
        jobs_payload: usize = 256 * 1024, "WHARF_PLUGIN_JOBS_PAYLOAD", kind::bytes(KIB..=4 * MIB),
            counted as JobsPayload "jobs.payload";
        /// Payloads of the jobs that one plugin enqueues in an hour. Further jobs are refused.
        jobs_volume: u64 = GIB, "WHARF_PLUGIN_JOBS_VOLUME", kind::bytes(MIB..=1024 * GIB),
            counted as JobsVolume "jobs.volume";
        /// Jobs of one plugin that wait, those included that are due later. Further ones are refused.
        jobs_waiting: u64 = 200_000, "WHARF_PLUGIN_JOBS_WAITING", kind::count(1..=100_000_000),
            counted as JobsWaiting "jobs.waiting";
        /// Longest deadline of one attempt of a job. A declared deadline beyond it is cut to it.
        jobs_time: Duration = 10 * MINUTE, "WHARF_PLUGIN_JOBS_TIME", kind::duration(SECOND..=DAY);
        /// Jobs of one plugin that run at once.
        jobs_concurrency: u32 = 2, "WHARF_PLUGIN_JOBS_CONCURRENCY", kind::count(1..=1_000);
        /// Mails that one plugin sends per minute. Further ones are refused.
        email_rate: u32 = 60, "WHARF_PLUGIN_EMAIL_RATE", kind::count(1..=100_000), counted as EmailRate "email.rate";
        /// One mail of a plugin, with its attachments.
        email_bytes: usize = 1024 * 1024, "WHARF_PLUGIN_EMAIL_BYTES", kind::bytes(KIB..=25 * MIB),
            counted as EmailBytes "email.bytes";
        /// Mails of one plugin that wait to be sent, as they are stored: attachments grow by a third, and each mail counts at
        /// least 1 KiB. Further ones are refused.
        email_queue: u64 = 64 * 1024 * 1024, "WHARF_PLUGIN_EMAIL_QUEUE", kind::bytes(64 * KIB..=64 * GIB),
            counted as EmailQueue "email.queue";
        /// Log lines of one plugin per second. Further lines are counted and summarised.
        log_rate: u32 = 200, "WHARF_PLUGIN_LOG_RATE", kind::count(1..=1_000_000), counted as LogRate "log.rate";
        /// Audit entries of one plugin per second. Further entries wait.
        log_audit: u32 = 20, "WHARF_PLUGIN_LOG_AUDIT", kind::count(1..=10_000), counted as LogAudit "log.audit";
        /// Audit entries of one plugin that are kept. Beyond them, the oldest are deleted after a signed checkpoint.
        audit_entries: u64 = 100_000, "WHARF_PLUGIN_AUDIT_ENTRIES", kind::count(100..=1_000_000_000);
        /// How long in-flight calls may continue on a release that was replaced.
        drain_time: Duration = 30 * SECOND, "WHARF_PLUGIN_DRAIN_TIME", kind::duration(TEN_MILLISECONDS..=10 * MINUTE);
        /// Faults among the last 20 calls that quarantine a release.
        breaker_faults: u32 = 10, "WHARF_PLUGIN_BREAKER_FAULTS", kind::count(1..=20);
        /// Duration of the first quarantine.
        quarantine: Duration = 5 * SECOND, "WHARF_PLUGIN_QUARANTINE", kind::duration(TEN_MILLISECONDS..=10 * MINUTE);
        /// How long after a deploy a quarantine rolls back to the previous release.
        probation: Duration = 5 * MINUTE, "WHARF_PLUGIN_PROBATION", kind::duration(Duration::ZERO..=DAY);
        /// Releases of a plugin that are kept regardless of their age.
        keep_releases: usize = 10, "WHARF_PLUGIN_KEEP_RELEASES", kind::count(1..=1_000);
        /// How long further releases are kept.
        keep_releases_for: Duration = 30 * DAY, "WHARF_PLUGIN_KEEP_RELEASES_FOR",
            kind::duration(Duration::ZERO..=3_650 * DAY);
        /// Size of the component files of all kept releases of a plugin. Beyond it the oldest are deleted whatever their
        /// age; the live one, the canary and the one before the live one always stay.
        keep_releases_bytes: u64 = GIB, "WHARF_PLUGIN_KEEP_RELEASES_BYTES", kind::bytes(MIB..=1024 * GIB);
        /// Machine code on disk of components that no plugin serves. That of served ones is kept in addition.
        code_cache_bytes: u64 = 256 * MIB, "WHARF_PLUGIN_CODE_CACHE_BYTES", kind::bytes(MIB..=1024 * GIB);
        /// Keys whose signatures are trusted, `wharf-ed25519:…` or `name=wharf-ed25519:…`.
        trusted_keys: Vec<TrustedKey> = Vec::new(), "WHARF_PLUGIN_TRUSTED_KEYS", kind::trusted_keys();
        /// Deploy only components that a trusted key signed.
        require_signed: bool = false, "WHARF_PLUGIN_REQUIRE_SIGNED", kind::boolean();
        /// Maximum age of a signature at a deploy; `None` means any age.
        signature_max_age: Option<Duration> = None, "WHARF_PLUGIN_SIGNATURE_MAX_AGE",
            kind::duration(MINUTE..=10 * YEAR).optional();
    }
    fixed {
        /// Statements of a batch, and the text of one statement.
        SqlStatements "sql.statements";
        /// Servers, and their addresses, that a grant allows.
        HttpHosts "http.hosts";
        /// Time to resolve a server's name and connect to it.
        HttpConnect "http.connect";
        /// Headers of a request to another server, or of its response.
        HttpHeaders "http.headers";
        /// Redirects of one request.
        HttpRedirects "http.redirects";
        /// Events and jobs that cause each other.
        MessageDepth "messages.depth";
    }
}
