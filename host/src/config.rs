//! What an operator can set. Owns the typed settings, their defaults and their limits; `config::load` fills them from
//! `wharf.toml`, `WHARF_*` and flags. Nothing else reads settings from the environment. Data passes one way: sources → [`Config`] → the
//! services, which get their own section only.

pub(crate) mod kind;
pub mod load;
mod reader;
pub mod secret;
pub mod source;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use load::{Loaded, Refused, load};
pub use reader::{Finding, Setting};
pub use secret::Secret;
pub use source::{Flag, Origin, Sources};

use crate::public_key::TrustedKey;

/// Every setting, checked.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[database]`
    pub database: Database,
    /// `[auth]`
    pub auth: Auth,
    /// `[email]`
    pub email: Email,
    /// `[plugins]`
    pub plugins: Plugins,
    /// `[log]`
    pub log: Log,
}

/// The process and its HTTP face.
#[derive(Debug, Clone)]
pub struct Server {
    /// Where to listen. `WHARF_LISTEN`
    pub listen: SocketAddr,
    /// Where SQLite files live; made with mode 0700. `WHARF_DATA_DIR`
    pub data_dir: PathBuf,
    /// Opens `/api/v1/private`, logs mail instead of sending it. `WHARF_DEVELOPMENT`
    pub development: bool,
    /// Title of the OpenAPI document, subject prefix and sender name of mails. `WHARF_PROJECT_NAME`
    pub project_name: String,
    /// The allowed CORS origin and base of links in mails, without a trailing slash. `WHARF_FRONTEND_URL`
    pub frontend_url: String,
    /// A directory to serve with SPA fallback. `WHARF_STATIC_DIR`
    pub static_dir: Option<PathBuf>,
    /// Largest request body in bytes; uploads of plugins have their own limit. `WHARF_MAX_BODY_BYTES`
    pub max_body_bytes: usize,
    /// Memory for bodies: half for what requests bring, parsed, and half for answers of plugins that wait to be read; beyond
    /// it, 503. `WHARF_BODY_MEMORY_BYTES`
    pub body_memory_bytes: usize,
    /// Serve the OpenAPI document and its viewer. `WHARF_DOCS`
    pub docs: bool,
    /// How long requests in flight may take to finish at shutdown. `WHARF_SHUTDOWN_GRACE`
    pub shutdown_grace: Duration,
    /// How long the start may take before it gives up with a reason. `WHARF_START_TIMEOUT`
    pub start_timeout: Duration,
    /// How long a client may take to send the headers of a request. `WHARF_HEADER_TIMEOUT`
    pub header_timeout: Duration,
    /// How long a client may take to send a body. `WHARF_BODY_TIMEOUT`
    pub body_timeout: Duration,
    /// Who may read `/metrics` beside superusers: whoever sends it as a bearer token. `WHARF_METRICS_TOKEN`
    pub metrics_token: Option<Secret>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            data_dir: PathBuf::from("wharf-data"),
            development: false,
            project_name: "Wharf".to_owned(),
            frontend_url: "http://localhost:5173".to_owned(),
            static_dir: None,
            max_body_bytes: 2 * 1024 * 1024,
            body_memory_bytes: 256 * 1024 * 1024,
            docs: true,
            shutdown_grace: Duration::from_secs(30),
            start_timeout: Duration::from_secs(60),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            metrics_token: None,
        }
    }
}

/// Where the host's and the plugins' data live.
#[derive(Debug, Clone)]
pub struct Database {
    /// `postgres://…`; none: SQLite in the data directory. `WHARF_DATABASE_URL`
    pub url: Option<Secret>,
    /// Connections of the host's own pool. `WHARF_DATABASE_CONNECTIONS`
    pub connections: u32,
    /// How long to wait for a connection. `WHARF_DATABASE_TIMEOUT`
    pub timeout: Duration,
}

impl Default for Database {
    fn default() -> Self {
        Self { url: None, connections: 8, timeout: Duration::from_secs(5) }
    }
}

impl Database {
    /// Which database it is, for people: never a user or a password.
    pub fn place(&self) -> String {
        let Some(url) = &self.url else { return "SQLite in the data directory".to_owned() };
        let Ok(url) = url::Url::parse(url.expose()) else { return "PostgreSQL".to_owned() };
        let host = url.host_str().filter(|host| !host.is_empty()).unwrap_or("a local socket");
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("PostgreSQL at {host}{port}, database {}", url.path().trim_start_matches('/'))
    }
}

/// Identity.
#[derive(Debug, Clone)]
pub struct Auth {
    /// Lifetime of access tokens; every one is tied to a session that can be revoked. `WHARF_ACCESS_TOKEN_TTL`
    pub access_token_ttl: Duration,
    /// Lifetime of a session without a refresh. `WHARF_REFRESH_TOKEN_TTL`
    pub refresh_token_ttl: Duration,
    /// Lifetime of links to set a password. `WHARF_RESET_TOKEN_TTL`
    pub reset_token_ttl: Duration,
    /// First superuser, made at the first start. `WHARF_SUPERUSER_EMAIL`
    pub superuser_email: Option<String>,
    /// His password; none: one is generated and printed once. `WHARF_SUPERUSER_PASSWORD`
    pub superuser_password: Option<Secret>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            access_token_ttl: Duration::from_secs(8 * 24 * 3600),
            refresh_token_ttl: Duration::from_secs(30 * 24 * 3600),
            reset_token_ttl: Duration::from_secs(48 * 3600),
            superuser_email: None,
            superuser_password: None,
        }
    }
}

/// Outgoing mail; off unless both are set.
#[derive(Debug, Clone, Default)]
pub struct Email {
    /// `smtp://user:password@host:587` (STARTTLS), `smtps://…:465` (TLS), `smtp://…?tls=none`. `WHARF_SMTP_URL`
    pub smtp_url: Option<Secret>,
    /// Sender address. `WHARF_EMAIL_FROM`
    pub from: Option<String>,
}

/// Limits of every plugin, unless its grant says otherwise.
#[derive(Debug, Clone)]
pub struct Plugins {
    /// All memories and tables of one call together. `WHARF_PLUGIN_MEMORY_BYTES`
    pub memory_bytes: usize,
    /// CPU time of one call. `WHARF_PLUGIN_CPU_TIME`
    pub cpu_time: Duration,
    /// Wall time of one call, host calls included. `WHARF_PLUGIN_DEADLINE`
    pub deadline: Duration,
    /// Concurrent calls of one plugin. `WHARF_PLUGIN_CONCURRENCY`
    pub concurrency: usize,
    /// Concurrent calls of all plugins; sizes the instance pool. `WHARF_PLUGIN_TOTAL_CONCURRENCY`
    pub total_concurrency: usize,
    /// How long a call may wait for its turn before the answer is 503. `WHARF_PLUGIN_QUEUE_TIME`
    pub queue_time: Duration,
    /// Body of a request; as `server.max_body_bytes` unless it is set. `WHARF_PLUGIN_REQUEST_BYTES`
    pub request_bytes: usize,
    /// Headers that a request brings, credentials aside, and those of an answer. `WHARF_PLUGIN_HEADER_BYTES`
    pub header_bytes: usize,
    /// Largest answer body in bytes. `WHARF_PLUGIN_RESPONSE_BYTES`
    pub response_bytes: usize,
    /// Largest component file in bytes. `WHARF_PLUGIN_UPLOAD_BYTES`
    pub upload_bytes: usize,
    /// Memory of the process that compiles a component. `WHARF_PLUGIN_COMPILE_MEMORY_BYTES`
    pub compile_memory_bytes: u64,
    /// CPU time of compiling a component, of all its threads together. `WHARF_PLUGIN_COMPILE_CPU_TIME`
    pub compile_cpu_time: Duration,
    /// Wall time of compiling a component. `WHARF_PLUGIN_COMPILE_TIME`
    pub compile_time: Duration,
    /// Calls from one plugin call into the host. `WHARF_PLUGIN_HOST_CALLS`
    pub host_calls: u64,
    /// Rows of one SQL answer. `WHARF_PLUGIN_SQL_ROWS`
    pub sql_rows: usize,
    /// Bytes of one SQL answer. `WHARF_PLUGIN_SQL_BYTES`
    pub sql_bytes: usize,
    /// Time of one SQL statement. `WHARF_PLUGIN_SQL_TIME`
    pub sql_time: Duration,
    /// Database connections of one plugin. `WHARF_PLUGIN_SQL_CONNECTIONS`
    pub sql_connections: u32,
    /// Disk that a plugin's database may take. `WHARF_PLUGIN_SQL_DISK_BYTES`
    pub sql_disk_bytes: u64,
    /// Cache of one plugin in bytes. `WHARF_PLUGIN_CACHE_BYTES`
    pub cache_bytes: u64,
    /// Time of one request to another server, redirects included. `WHARF_PLUGIN_HTTP_TIME`
    pub http_time: Duration,
    /// Body of an answer of another server, and of a request to it. `WHARF_PLUGIN_HTTP_BYTES`
    pub http_bytes: usize,
    /// Requests of one plugin to other servers at once. `WHARF_PLUGIN_HTTP_REQUESTS`
    pub http_requests: usize,
    /// Log lines of one plugin a second; more are counted and summarised. `WHARF_PLUGIN_LOG_RATE`
    pub log_rate: u32,
    /// Audit entries of one plugin a second; who writes more waits. `WHARF_PLUGIN_LOG_AUDIT`
    pub log_audit: u32,
    /// How long the calls in flight may go on on a release that was replaced. `WHARF_PLUGIN_DRAIN_TIME`
    pub drain_time: Duration,
    /// Faults among the latest 20 calls that quarantine a release. `WHARF_PLUGIN_BREAKER_FAULTS`
    pub breaker_faults: u32,
    /// How long a quarantine lasts at first. `WHARF_PLUGIN_QUARANTINE`
    pub quarantine: Duration,
    /// How long after a deploy a quarantine brings back the release before it. `WHARF_PLUGIN_PROBATION`
    pub probation: Duration,
    /// Releases of a plugin that are kept whatever their age. `WHARF_PLUGIN_KEEP_RELEASES`
    pub keep_releases: usize,
    /// How long releases beyond those are kept. `WHARF_PLUGIN_KEEP_RELEASES_FOR`
    pub keep_releases_for: Duration,
    /// Whose signatures count, `wharf-ed25519:…` or `name=wharf-ed25519:…`. `WHARF_PLUGIN_TRUSTED_KEYS`
    pub trusted_keys: Vec<TrustedKey>,
    /// Deploy only what a trusted key signed. `WHARF_PLUGIN_REQUIRE_SIGNED`
    pub require_signed: bool,
    /// How old a signature may be at a deploy; none: of any age. `WHARF_PLUGIN_SIGNATURE_MAX_AGE`
    pub signature_max_age: Option<Duration>,
}

impl Default for Plugins {
    fn default() -> Self {
        Self {
            memory_bytes: 64 * 1024 * 1024,
            cpu_time: Duration::from_secs(1),
            deadline: Duration::from_secs(10),
            concurrency: 64,
            total_concurrency: 256,
            queue_time: Duration::from_secs(1),
            request_bytes: 2 * 1024 * 1024,
            header_bytes: 16 * 1024,
            response_bytes: 8 * 1024 * 1024,
            upload_bytes: 64 * 1024 * 1024,
            compile_memory_bytes: 2 * 1024 * 1024 * 1024,
            compile_cpu_time: Duration::from_secs(60),
            compile_time: Duration::from_secs(60),
            host_calls: 10_000,
            sql_rows: 10_000,
            sql_bytes: 8 * 1024 * 1024,
            sql_time: Duration::from_secs(5),
            sql_connections: 4,
            sql_disk_bytes: 10 * 1024 * 1024 * 1024,
            cache_bytes: 16 * 1024 * 1024,
            http_time: Duration::from_secs(30),
            http_bytes: 8 * 1024 * 1024,
            http_requests: 16,
            log_rate: 200,
            log_audit: 20,
            drain_time: Duration::from_secs(30),
            breaker_faults: 10,
            quarantine: Duration::from_secs(5),
            probation: Duration::from_secs(5 * 60),
            keep_releases: 10,
            keep_releases_for: Duration::from_secs(30 * 24 * 3600),
            trusted_keys: Vec::new(),
            require_signed: false,
            signature_max_age: None,
        }
    }
}

/// Logging.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// `auto` (text on a terminal, JSON otherwise), `text` or `json`. `WHARF_LOG_FORMAT`
    pub format: LogFormat,
    /// A `tracing` filter such as `info,wharf::plugin=debug`. `WHARF_LOG`
    pub filter: Option<String>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_named_without_its_password() {
        let url = Secret::new("postgres://user:hunter2@db.example.com:5433/app?sslmode=require");
        let database = Database { url: Some(url), ..Database::default() };
        assert_eq!(database.place(), "PostgreSQL at db.example.com:5433, database app");
    }
}
