//! The settings of an operator. Owns the typed settings, their defaults and their ranges. `config::load` fills them
//! from `wharf.toml`, `WHARF_*` variables and flags; nothing else reads settings from the environment. Data passes one
//! way: sources → [`Config`] → the services, which get only their own section.
//!
//! A setting is one entry of its section (the macro is in `section`). A limit of plugins is one entry in [`plugins`].

mod checked_text;
pub mod finding;
pub mod frontend_urls;
mod issuer_kind;
pub mod issuers;
pub(crate) mod kind;
pub mod load;
pub mod log_format;
pub mod plugins;
pub(crate) mod postgres_url;
pub mod proxy_headers;
mod reader;
pub mod secret;
mod section;
pub mod sign_up;
pub mod source;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use finding::{Finding, Origin};
pub use frontend_urls::{FrontendOrigin, FrontendUrls};
pub use issuers::Issuer;
pub use load::{InvalidConfig, Loaded, load};
pub use log_format::LogFormat;
pub use plugins::{Limit, Plugins};
pub use proxy_headers::ProxyHeaders;
pub use reader::Setting;
pub use secret::Secret;
pub use sign_up::SignUp;
pub use source::{Flag, Sources};

use self::kind::{DAY, GIB, HOUR, KIB, MIB, MINUTE, MONTH, SECOND, YEAR};
use self::section::settings;
use crate::network::Network;

/// Every setting, checked.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[database]`
    pub database: Database,
    /// `[auth]`
    pub auth: Auth,
    /// `[auth.issuers.NAME]`
    pub issuers: Vec<Issuer>,
    /// `[email]`
    pub email: Email,
    /// `[audit]`
    pub audit: Audit,
    /// `[plugins]`
    pub plugins: Plugins,
    /// `[log]`
    pub log: Log,
}

settings! {
    /// The process and its HTTP side.
    Server in server {
        /// Address and port to listen on.
        listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)), "WHARF_LISTEN", kind::socket_address();
        /// Directory of the SQLite files; created with mode 0700.
        data_dir: PathBuf = PathBuf::from("wharf-data"), "WHARF_DATA_DIR", kind::directory();
        /// Opens `/api/v1/private`, and shows mails at `/dev/mail` if no mail server is configured.
        development: bool = false, "WHARF_DEVELOPMENT", kind::boolean();
        /// Title of the OpenAPI document, subject prefix and sender name of mails.
        project_name: String = "Wharf".to_owned(), "WHARF_PROJECT_NAME", kind::line(100);
        /// The allowed CORS origins; the first URL is the base of links in mails.
        frontend_url: FrontendUrls = FrontendUrls::default(), "WHARF_FRONTEND_URL", kind::frontend_urls();
        /// The origin of this host as browsers reach it; `None` means that of the first frontend URL. The redirect URIs of
        /// OpenID Connect are below it.
        public_url: Option<String> = None, "WHARF_PUBLIC_URL", kind::origin().optional();
        /// Addresses and networks of the proxies in front of the host. Their headers name the client.
        trusted_proxies: Vec<Network> = Vec::new(), "WHARF_TRUSTED_PROXIES", kind::trusted_proxies();
        /// The headers in which the trusted proxies name the client: `x-forwarded` or `forwarded`.
        proxy_headers: ProxyHeaders = ProxyHeaders::XForwarded, "WHARF_PROXY_HEADERS", kind::proxy_headers();
        /// Tell browsers that come over https to use nothing else for a year (HSTS).
        hsts: bool = true, "WHARF_HSTS", kind::boolean();
        /// A directory to serve, with its `index.html` for unknown paths (SPA fallback).
        static_dir: Option<PathBuf> = None, "WHARF_STATIC_DIR", kind::directory().optional();
        /// Concurrent client connections; further connections wait. At most half of the files that the process may have
        /// open.
        connections: usize = 4096, "WHARF_CONNECTIONS", kind::count(1..=1_000_000);
        /// Open streams of events of all clients; at most half of the connections. Beyond it, the response is 503.
        event_streams: usize = 1_000, "WHARF_EVENT_STREAMS", kind::count(1..=100_000);
        /// Open streams of events of one caller, or of one network of clients without credentials. Beyond it, the response
        /// is 429.
        event_streams_per_caller: usize = 20, "WHARF_EVENT_STREAMS_PER_CALLER", kind::count(1..=100_000);
        /// Largest request body in bytes; plugin uploads have their own limit.
        max_body_bytes: usize = 2 * 1024 * 1024, "WHARF_MAX_BODY_BYTES", kind::bytes(KIB..=GIB);
        /// Memory for bodies: half for parsed request bodies, half for responses that clients have not read. Beyond it,
        /// the response is 503.
        body_memory_bytes: usize = 256 * 1024 * 1024, "WHARF_BODY_MEMORY_BYTES", kind::bytes(MIB..=64 * GIB);
        /// Compress JSON responses of at least 1 KiB with gzip, if the request has no credentials.
        compression: bool = true, "WHARF_COMPRESSION", kind::boolean();
        /// Serve the OpenAPI document and its viewer.
        docs: bool = true, "WHARF_DOCS", kind::boolean();
        /// How long in-flight requests may take to finish at shutdown.
        shutdown_grace: Duration = 30 * SECOND, "WHARF_SHUTDOWN_GRACE", kind::duration(SECOND..=HOUR);
        /// How long the start may take before it fails with a reason.
        start_timeout: Duration = MINUTE, "WHARF_START_TIMEOUT", kind::duration(SECOND..=HOUR);
        /// How long a client may take to send the headers of a request.
        header_timeout: Duration = 10 * SECOND, "WHARF_HEADER_TIMEOUT", kind::duration(SECOND..=HOUR);
        /// How long a client may stall while it sends a body or reads a response. Later, it must also keep a minimum pace.
        body_timeout: Duration = 30 * SECOND, "WHARF_BODY_TIMEOUT", kind::duration(SECOND..=HOUR);
        /// A bearer token that may read `/metrics`. Superusers may read it too.
        metrics_token: Option<Secret> = None, "WHARF_METRICS_TOKEN", kind::token().optional();
    }
}

impl Server {
    /// Returns the origin of this host as browsers reach it.
    pub fn public_origin(&self) -> &str {
        let first = self.frontend_url.origins().first().and_then(|origin| match origin {
            FrontendOrigin::One(origin) => Some(origin.as_str()),
            FrontendOrigin::Subdomains { .. } => None,
        });
        self.public_url.as_deref().or(first).unwrap_or_default()
    }
}

settings! {
    /// The database of the host and of the plugins.
    Database in database {
        /// `postgres://…`; `None` means SQLite in the data directory.
        url: Option<Secret> = None, "WHARF_DATABASE_URL",
            kind::postgres_url().optional();
        /// Connections of the host's own pool.
        connections: u32 = 8, "WHARF_DATABASE_CONNECTIONS", kind::count(1..=1000);
        /// How long to wait for a connection.
        timeout: Duration = 5 * SECOND, "WHARF_DATABASE_TIMEOUT", kind::duration(SECOND..=10 * MINUTE);
        /// How long a statement of the host may take on PostgreSQL.
        statement_timeout: Duration = 30 * SECOND, "WHARF_DATABASE_STATEMENT_TIMEOUT",
            kind::duration(SECOND..=HOUR);
    }
}

impl Database {
    /// Describes the database for people, without user and password.
    pub fn description(&self) -> String {
        let Some(url) = &self.url else { return "SQLite in the data directory".to_owned() };
        let Ok(url) = postgres_url::parse(url.expose()) else { return "PostgreSQL".to_owned() };
        let host = postgres_url::host(&url).unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("PostgreSQL at {host}{port}, database {}", url.path().trim_start_matches('/'))
    }
}

settings! {
    /// Identity.
    Auth in auth {
        /// Lifetime of access tokens. Each belongs to a session that can be revoked.
        access_token_ttl: Duration = 8 * DAY, "WHARF_ACCESS_TOKEN_TTL", kind::duration(SECOND..=YEAR);
        /// Lifetime of a session without a refresh.
        refresh_token_ttl: Duration = 30 * DAY, "WHARF_REFRESH_TOKEN_TTL", kind::duration(SECOND..=10 * YEAR);
        /// Absolute lifetime of a session, however often it is refreshed.
        session_ttl: Duration = 3 * MONTH, "WHARF_SESSION_TTL", kind::duration(SECOND..=10 * YEAR);
        /// Lifetime of links to set a password.
        reset_token_ttl: Duration = 2 * DAY, "WHARF_RESET_TOKEN_TTL", kind::duration(SECOND..=30 * DAY);
        /// Lifetime of links that verify an address or confirm a new one.
        verification_ttl: Duration = 2 * DAY, "WHARF_VERIFICATION_TTL", kind::duration(SECOND..=30 * DAY);
        /// Lifetime of the link of an invitation.
        invitation_ttl: Duration = 7 * DAY, "WHARF_INVITATION_TTL", kind::duration(SECOND..=90 * DAY);
        /// The people who get an account without an operator who creates it: `open`, `invite` or `off`.
        signup: SignUp = SignUp::Open, "WHARF_SIGNUP", kind::sign_up();
        /// Require that the owner of an account proves that they read the mail of its address: before the first sign-in
        /// after a sign-up, and before a new address replaces the old one.
        verify_email: bool = false, "WHARF_VERIFY_EMAIL", kind::boolean();
        /// How long a sign-in or step-up counts as a recent proof that it is the user.
        step_up_ttl: Duration = 10 * MINUTE, "WHARF_STEP_UP_TTL", kind::duration(SECOND..=DAY);
        /// Refuses attempts to guess a password, a code or a key, and floods of sign-ups and recoveries. Always off in
        /// development.
        throttle: bool = true, "WHARF_THROTTLE", kind::boolean();
        /// Failed sign-ins of one account in a row; then one a minute. A network where its owner signed in has the same
        /// number for itself.
        account_attempts: u32 = 10, "WHARF_ACCOUNT_ATTEMPTS", kind::count(1..=10_000);
        /// Failed sign-ins from one address (of IPv6, from one /56 network) in a row; then one in three seconds.
        network_attempts: u32 = 100, "WHARF_NETWORK_ATTEMPTS", kind::count(1..=100_000);
        /// Memory of one hash of a password (Argon2id). Hashes of another cost are replaced at the next sign-in.
        hash_memory_bytes: usize = 19 * 1024 * 1024, "WHARF_HASH_MEMORY_BYTES", kind::bytes(7 * MIB..=256 * MIB);
        /// Passes of one hash of a password over its memory.
        hash_passes: u32 = 2, "WHARF_HASH_PASSES", kind::count(1..=16);
        /// Email address of the first superuser, created at the first start.
        superuser_email: Option<String> = None, "WHARF_SUPERUSER_EMAIL", kind::email_address().optional();
        /// Password of the first superuser; `None` means that one is generated and printed once.
        superuser_password: Option<Secret> = None, "WHARF_SUPERUSER_PASSWORD", kind::password().optional();
    }
}

impl Auth {
    /// Returns the least memory of a hash with the configured passes. The pairs are those of OWASP's Password Storage Cheat
    /// Sheet for Argon2id with one lane, which it calls equivalent.
    fn least_hash_memory(&self) -> usize {
        let mib: usize = match self.hash_passes {
            0 | 1 => 46,
            2 => 19,
            3 => 12,
            4 => 9,
            _ => 7,
        };
        mib * 1024 * 1024
    }
}

settings! {
    /// Outgoing mail; off unless both are set.
    Email in email {
        /// `smtp://user:password@host:587` (STARTTLS), `smtps://…:465` (TLS) or `smtp://…?tls=none`. A loopback host
        /// need not offer STARTTLS.
        smtp_url: Option<Secret> = None, "WHARF_SMTP_URL",
            kind::smtp_url().optional();
        /// Sender address.
        from: Option<String> = None, "WHARF_EMAIL_FROM", kind::email_address().optional();
        /// A directory with templates that replace those of the host.
        templates_dir: Option<PathBuf> = None, "WHARF_EMAIL_TEMPLATES_DIR", kind::directory().optional();
        /// The most mails of the host that wait to be sent. Mails that a caller without an account can cause take at most
        /// three quarters of them.
        queue: u32 = 10_000, "WHARF_EMAIL_QUEUE", kind::count(10..=1_000_000);
        /// How long a mail that others can cause is not sent to the same address again. 0s sends each one.
        repeat_after: Duration = 5 * MINUTE, "WHARF_EMAIL_REPEAT_AFTER", kind::duration(Duration::ZERO..=DAY);
    }
}

settings! {
    /// The audit log.
    Audit in audit {
        /// How long entries are kept.
        keep: Duration = Duration::from_secs(31_557_600), "WHARF_AUDIT_KEEP", kind::duration(DAY..=100 * YEAR);
    }
}

settings! {
    /// Logging.
    Log in log {
        /// `auto` (text on a terminal, JSON otherwise), `text` or `json`.
        format: LogFormat = LogFormat::Auto, "WHARF_LOG_FORMAT", kind::log_format();
        /// A `tracing` filter such as `info,wharf::plugin=debug`.
        filter: Option<String> = None, "WHARF_LOG", kind::log_filter().optional();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_of_the_database_contains_no_password() {
        let url = Secret::new("postgres://user:hunter2@db.example.com:5433/app?sslmode=require");
        let database = Database { url: Some(url), ..Database::default() };
        assert_eq!(database.description(), "PostgreSQL at db.example.com:5433, database app");
        let url = Secret::new("postgres://user:hunter2@/app?host=/run/postgresql");
        let database = Database { url: Some(url), ..Database::default() };
        assert_eq!(database.description(), "PostgreSQL at /run/postgresql, database app");
    }
}
