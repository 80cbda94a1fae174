//! Runs a whole plugin natively, without WebAssembly: `cargo test` against a stand-in for the host.
//!
//! It needs the feature `testing`, which belongs in the dev-dependencies of a plugin. Routing, access and validation
//! follow the plugin's declarations, as in the host. The capabilities are an in-memory SQLite with the plugin's
//! migrations, a cache in a map, a log that the test can read, and functions of the test in place of other servers
//! ([`TestPlugin::server`]). Events and jobs are kept until the test runs what is due ([`TestPlugin::run_due`]). Mails
//! are kept ([`TestPlugin::mails`]). Nothing leaves the process.
//!
//! The host words validation errors in its own way, so test their status and location.
//!
//! ```
//! use wharf_sdk::prelude::*;
//! use wharf_sdk::testing::{TestPlugin, user};
//!
//! plugin! { name: "hello", summary: "Says hello", routes: [hello] }
//!
//! #[get("/")]
//! fn hello(caller: Caller) -> Text {
//!     Text(format!("Hello {}", caller.email))
//! }
//!
//! let plugin = TestPlugin::new(&PLUGIN);
//! let alice = user("alice@example.com");
//! assert_eq!(plugin.get("/").by(&alice).send().text(), "Hello alice@example.com");
//! assert_eq!(plugin.get("/").send().status(), 401);
//! ```

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test reports a mistake by a panic"
)]

mod check;
mod client;
mod mail;
mod tasks;
mod validation;

pub use crate::host::stand_in::state::{AuditEntry, LogEntry};
pub use check::{check, check_migrations, describe};
pub use client::{TestRequest, TestResponse};
pub use mail::{Recipient, TestMail};
pub use tasks::{Attempt, DeadLetter, TestEvent, TestJob};

use crate::bindings::imports::wharf::auth::caller as wit;
use crate::bindings::imports::wharf::users::directory as wit_users;
use crate::host::stand_in::messages::Messages;
use crate::host::stand_in::sql;
use crate::host::stand_in::state::{self, HostState, Server};
use crate::plugin::Plugin;
use crate::{Authentication, Caller, Strength, Timestamp, Uuid, http};
use std::cell::RefCell;
use std::rc::Rc;
use validation::Validators;

/// Creates a caller with a random id.
pub fn user(email: &str) -> Caller {
    Caller { id: Uuid::new_v4(), email: email.to_owned(), superuser: false, roles: Vec::new() }
}

/// Creates a caller who may do everything.
pub fn superuser(email: &str) -> Caller {
    Caller { superuser: true, ..user(email) }
}

/// Creates a session of this strength that began now.
pub fn session(strength: Strength) -> Authentication {
    Authentication::Session { id: Uuid::new_v4(), strength, authenticated_at: Timestamp::now(), stepped_up_at: None }
}

/// A plugin with a host of its own. No other `TestPlugin` shares its state.
#[derive(Debug)]
pub struct TestPlugin {
    plugin: &'static Plugin,
    validators: Validators,
    /// Empty while the plugin runs: then it is the current host of the thread.
    host: RefCell<HostState>,
}

impl TestPlugin {
    /// Creates the plugin as after its deploy: with all migrations, without settings, and without permissions for
    /// anybody.
    ///
    /// # Panics
    /// If the plugin's declarations contradict each other or a migration fails.
    pub fn new(plugin: &'static Plugin) -> Self {
        let api = check::api(plugin);
        let connection = check::migrate(plugin);
        let declared_permissions = plugin.permissions;
        let messages = Messages { declared: validation::declared(plugin), ..Messages::default() };
        let host = HostState { connection: Some(connection), declared_permissions, messages, ..HostState::default() };
        Self { plugin, validators: Validators::new(&api), host: RefCell::new(host) }
    }

    /// Sets the settings that an operator would give.
    #[must_use]
    #[allow(clippy::needless_pass_by_value, reason = "reads well with `json!`")]
    pub fn settings(self, settings: serde_json::Value) -> Self {
        self.host.borrow_mut().settings = settings.to_string();
        self
    }

    /// Grants a permission of the plugin to a caller.
    pub fn permit(&self, caller: &Caller, permission: &str) {
        self.host.borrow_mut().permissions.insert((caller.id.to_string(), permission.to_owned()));
    }

    /// Sets how a caller was authenticated. Without it, a caller has a session of one factor.
    ///
    /// ```
    /// use wharf_sdk::prelude::*;
    /// use wharf_sdk::testing::{TestPlugin, user};
    /// use wharf_sdk::{Authentication, Strength};
    ///
    /// plugin! { name: "vault", summary: "Keeps secrets", routes: [open] }
    ///
    /// #[get("/")]
    /// fn open(caller: Caller) -> Result<Text> {
    ///     match caller.authentication()? {
    ///         Authentication::Session { strength: Strength::MultiFactor, .. } => Ok(Text("open".to_owned())),
    ///         _ => Err(Problem::forbidden("weak", "Sign in with a second factor")),
    ///     }
    /// }
    ///
    /// let plugin = TestPlugin::new(&PLUGIN);
    /// let alice = user("alice@example.com");
    /// assert_eq!(plugin.get("/").by(&alice).send().status(), 403);
    /// plugin.authenticate(&alice, &wharf_sdk::testing::session(Strength::MultiFactor));
    /// assert_eq!(plugin.get("/").by(&alice).send().text(), "open");
    /// ```
    pub fn authenticate(&self, caller: &Caller, authentication: &Authentication) {
        let by = match authentication {
            Authentication::Session { id, strength, authenticated_at, stepped_up_at } => {
                wit::AuthenticatedBy::Session(wit::Session {
                    id: id.to_string(),
                    strength: match strength {
                        Strength::SingleFactor => wit::Strength::SingleFactor,
                        Strength::MultiFactor => wit::Strength::MultiFactor,
                    },
                    authenticated_at: authenticated_at.unix_micros(),
                    stepped_up_at: stepped_up_at.map(Timestamp::unix_micros),
                })
            }
            Authentication::Key { id, name } => {
                wit::AuthenticatedBy::ApiKey(wit::ApiKey { id: id.to_string(), name: name.clone() })
            }
        };
        self.host.borrow_mut().authentications.insert(caller.id.to_string(), by);
    }

    /// Adds a server, as a function that handles its requests. `origin` (`https://api.example.com`) is the value that
    /// an operator would allow with `http.hosts`. Requests to other origins are denied.
    ///
    /// ```
    /// use wharf_sdk::http;
    /// use wharf_sdk::prelude::*;
    /// use wharf_sdk::testing::TestPlugin;
    ///
    /// plugin! { name: "weather", summary: "Knows the weather", routes: [weather] }
    ///
    /// #[get("/", access = public)]
    /// fn weather() -> Result<Text> {
    ///     Ok(Text(http::get("https://api.example.com/now").send()?.text()))
    /// }
    ///
    /// let plugin = TestPlugin::new(&PLUGIN).server("https://api.example.com", |request| {
    ///     assert_eq!(request.url, "https://api.example.com/now");
    ///     Ok(http::Response::new(200, "sunny"))
    /// });
    /// assert_eq!(plugin.get("/").send().text(), "sunny");
    /// ```
    #[must_use]
    pub fn server(
        self,
        origin: &str,
        handler: impl Fn(&http::SentRequest) -> Result<http::Response, http::Error> + 'static,
    ) -> Self {
        let handler = Rc::new(move |request: &http::SentRequest| handler(request).map(|response| response.raw));
        let server = Server { origin: origin.trim_end_matches('/').to_owned(), handler };
        self.host.borrow_mut().servers.push(server);
        self
    }

    /// Adds an account to the directory of the host, or changes it. [`user`] alone does not.
    ///
    /// ```
    /// use wharf_sdk::prelude::*;
    /// use wharf_sdk::testing::{TestPlugin, user};
    /// use wharf_sdk::users;
    ///
    /// plugin! { name: "people", summary: "Shows people", routes: [name] }
    ///
    /// #[get("/{id}")]
    /// fn name(Path(id): Path<Uuid>) -> Result<Text> {
    ///     let user = users::get(id)?.ok_or_else(|| Problem::not_found("no_such_person", "Nobody has this id"))?;
    ///     Ok(Text(user.name.unwrap_or(user.email)))
    /// }
    ///
    /// let plugin = TestPlugin::new(&PLUGIN);
    /// let alice = user("alice@example.com");
    /// assert_eq!(plugin.get(&format!("/{}", alice.id)).by(&alice).send().status(), 404);
    /// plugin.add_user(&alice, Some("Alice"));
    /// assert_eq!(plugin.get(&format!("/{}", alice.id)).by(&alice).send().text(), "Alice");
    /// ```
    pub fn add_user(&self, user: &Caller, name: Option<&str>) {
        let (id, email, name) = (user.id.to_string(), user.email.clone(), name.map(str::to_owned));
        let listed = wit_users::User { id: id.clone(), name, email, active: true, superuser: user.superuser };
        self.host.borrow_mut().users.insert(id, listed);
    }

    /// Deactivates an account of the directory.
    pub fn deactivate_user(&self, id: Uuid) {
        if let Some(user) = self.host.borrow_mut().users.get_mut(&id.to_string()) {
            user.active = false;
        }
    }

    /// Removes an account from the directory. The plugin learns it when the test delivers `user.deleted`.
    pub fn remove_user(&self, id: Uuid) {
        self.host.borrow_mut().users.remove(&id.to_string());
    }

    /// Runs code of the plugin that is not a handler. Its capability calls go to this plugin's host.
    pub fn run<T>(&self, code: impl FnOnce() -> T) -> T {
        state::enter(&self.host, code)
    }

    /// Returns the entries of the plugin's log so far, diagnostics included.
    pub fn log(&self) -> Vec<LogEntry> {
        self.host.borrow().log.clone()
    }

    /// Returns the audit entries that the plugin has recorded so far.
    pub fn audit(&self) -> Vec<AuditEntry> {
        self.host.borrow().audit.clone()
    }
}

/// Runs code with a new database in which the SQL of `tables` was executed. It tests SQL without a plugin.
///
/// # Panics
/// If `tables` is not valid SQL.
pub fn with_sql<T>(tables: &str, code: impl FnOnce() -> T) -> T {
    let connection = sql::open();
    connection.execute_batch(tables).unwrap_or_else(|error| panic!("cannot create the tables: {error}"));
    state::enter(&RefCell::new(HostState { connection: Some(connection), ..HostState::default() }), code)
}
