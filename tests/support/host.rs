//! A host in this process, through Wharf's public interface: its own directory, its own database, a free port.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use wharf::app::{Ambient, App};
use wharf::auth::HashCost;
use wharf::clock::{Clock, Timestamp};
use wharf::config::{Config, Secret};
use wharf::egress::{Outside, Resolver};
use wharf::plugin::Compile;

use super::backend::Backend;
use super::client::{Answer, Client};
use super::component::{Component, build_components};
use super::mail::MailServer;
use super::postgres::{self, TestDatabase};

/// The first superuser of every test host.
pub(crate) const SUPERUSER: &str = "admin@example.com";
/// The password of every account that a test makes without caring for it.
pub(crate) const PASSWORD: &str = "correct horse";
/// The grants that the items plugin needs.
pub(crate) const ITEMS: &str = "grant=auth&grant=sql";
/// The grants that the chameleon needs.
pub(crate) const CHAMELEON: &str = "grant=auth,cache,config,http,log,sql";

/// Every host of this process has its components compiled here, so each component is compiled once.
static WITHIN: LazyLock<Compile> = LazyLock::new(Compile::in_process);

/// How a test wants its host.
pub(crate) struct Setup {
    config: Config,
    clock: Clock,
    compile: Compile,
    outside: Outside,
    mail: Mailing,
    items: bool,
}

/// Where a host's mail goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mailing {
    /// To a server of the test's.
    Kept,
    /// Nowhere: none is configured.
    Off,
    /// To a port where nobody listens.
    Refused,
}

impl Default for Setup {
    fn default() -> Self {
        let mut config = Config::default();
        config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.server.project_name = "Test & Co".to_owned();
        config.server.frontend_url = "https://shop.example".to_owned();
        config.server.shutdown_grace = Duration::from_secs(20);
        config.auth.superuser_email = Some(SUPERUSER.to_owned());
        config.auth.superuser_password = Some(Secret::new(PASSWORD));
        config.email.from = Some("noreply@shop.example".to_owned());
        config.database.connections = 4;
        // A pool for as many calls as a test makes at once.
        config.plugins.concurrency = 16;
        config.plugins.total_concurrency = 32;
        config.plugins.queue_time = Duration::from_secs(20);
        // A busy machine is not what is tested.
        config.database.timeout = Duration::from_secs(30);
        // The program that runs is the tests', which cannot be asked to compile.
        let compile = WITHIN.clone();
        let outside = Outside { resolver: nobody(), ..Outside::default() };
        Self { config, clock: Clock::System, compile, outside, mail: Mailing::Kept, items: false }
    }
}

impl Setup {
    /// Changes settings.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// The items plugin is deployed.
    pub(crate) fn with_items(mut self) -> Self {
        self.items = true;
        self
    }

    /// Time stands still until the test moves it.
    pub(crate) fn with_manual_clock(mut self) -> Self {
        // 2027-01-15T08:00:00.123456Z
        self.clock = Clock::manual(Timestamp(1_800_000_000_123_456));
        self
    }

    /// Components are compiled elsewhere than in this process.
    pub(crate) fn compiling(mut self, compile: Compile) -> Self {
        self.compile = compile;
        self
    }

    /// Other servers have these names and certificates.
    pub(crate) fn with_outside(mut self, outside: Outside) -> Self {
        self.outside = outside;
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

/// A running host. Dropped without `stop`, it ends without grace.
pub(crate) struct TestHost {
    app: Option<App>,
    addr: SocketAddr,
    config: Config,
    clock: Clock,
    compile: Compile,
    outside: Outside,
    superuser: Client,
    mails: Option<MailServer>,
    // Dropped after the host that uses them.
    database: Option<TestDatabase>,
    _directory: TempDir,
}

impl TestHost {
    /// A fresh host; none where its database is not installed.
    pub(crate) async fn start(backend: Backend, setup: Setup) -> Option<Self> {
        build_components();
        let Setup { mut config, clock, compile, outside, mail, items } = setup;
        let database = match backend {
            Backend::Sqlite => None,
            Backend::Postgres => Some(postgres::database().await?),
        };
        let directory = tempfile::Builder::new().prefix("wharf-test-").tempdir().unwrap();
        config.server.data_dir = directory.path().join("data");
        config.database.url = database.as_ref().map(|database| Secret::new(database.url.clone()));
        let mails = match mail {
            Mailing::Kept => Some(MailServer::start().await),
            Mailing::Off | Mailing::Refused => None,
        };
        config.email.smtp_url = match mail {
            Mailing::Kept => mails.as_ref().map(|server| Secret::new(server.url())),
            Mailing::Refused => Some(Secret::new("smtp://127.0.0.1:1?tls=none")),
            Mailing::Off => None,
        };
        let app = start(&config, &clock, &compile, &outside).await;
        let addr = app.addr();
        let superuser = Client::new(addr).signed_in(SUPERUSER, PASSWORD).await;
        let app = Some(app);
        let host =
            Self { app, addr, config, clock, compile, outside, superuser, mails, database, _directory: directory };
        if items {
            host.deploy_items().await;
        }
        Some(host)
    }

    /// A fresh host on SQLite, for tests in which the database makes no difference.
    pub(crate) async fn sqlite(setup: Setup) -> Self {
        Self::start(Backend::Sqlite, setup).await.unwrap()
    }

    /// Ends it with grace and begins it again with the same data; clients have to be made anew.
    pub(crate) async fn restart(&mut self) {
        self.restart_after(async |_| ()).await;
    }

    /// The same, with something done to the data in between.
    pub(crate) async fn restart_after(&mut self, work: impl AsyncFnOnce(&Config)) {
        self.app.take().unwrap().stop().await.unwrap();
        work(&self.config).await;
        let app = start(&self.config, &self.clock, &self.compile, &self.outside).await;
        self.addr = app.addr();
        self.app = Some(app);
        self.superuser = Client::new(self.addr).with_token(self.superuser.token());
    }

    /// The same with other settings.
    pub(crate) async fn restart_with(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        self.restart().await;
    }

    /// The same, and from then on components are compiled by another.
    pub(crate) async fn restart_compiling(&mut self, compile: Compile) {
        self.compile = compile;
        self.restart().await;
    }

    /// Ends it with grace.
    pub(crate) async fn stop(mut self) {
        self.app.take().unwrap().stop().await.unwrap();
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

    /// The database, where it is PostgreSQL.
    pub(crate) fn database(&self) -> Option<&TestDatabase> {
        self.database.as_ref()
    }

    /// A client without credentials.
    pub(crate) fn anonymous(&self) -> Client {
        Client::new(self.addr)
    }

    /// The first superuser, signed in.
    pub(crate) fn superuser(&self) -> &Client {
        &self.superuser
    }

    /// An account of this address, made by signing up, and signed in.
    pub(crate) async fn user(&self, email: &str) -> Client {
        self.sign_up(email).await.ok();
        self.anonymous().signed_in(email, PASSWORD).await
    }

    /// The answer to a sign-up.
    pub(crate) async fn sign_up(&self, email: &str) -> Answer {
        self.anonymous().post("/users/signup", &json!({ "email": email, "password": PASSWORD })).await
    }

    /// Where the host's mail goes.
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

/// No test asks the system's resolver.
fn nobody() -> Resolver {
    Resolver::new(|name| async move { Err(std::io::Error::other(format!("no test gave {name} an address"))) })
}

async fn start(config: &Config, clock: &Clock, compile: &Compile, outside: &Outside) -> App {
    let (clock, compile, outside) = (clock.clone(), compile.clone(), outside.clone());
    let ambient = Ambient { clock, compile, outside, passwords: HashCost::Minimal, ..Ambient::default() };
    App::start(config.clone(), ambient).await.unwrap_or_else(|error| panic!("{}", error.report()))
}
