//! The running host: opens everything in order, from the data directory up to the listener, and closes it in the opposite
//! order. Owns the lifetimes and nothing else; it is the one place that knows all parts.

mod data_dir;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::data_dir::DataDir;
use crate::clock::{Clock, Random};
use crate::config::{Config, Secret};
use crate::db::Db;
use crate::error::{Error, Kind, Result, code};
use crate::http::static_files::StaticFiles;
use crate::http::{reply::Reply, server};

/// What the host takes from the machine, so that tests can choose it.
#[derive(Debug, Clone, Default)]
pub struct Ambient {
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
}

/// A component to deploy as soon as the host runs, unless it is live already.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// The component; its file name without `.wasm` is the plugin's name.
    pub file: PathBuf,
    /// The capabilities to grant.
    pub grants: Vec<String>,
}

/// What came of a [`Deployment`].
#[derive(Debug, Clone)]
pub struct Deployed {
    /// The plugin.
    pub name: String,
    /// Where its routes begin.
    pub mount: String,
    /// The number of its live release.
    pub release: u64,
    /// It was live already.
    pub unchanged: bool,
}

/// The account that a first start made.
#[derive(Debug, Clone)]
pub struct FirstSuperuser {
    /// How to sign in.
    pub email: String,
    /// The password, if it was generated; it is shown once and kept nowhere.
    pub password: Option<Secret>,
}

/// A host that serves. Dropped without [`App::stop`], it ends without grace.
pub struct App {
    addr: SocketAddr,
    shutdown: CancellationToken,
    served: JoinHandle<Result<()>>,
    first_superuser: Option<FirstSuperuser>,
    db: Db,
    // Last, so that the directory is free only when nothing uses it any more.
    _data_dir: DataDir,
}

impl App {
    /// Opens everything and starts to serve.
    ///
    /// # Errors
    /// The first part that cannot start, with the reason; or the part that did not within `server.start_timeout`.
    pub async fn start(config: Config, ambient: Ambient) -> Result<Self> {
        let limit = config.server.start_timeout;
        let mut stage = "opening the data directory";
        let started = timeout(limit, Self::open(Arc::new(config), ambient, &mut stage)).await;
        started.unwrap_or_else(|_| Err(too_slow(stage, limit)))
    }

    async fn open(config: Arc<Config>, ambient: Ambient, stage: &mut &'static str) -> Result<Self> {
        let Ambient { clock: _, random: _ } = ambient;
        let data_dir = DataDir::open(&config.server.data_dir)?;
        let static_files = config.server.static_dir.as_deref().map(StaticFiles::open).transpose()?;

        *stage = "opening the database";
        let db = Db::open(&config.database, data_dir.path()).await.map_err(|error| {
            // The report may name a file or a cause, never the URL.
            Error::internal(format!("{}: {}", config.database.place(), error.report()))
        })?;

        *stage = "opening the listener";
        // Last: whoever can connect finds everything in place.
        let listener = TcpListener::bind(config.server.listen).await.map_err(|error| {
            Error::internal(format!("cannot listen on {}", config.server.listen)).with_source(error)
        })?;
        let addr = listener.local_addr().map_err(|error| Error::internal("no local address").with_source(error))?;

        let shutdown = CancellationToken::new();
        let service = {
            let (db, static_files) = (db.clone(), static_files.map(Arc::new));
            move |request, _peer| answer(request, db.clone(), static_files.clone())
        };
        let server = Arc::new(config.server.clone());
        let served = tokio::spawn(server::serve(listener, server, service, shutdown.clone()));
        Ok(Self { addr, shutdown, served, first_superuser: None, db, _data_dir: data_dir })
    }

    /// Where it listens; with port 0 in the configuration, the port that was found.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The account that this start made, if it was the first.
    pub fn first_superuser(&self) -> Option<&FirstSuperuser> {
        self.first_superuser.as_ref()
    }

    /// Cancelled when the host is to stop; cancelling it makes it stop.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Deploys a component unless its digest is live already.
    ///
    /// # Errors
    /// The component is refused; whatever was live stays so.
    #[allow(clippy::unused_async, reason = "the plugin engine, wired at integration, is asynchronous")]
    pub async fn deploy(&self, deployment: &Deployment) -> Result<Deployed> {
        Err(Error::internal(format!("{}: the plugin engine is not wired yet", deployment.file.display())))
    }

    /// Stops, with grace for the requests in flight.
    ///
    /// # Errors
    /// As [`App::wait`].
    pub async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        self.wait().await
    }

    /// Waits until somebody cancels [`App::shutdown`] and everything has ended.
    ///
    /// # Errors
    /// The server ended for another reason.
    pub async fn wait(self) -> Result<()> {
        let served = self.served.await;
        self.db.close().await;
        served.map_err(|error| Error::internal("the server's task failed").with_source(error))?
    }
}

fn too_slow(stage: &str, limit: Duration) -> Error {
    let text = format!("{stage} took longer than server.start_timeout ({})", humantime::format_duration(limit));
    Error::new(Kind::Timeout, code::INTERNAL, "The start was given up").with_internal(text)
}

/// Stands in for the dispatcher until it is wired.
async fn answer(request: Request<Incoming>, db: Db, files: Option<Arc<StaticFiles>>) -> Response<Body> {
    let path = request.uri().path();
    let answer = match (path, files) {
        ("/healthz", _) => Reply::json(&serde_json::json!({ "status": "ok" })),
        ("/readyz", _) => db.ping().await.and_then(|()| Reply::json(&serde_json::json!({ "status": "ready" }))),
        (_, Some(files)) => match files.serve(request.method(), path, request.headers()).await {
            Ok(Some(response)) => return response,
            Ok(None) => Err(Error::not_found(code::ROUTE_NOT_FOUND, "Not Found")),
            Err(error) => Err(error),
        },
        _ => Err(Error::not_found(code::ROUTE_NOT_FOUND, "Not Found")),
    };
    answer.unwrap_or_else(|error| crate::http::problem::reply(&error, path, "")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directory: &tempfile::TempDir) -> Config {
        let mut config = Config::default();
        config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.server.data_dir = directory.path().join("data");
        config
    }

    #[tokio::test]
    async fn it_starts_serves_and_leaves_the_directory_free() {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let app = App::start(config(&directory), Ambient::default()).await.unwrap();
            assert_ne!(app.addr().port(), 0);
            let second = App::start(config(&directory), Ambient::default()).await.err().unwrap();
            assert!(second.report().contains("in use by another wharf"), "{}", second.report());
            app.stop().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_start_that_hangs_is_given_up_with_a_reason() {
        let directory = tempfile::tempdir().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = config(&directory);
        let url = format!("postgres://u:hunter2@{}/x?sslmode=disable", silent.local_addr().unwrap());
        config.database = crate::config::Database { url: Some(Secret::new(url)), ..config.database };
        config.server.start_timeout = Duration::from_millis(300);
        let error = App::start(config, Ambient::default()).await.err().unwrap();
        let text = "opening the database took longer than server.start_timeout (300ms)";
        assert!(error.report().contains(text) && !error.report().contains("hunter2"), "{}", error.report());
    }
}
