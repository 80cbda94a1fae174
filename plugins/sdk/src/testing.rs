//! Stands in for the host in native tests: `cargo test` runs a whole plugin without WebAssembly.
//!
//! Routing, access and validation follow what the plugin declares, as the host does; the capability modules reach an
//! in-memory SQLite with the plugin's migrations, a cache in a map, a log that is kept for the test to read, and servers
//! that are functions of the test ([`TestPlugin::server`]): nothing leaves the process. The wording of validation errors is the host's own business, so test their status and place.
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
    reason = "in a test, a panic is how a mistake is reported"
)]

mod check;
mod client;
mod validation;

pub use crate::host::stand_in::state::{AuditEntry, LogEntry};
pub use check::{check, check_migrations, describe};
pub use client::{TestRequest, TestResponse};

use crate::host::stand_in::sql;
use crate::host::stand_in::state::{self, HostState, Server};
use crate::plugin::Plugin;
use crate::{Caller, Uuid, http};
use std::cell::RefCell;
use std::rc::Rc;
use validation::Validators;

/// A caller with a random id.
pub fn user(email: &str) -> Caller {
    Caller { id: Uuid::new_v4(), email: email.to_owned(), superuser: false, roles: Vec::new() }
}

/// A caller who may do everything.
pub fn superuser(email: &str) -> Caller {
    Caller { superuser: true, ..user(email) }
}

/// A plugin with a host of its own, which nothing else sees.
#[derive(Debug)]
pub struct TestPlugin {
    plugin: &'static Plugin,
    validators: Validators,
    /// Taken out while the plugin runs.
    host: RefCell<HostState>,
}

impl TestPlugin {
    /// The plugin after its deploy: migrated, no settings, nobody with a permission.
    ///
    /// # Panics
    /// Where the plugin's declarations contradict each other or a migration fails.
    pub fn new(plugin: &'static Plugin) -> Self {
        let api = check::api(plugin);
        let connection = sql::open();
        for migration in plugin.migrations {
            let result = connection.execute_batch(migration.sql);
            result.unwrap_or_else(|error| panic!("migration `{}` fails on SQLite: {error}", migration.name));
        }
        let host = HostState { connection: Some(connection), ..HostState::default() };
        Self { plugin, validators: Validators::new(&api), host: RefCell::new(host) }
    }

    /// Sets what an operator would.
    #[must_use]
    #[allow(clippy::needless_pass_by_value, reason = "reads well with `json!`")]
    pub fn settings(self, settings: serde_json::Value) -> Self {
        self.host.borrow_mut().settings = settings.to_string();
        self
    }

    /// Gives a caller a permission of the plugin.
    pub fn permit(&self, caller: &Caller, permission: &str) {
        self.host.borrow_mut().permissions.insert((caller.id.to_string(), permission.to_owned()));
    }

    /// A server that the plugin may send requests to, as a function: of an origin (`https://api.example.com`), which is
    /// what an operator would allow with `http.hosts`. Requests to any other are denied.
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

    /// Runs code of the plugin that is not a handler with this plugin's host behind it.
    pub fn run<T>(&self, code: impl FnOnce() -> T) -> T {
        state::enter(&self.host, code)
    }

    /// What the plugin has logged so far, its diagnostics included.
    pub fn log(&self) -> Vec<LogEntry> {
        self.host.borrow().log.clone()
    }

    /// What the plugin has recorded for the audit so far.
    pub fn audit(&self) -> Vec<AuditEntry> {
        self.host.borrow().audit.clone()
    }

    /// A request with any method to a path below the mount, query included.
    pub fn request(&self, method: &str, path: &str) -> TestRequest<'_> {
        TestRequest::new(self, method, path)
    }

    /// A `GET` request.
    pub fn get(&self, path: &str) -> TestRequest<'_> {
        self.request("GET", path)
    }

    /// A `POST` request.
    pub fn post(&self, path: &str) -> TestRequest<'_> {
        self.request("POST", path)
    }

    /// A `PUT` request.
    pub fn put(&self, path: &str) -> TestRequest<'_> {
        self.request("PUT", path)
    }

    /// A `PATCH` request.
    pub fn patch(&self, path: &str) -> TestRequest<'_> {
        self.request("PATCH", path)
    }

    /// A `DELETE` request.
    pub fn delete(&self, path: &str) -> TestRequest<'_> {
        self.request("DELETE", path)
    }
}

/// Runs code with an empty database of its own, after `tables` were made in it. For testing SQL without a plugin.
///
/// # Panics
/// Where `tables` is not SQL.
pub fn with_sql<T>(tables: &str, code: impl FnOnce() -> T) -> T {
    let connection = sql::open();
    connection.execute_batch(tables).unwrap_or_else(|error| panic!("the tables cannot be made: {error}"));
    state::enter(&RefCell::new(HostState { connection: Some(connection), ..HostState::default() }), code)
}
