//! A host in this process, through Wharf's public interface, with its own directory, its own database and a free port.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::json;
use sqlx::Connection as _;
use tempfile::TempDir;
use tokio::sync::OnceCell;
use wharf::app::{App, Environment};
use wharf::auth::HashCost;
use wharf::clock::{Clock, Timestamp};
use wharf::config::{self, Config, Secret, Sources};
use wharf::db::Db;
use wharf::egress::{EgressEnvironment, Resolver};
use wharf::http::live_events::Intervals;
use wharf::plugin::Compile;

use super::backend::Backend;
use super::client::{Client, TestResponse};
use super::compiled_functions;
use super::component::{Component, build_components};
use super::mail::MailServer;
use super::patience::PATIENCE;
use super::postgres::{self, TestDatabase};
use super::secret_watch;

/// The first superuser of every test host.
pub(crate) const SUPERUSER: &str = "admin@example.com";
/// The password of all test accounts unless a test sets another.
pub(crate) const PASSWORD: &str = "correct horse";
/// A secret among the settings that a test host shows.
pub(crate) const METRICS_TOKEN: &str = "metrics-token-of-the-settings";
/// The grants that the items plugin needs.
pub(crate) const ITEMS: &str = "grant=auth&grant=events&grant=sql";
/// The grants that the chameleon needs. It imports every capability.
pub(crate) const CHAMELEON: &str = "grant=auth,cache,config,email,http,log,sql,users";

/// The grants of the chameleon as the API shows them: each capability, followed by its parameters among `parameters`.
pub(crate) fn chameleon_grants(parameters: &[&str]) -> Vec<String> {
    let capabilities = CHAMELEON.trim_start_matches("grant=").split(',');
    let grants = capabilities.flat_map(|capability| {
        let own = move |parameter: &&&str| parameter.starts_with(&format!("{capability}."));
        std::iter::once(capability).chain(parameters.iter().filter(own).copied())
    });
    grants.map(str::to_owned).collect()
}

/// The names of all capabilities, as error texts list them.
pub(crate) fn offered_capabilities() -> String {
    let names: Vec<&str> = wharf::capability::Capabilities::OFFERED.iter().map(|offer| offer.name).collect();
    names.join(", ")
}

/// The compiler of all hosts in this process, so that each component is compiled once, and each function of it.
static WITHIN: LazyLock<Compile> = LazyLock::new(compiled_functions::in_process);

/// The set-up of a test host.
pub(crate) struct Setup {
    config: Config,
    clock: Clock,
    compile: Compile,
    egress: EgressEnvironment,
    mail: Mailing,
    items: bool,
}

/// The destination of a host's mail.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mailing {
    /// A mail server of the test.
    TestServer,
    /// None: no mail server is configured.
    Off,
    /// A port where no server listens.
    Refused,
}

impl Default for Setup {
    fn default() -> Self {
        let mut config = Config::default();
        config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.server.project_name = "Test & Co".to_owned();
        config.server.frontend_url = "https://shop.example".parse().unwrap();
        config.server.shutdown_grace = Duration::from_secs(20);
        config.auth.superuser_email = Some(SUPERUSER.to_owned());
        config.auth.superuser_password = Some(Secret::new(PASSWORD));
        // Tests fail on purpose, often and from one address.
        config.auth.throttle = false;
        config.email.from = Some("noreply@shop.example".to_owned());
        // A test that asks for two mails gets both.
        config.email.repeat_after = Duration::ZERO;
        config.database.connections = 4;
        // Enough call slots for the concurrent calls of a test.
        config.plugins.concurrency = 16;
        config.plugins.total_concurrency = 32;
        config.database.timeout = PATIENCE;
        config.plugins.queue_time = PATIENCE;
        config.plugins.deadline = PATIENCE;
        config.plugins.sql_time = PATIENCE;
        // The running program is the tests', which cannot serve as the compiler's child process.
        let compile = WITHIN.clone();
        let egress = EgressEnvironment { resolver: empty_resolver(), ..EgressEnvironment::default() };
        Self { config, clock: Clock::System, compile, egress, mail: Mailing::TestServer, items: false }
    }
}

impl Setup {
    /// Changes the settings.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Throttles attempts, as hosts do by default.
    pub(crate) fn throttled(self) -> Self {
        self.with(|config| config.auth.throttle = true)
    }

    /// Deploys the items plugin at the start.
    pub(crate) fn with_items(mut self) -> Self {
        self.items = true;
        self
    }

    /// Uses a clock that stands still until the test advances it.
    pub(crate) fn with_manual_clock(self) -> Self {
        self.with_clock_at("2027-01-15T08:00:00.123456Z")
    }

    /// Uses such a clock, which begins at this time.
    pub(crate) fn with_clock_at(mut self, time: &str) -> Self {
        self.clock = Clock::manual(time.parse::<Timestamp>().unwrap());
        self
    }

    /// Uses another compiler.
    pub(crate) fn compiling(mut self, compile: Compile) -> Self {
        self.compile = compile;
        self
    }

    /// Sets the names and certificates of other servers.
    pub(crate) fn with_egress(mut self, egress: EgressEnvironment) -> Self {
        self.egress = egress;
        self
    }

    pub(crate) fn without_mail(mut self) -> Self {
        self.mail = Mailing::Off;
        self.config.email.from = None;
        self
    }

    pub(crate) fn with_dead_mail_server(mut self) -> Self {
        self.mail = Mailing::Refused;
        self
    }

    pub(crate) fn in_development(self) -> Self {
        self.with(|config| config.server.development = true)
    }
}

/// Gives a host the file of its database with its tables. They are created once, and copied for each test: their creation
/// takes longer than many a test.
async fn copy_tables(data_dir: &Path) {
    const FILE: &str = "wharf.sqlite";
    static TABLES: OnceCell<Vec<u8>> = OnceCell::const_new();
    let tables = TABLES.get_or_init(async || {
        let directory = tempfile::tempdir().unwrap();
        Db::open(&config::Database::default(), directory.path()).await.unwrap().close().await;
        std::fs::read(directory.path().join(FILE)).unwrap()
    });
    let tables = tables.await;
    DirBuilder::new().mode(0o700).create(data_dir).unwrap();
    std::fs::write(data_dir.join(FILE), tables).unwrap();
}

/// A running host. If it is dropped without `stop`, it ends without waiting for requests in flight.
pub(crate) struct TestHost {
    app: Option<App>,
    addr: SocketAddr,
    config: Config,
    clock: Clock,
    compile: Compile,
    egress: EgressEnvironment,
    superuser: Client,
    mails: Option<MailServer>,
    // These are dropped after the host, which uses them.
    database: Option<TestDatabase>,
    _directory: TempDir,
}

impl TestHost {
    /// Starts a fresh host. Returns `None` if its database is not installed.
    pub(crate) async fn start(backend: Backend, setup: Setup) -> Option<Self> {
        secret_watch::watch_log();
        build_components();
        let Setup { mut config, clock, compile, egress, mail, items } = setup;
        let directory = tempfile::Builder::new().prefix("wharf-test-").tempdir().unwrap();
        config.server.data_dir = directory.path().join("data");
        let database = match backend {
            Backend::Sqlite => {
                copy_tables(&config.server.data_dir).await;
                None
            }
            Backend::Postgres => Some(postgres::database_of_host().await?),
        };
        config.database.url = database.as_ref().map(|database| Secret::new(database.url.clone()));
        let mails = match mail {
            Mailing::TestServer => Some(MailServer::start().await),
            Mailing::Off | Mailing::Refused => None,
        };
        config.email.smtp_url = match mail {
            Mailing::TestServer => mails.as_ref().map(|server| Secret::new(server.url())),
            Mailing::Refused => Some(Secret::new("smtp://127.0.0.1:1?tls=none")),
            Mailing::Off => None,
        };
        let app = start(&config, &clock, &compile, &egress).await;
        let addr = app.addr();
        let superuser = Client::new(addr).signed_in(SUPERUSER, PASSWORD).await;
        let app = Some(app);
        let host =
            Self { app, addr, config, clock, compile, egress, superuser, mails, database, _directory: directory };
        if items {
            host.deploy_items().await;
        }
        Some(host)
    }

    /// Starts a fresh host on SQLite, for tests that do not depend on the database.
    pub(crate) async fn sqlite(setup: Setup) -> Self {
        Self::start(Backend::Sqlite, setup).await.unwrap()
    }

    /// Stops the host gracefully and starts it again with the same data. Clients must be created again.
    pub(crate) async fn restart(&mut self) {
        self.restart_after(async |_| ()).await;
    }

    /// Does the same, with work on the data in between.
    pub(crate) async fn restart_after(&mut self, work: impl AsyncFnOnce(&Config)) {
        self.app.take().unwrap().stop().await.unwrap();
        work(&self.config).await;
        let app = start(&self.config, &self.clock, &self.compile, &self.egress).await;
        self.addr = app.addr();
        self.app = Some(app);
        self.superuser = Client::new(self.addr).with_token(self.superuser.token());
    }

    /// Does the same with other settings.
    pub(crate) async fn restart_with(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        self.restart().await;
    }

    /// Does the same with another compiler.
    pub(crate) async fn restart_compiling(&mut self, compile: Compile) {
        self.compile = compile;
        self.restart().await;
    }

    /// Stops the host gracefully.
    pub(crate) async fn stop(mut self) {
        self.stop_app().await;
    }

    /// Stops the host gracefully. Its directory and its database stay. Its audit log must hold no secret.
    pub(crate) async fn stop_app(&mut self) {
        self.app.take().unwrap().stop().await.unwrap();
        secret_watch::check("the audit log", &self.audit_log().await);
        secret_watch::expect_none();
    }

    /// Returns the audit log as text, as it is stored.
    pub(crate) async fn audit_log(&self) -> String {
        const SQL: &str = "SELECT action || ' ' || object || ' ' || detail || ' ' || COALESCE(before, '') || ' ' || \
            COALESCE(after, '') FROM audit ORDER BY id";
        self.texts(SQL, &SQL.replace("FROM audit", "FROM wharf.audit")).await.join("\n")
    }

    /// Returns the texts that a query finds in the host's own database.
    pub(crate) async fn texts(&self, sqlite: &str, postgres: &str) -> Vec<String> {
        let query = |sql: &str| sqlx::AssertSqlSafe(sql.to_owned());
        match &self.database {
            Some(database) => {
                let mut connection = postgres::connect(database).await;
                sqlx::query_scalar(query(postgres)).fetch_all(&mut connection).await.unwrap()
            }
            None => {
                let mut connection = sqlx::SqliteConnection::connect(&self.sqlite_url()).await.unwrap();
                sqlx::query_scalar(query(sqlite)).fetch_all(&mut connection).await.unwrap()
            }
        }
    }

    fn sqlite_url(&self) -> String {
        format!("sqlite://{}", self.config.server.data_dir.join("wharf.sqlite").display())
    }

    /// Waits until the host stops by itself, and returns the reason.
    pub(crate) async fn ended(mut self) -> wharf::error::Result<()> {
        self.app.take().unwrap().wait().await
    }

    /// Returns the environment of the host, for another host next to it.
    pub(crate) fn environment(&self) -> Environment {
        environment(&self.clock, &self.compile, &self.egress)
    }

    pub(crate) fn app(&self) -> &App {
        self.app.as_ref().unwrap()
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns the database, if it is PostgreSQL.
    pub(crate) fn database(&self) -> Option<&TestDatabase> {
        self.database.as_ref()
    }

    /// Runs statements on the host's own database, as another program would.
    pub(crate) async fn run_sql(&self, sqlite: &str, postgres: &str) {
        let statements = |sql: &str| sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()));
        match &self.database {
            Some(database) => {
                statements(postgres).execute(&mut postgres::connect(database).await).await.unwrap();
            }
            None => {
                let mut connection = sqlx::SqliteConnection::connect(&self.sqlite_url()).await.unwrap();
                statements(sqlite).execute(&mut connection).await.unwrap();
            }
        }
    }

    /// Returns a client without credentials.
    pub(crate) fn anonymous(&self) -> Client {
        Client::new(self.addr)
    }

    /// Returns the client of the first superuser.
    pub(crate) fn superuser(&self) -> &Client {
        &self.superuser
    }

    /// Signs up an account with this address and returns its client.
    pub(crate) async fn user(&self, email: &str) -> Client {
        self.sign_up(email).await.ok();
        self.anonymous().signed_in(email, PASSWORD).await
    }

    /// Creates an account by an operator, who vouches for its address, and returns its client. Plugins send mail to such an
    /// account.
    pub(crate) async fn verified_user(&self, email: &str) -> Client {
        self.superuser.post("/users/", &json!({ "email": email, "password": PASSWORD })).await.ok();
        self.mails().take(email).await;
        self.anonymous().signed_in(email, PASSWORD).await
    }

    /// Signs up and returns the response.
    pub(crate) async fn sign_up(&self, email: &str) -> TestResponse {
        self.anonymous().post("/users/signup", &json!({ "email": email, "password": PASSWORD })).await
    }

    /// Returns the mail server that the host uses.
    pub(crate) fn mails(&self) -> &MailServer {
        self.mails.as_ref().unwrap()
    }

    pub(crate) async fn deploy_items(&self) {
        self.superuser.deploy(&Component::items().0, ITEMS).await.ok();
    }

    pub(crate) async fn deploy_chameleon(&self) {
        self.superuser.deploy(&Component::chameleon().0, CHAMELEON).await.ok();
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            secret_watch::expect_none();
        }
    }
}

/// Returns a resolver that knows no name, so that no test asks the system's.
fn empty_resolver() -> Resolver {
    Resolver::new(|name| async move { Err(std::io::Error::other(format!("no test gave {name} an address"))) })
}

fn environment(clock: &Clock, compile: &Compile, egress: &EgressEnvironment) -> Environment {
    let (clock, compile, egress) = (clock.clone(), compile.clone(), egress.clone());
    // Those of a host that was started with these variables. The configuration of the test decides.
    let mut sources = Sources::default();
    let variables = [("WHARF_PROJECT_NAME", "Shop"), ("WHARF_METRICS_TOKEN", METRICS_TOKEN)];
    sources.add_environment(variables.map(|(name, value)| (OsString::from(name), OsString::from(value))), &[]);
    let settings = wharf::config::load(&sources).unwrap().settings;
    // Short, so that a test that waits for a heartbeat or a check is a short one.
    let event_streams = Intervals { heartbeat: Duration::from_millis(200), check: Duration::from_millis(200) };
    let passwords = HashCost::Minimal;
    Environment { clock, compile, egress, passwords, settings, event_streams, ..Environment::default() }
}

async fn start(config: &Config, clock: &Clock, compile: &Compile, egress: &EgressEnvironment) -> App {
    App::start(config.clone(), environment(clock, compile, egress))
        .await
        .unwrap_or_else(|error| panic!("{}", error.report()))
}
