//! The routes of the ladder, and the servers that are their rungs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ladder::{Route, Rung};
use crate::load::Request;
use crate::own_server::OwnServer;
use crate::peers::Peer;
use crate::plain;
use crate::usage::Usage;
use crate::wharf::{self, EMAIL, PASSWORD, Wharf};
use crate::{CONNECTIONS, Failure, ITEMS, LIST_LIMIT};

/// The names of the rungs.
pub(crate) mod rung {
    pub(crate) const PLAIN: &str = "plain axum";
    /// A route of the host without a plugin: the server, the dispatch, the log and the rules of HTTP.
    pub(crate) const LAYER: &str = "Wharf's HTTP layer";
    pub(crate) const BARE: &str = "bare wasmtime";
    /// With the log at `warn`.
    pub(crate) const WHARF: &str = "Wharf";
    pub(crate) const LOGGING: &str = "Wharf, default log";
    pub(crate) const ONE_WORKER: &str = "Wharf, one worker";
}

/// The names of the routes.
pub(crate) mod route {
    pub(crate) const HELLO: &str = "hello";
    pub(crate) const HELLO_ALONE: &str = "hello, one connection";
    pub(crate) const ME: &str = "users/me";
    pub(crate) const LIST: &str = "list with count";
    pub(crate) const KEPT: &str = "cached response";
    pub(crate) const BODY: &str = "64 KiB body";
    pub(crate) const LOGIN: &str = "login";
    pub(crate) const CREATE: &str = "create";
}

/// A hash takes a core for many milliseconds, so few connections are enough.
const LOGIN_CONNECTIONS: usize = 4;
/// The CPU time per second, in seconds, that three hosts without requests use at most.
const IDLE: f64 = 0.1;
const SETTLE_SECONDS: u32 = 120;
pub(crate) const BODY_BYTES: usize = 64 * 1024;
/// Types of bodies.
pub(crate) const JSON: &str = "application/json";
pub(crate) const BINARY: &str = "application/octet-stream";
const FORM: &str = "application/x-www-form-urlencoded";
/// The item that is created.
pub(crate) const NEW_ITEM: &str = r#"{"title":"An item","description":"It is created by the benchmark"}"#;

/// The servers of the ladder.
pub(crate) struct Servers {
    plain: OwnServer,
    bare: OwnServer,
    wharf: Wharf,
    logging: Wharf,
    one_worker: Wharf,
    /// The directory of `logging`.
    logging_directory: PathBuf,
}

impl Servers {
    /// Starts all servers. The directory gets their data.
    pub(crate) fn start(binary: &Path, directory: &Path) -> Result<Self, Failure> {
        let servers = Self {
            plain: OwnServer::start("plain", Some(&directory.join("plain.sqlite")))?,
            bare: OwnServer::start("bare", None)?,
            wharf: Wharf::start(binary, &directory.join("quiet"), &[("WHARF_LOG", "warn")])?,
            logging: Wharf::start(binary, &directory.join("logging"), &[])?,
            one_worker: Wharf::start(
                binary,
                &directory.join("one-worker"),
                &[("WHARF_LOG", "warn"), ("TOKIO_WORKER_THREADS", "1")],
            )?,
            logging_directory: directory.join("logging"),
        };
        servers.wharf.create_items(ITEMS)?;
        servers.logging.create_items(ITEMS)?;
        Ok(servers)
    }

    /// Returns the host with the default log.
    pub(crate) fn logging(&self) -> &Wharf {
        &self.logging
    }

    /// Empties the log of the host with the default log.
    pub(crate) fn empty_log(&self) -> Result<(), Failure> {
        wharf::empty_log(&self.logging_directory)
    }

    /// Waits until the hosts have moved the events of the items that were created.
    pub(crate) fn settle(&self) -> Result<(), Failure> {
        let hosts = [self.wharf.pid(), self.logging.pid(), self.one_worker.pid()];
        for _ in 0..SETTLE_SECONDS {
            let before = Usage::of(&hosts)?.cpu_seconds;
            std::thread::sleep(Duration::from_secs(1));
            if Usage::of(&hosts)?.cpu_seconds - before < IDLE {
                return Ok(());
            }
        }
        Err(format!("the hosts still work {SETTLE_SECONDS} s after the last request").into())
    }

    /// Returns the routes that leave the lists and the sessions as they are. Peers join the routes that they have.
    pub(crate) fn routes(&self, peers: &[Peer]) -> Vec<Route> {
        let with_plain_hello = |path: &str| {
            vec![self.plain_hello(), on(&self.wharf, rung::WHARF, path), on(&self.logging, rung::LOGGING, path)]
        };
        let list = format!("/api/v1/items/?limit={LIST_LIMIT}");
        let mut all_of_hello = with_plain_hello("/api/v1/hello/");
        all_of_hello.insert(1, on(&self.wharf, rung::LAYER, "/healthz"));
        let bare = Request::get(self.bare.url("/hello"));
        all_of_hello.insert(2, Rung::new(rung::BARE, self.bare.pid(), bare));
        all_of_hello.push(on(&self.one_worker, rung::ONE_WORKER, "/api/v1/hello/"));
        let routes = vec![
            Route { name: route::HELLO, connections: CONNECTIONS, rungs: all_of_hello },
            Route { name: route::HELLO_ALONE, connections: 1, rungs: with_plain_hello("/api/v1/hello/") },
            Route {
                name: route::ME,
                connections: CONNECTIONS,
                rungs: vec![
                    self.plain("/users/me"),
                    signed_in(&self.wharf, rung::WHARF, "/api/v1/users/me"),
                    signed_in(&self.logging, rung::LOGGING, "/api/v1/users/me"),
                ],
            },
            Route {
                name: route::LIST,
                connections: CONNECTIONS,
                rungs: vec![
                    self.plain("/items"),
                    signed_in(&self.wharf, rung::WHARF, &list),
                    signed_in(&self.logging, rung::LOGGING, &list),
                ],
            },
            // The other side does not cache: it is the least that a server can do.
            Route { name: route::KEPT, connections: CONNECTIONS, rungs: with_plain_hello("/api/v1/gauge/kept") },
            Route { name: route::BODY, connections: CONNECTIONS, rungs: self.body() },
        ];
        routes.into_iter().map(|route| with_peers(route, peers)).collect()
    }

    /// Returns the route that makes the lists longer, so it comes after the routes that read them.
    pub(crate) fn create(&self, peers: &[Peer]) -> Route {
        let plain = Request::post(self.plain.url("/items"), JSON, NEW_ITEM).with_token(plain::TOKEN);
        let create = |wharf: &Wharf, name| {
            let request = Request::post(wharf.url("/api/v1/items/"), JSON, NEW_ITEM).with_token(wharf.token());
            Rung::new(name, wharf.pid(), request)
        };
        let rungs = vec![
            Rung::new(rung::PLAIN, self.plain.pid(), plain),
            create(&self.wharf, rung::WHARF),
            create(&self.logging, rung::LOGGING),
        ];
        with_peers(Route { name: route::CREATE, connections: CONNECTIONS, rungs }, peers)
    }

    /// Returns the route that ends older sessions, because an account has a limited number of them. So it comes after the
    /// routes with a token.
    pub(crate) fn login(&self, peers: &[Peer]) -> Route {
        // The names of the form, with `@` and the blank as they are sent.
        let form = format!("username={}&password={}", EMAIL.replace('@', "%40"), PASSWORD.replace(' ', "+"));
        let url = self.wharf.url("/api/v1/login/access-token");
        let rungs = vec![
            Rung::new(rung::PLAIN, self.plain.pid(), Request::post(self.plain.url("/login"), JSON, json_login())),
            Rung::new(rung::WHARF, self.wharf.pid(), Request::post(url, FORM, form)),
        ];
        with_peers(Route { name: route::LOGIN, connections: LOGIN_CONNECTIONS, rungs }, peers)
    }

    fn plain_hello(&self) -> Rung {
        Rung::new(rung::PLAIN, self.plain.pid(), Request::get(self.plain.url("/hello")))
    }

    fn plain(&self, path: &str) -> Rung {
        let request = Request::get(self.plain.url(path)).with_token(plain::TOKEN);
        Rung::new(rung::PLAIN, self.plain.pid(), request)
    }

    fn body(&self) -> Vec<Rung> {
        let body = "x".repeat(BODY_BYTES);
        let send = |url| Request::post(url, BINARY, body.as_str());
        vec![
            Rung::new(rung::PLAIN, self.plain.pid(), send(self.plain.url("/length"))),
            Rung::new(rung::WHARF, self.wharf.pid(), send(self.wharf.url("/api/v1/gauge/length"))),
        ]
    }
}

/// Returns the body of a sign-in in JSON.
pub(crate) fn json_login() -> String {
    format!(r#"{{"username":"{EMAIL}","password":"{PASSWORD}"}}"#)
}

/// A request without a token.
fn on(wharf: &Wharf, name: &'static str, path: &str) -> Rung {
    Rung::new(name, wharf.pid(), Request::get(wharf.url(path)))
}

/// A request with the token of the host.
fn signed_in(wharf: &Wharf, name: &'static str, path: &str) -> Rung {
    Rung::new(name, wharf.pid(), Request::get(wharf.url(path)).with_token(wharf.token()))
}

fn with_peers(mut route: Route, peers: &[Peer]) -> Route {
    for peer in peers {
        let request = peer.requests.iter().find(|(name, _)| *name == route.name).map(|(_, request)| request.clone());
        route.rungs.extend(request.map(|request| Rung {
            name: peer.name,
            request,
            processes: peer.processes.clone(),
            stopped: Vec::new(),
            may_fail: true,
        }));
    }
    route
}
