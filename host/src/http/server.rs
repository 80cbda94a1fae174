//! Connections: accepts them, bounds them, reads HTTP/1.1 and HTTP/2 from them and hands each request to a service.
//!
//! Owns every limit that is older than a request: how many connections there are, how long one may take to send headers,
//! stand idle or not read its answer, how large headers may be; and the order of a shutdown. Never looks into a request.

mod activity;
mod http2_streams;
mod response_body;

use std::convert::Infallible;
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::activity::Activity;
use self::http2_streams::StreamExecutor;
use self::response_body::ResponseBody;
use super::problem;
use super::traffic::Traffic;
use crate::config;
use crate::error::{Error, Result};

/// Headers of one request; more are 431.
const MAX_HEADERS: usize = 100;

/// All header bytes of one request; more are 431.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Requests that one HTTP/2 connection may have open.
const MAX_STREAMS: u32 = 128;

/// How often a silent HTTP/2 peer is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// How long nothing is accepted after the system refused a connection for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// What serves requests: called once for each, with the address of the peer. It always answers; should it panic, the
/// client gets a plain 500.
pub trait Service<F>: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static {}

impl<S, F> Service<F> for S where S: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static {}

/// Serves `listener` until `shutdown`, then lets requests in flight finish within `server.shutdown_grace` and cuts the
/// rest.
///
/// # Errors
/// None yet; the signature leaves room for listeners that can fail for good.
pub async fn serve<S, F>(
    listener: TcpListener,
    config: Arc<config::Server>,
    traffic: Arc<Traffic>,
    service: S,
    shutdown: CancellationToken,
) -> Result<()>
where
    S: Service<F>,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let builder = builder(&config);
    // More wait in the kernel's queue; each costs a file and a task and, while it speaks, a buffer.
    let permits = Arc::new(Semaphore::new(config.connections.min(Semaphore::MAX_PERMITS)));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();

    loop {
        let accepted = async {
            // The permit comes first: a connection that nobody may serve is better left to the kernel.
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = Connection {
                    builder: builder.clone(),
                    config: Arc::clone(&config),
                    traffic: Arc::clone(&traffic),
                    service: service.clone(),
                    shutdown: shutdown.clone(),
                };
                let cut = cut.clone();
                connections.spawn(async move {
                    // Dropping the connection drops the handlers of its requests with it.
                    let _ = cut.run_until_cancelled(connection.run(stream, peer)).await;
                    drop(permit);
                });
            }
            Err(error) if concerns_one_connection(error.kind()) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections now");
                tokio::select! { () = shutdown.cancelled() => break, () = sleep(ACCEPT_PAUSE) => {} }
            }
        }
    }

    drop(listener);
    connections.close();
    if timeout(config.shutdown_grace, connections.wait()).await.is_err() {
        let left = connections.len();
        tracing::warn!(connections = left, grace = ?config.shutdown_grace, "cut what did not finish within the grace");
        cut.cancel();
        connections.wait().await;
    }
    Ok(())
}

fn builder(config: &config::Server) -> Builder<StreamExecutor> {
    let mut builder = Builder::new(StreamExecutor);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(config.header_timeout);
    builder
}

/// The peer went away between its SYN and our accept.
fn concerns_one_connection(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
}

struct Connection<S> {
    builder: Builder<StreamExecutor>,
    config: Arc<config::Server>,
    traffic: Arc<Traffic>,
    service: S,
    shutdown: CancellationToken,
}

impl<S> Connection<S> {
    async fn run<F>(self, stream: TcpStream, peer: SocketAddr)
    where
        S: Service<F>,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, %peer, "no TCP_NODELAY");
        }
        let connected = self.traffic.connect();
        let activity = Arc::new(Activity::default());
        let service = {
            let (service, activity) = (self.service, Arc::clone(&activity));
            service_fn(move |request| {
                let request_guard = Activity::begin_request(&activity);
                let response = guarded(service.clone(), request, peer);
                async move { Ok::<_, Infallible>(response.await.map(|body| ResponseBody::new(body, request_guard))) }
            })
        };
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let mut stopping = false;
        loop {
            let deadline = activity.deadline(self.config.header_timeout, self.config.body_timeout);
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        // Peers that vanish or speak something else; nothing an operator could act on.
                        tracing::debug!(error, %peer, "connection ended early");
                        connected.is_broken();
                    }
                    return;
                }
                () = self.shutdown.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = sleep_until(deadline) => {
                    let ended = activity.end_stalled(self.config.body_timeout);
                    if ended > 0 {
                        tracing::debug!(streams = ended, %peer, "streams ended: their answers are not read");
                        connected.are_stalled(ended);
                    }
                    // The deadline may have moved while we slept: only a connection that let it pass is dropped.
                    if activity.deadline(self.config.header_timeout, self.config.body_timeout) <= Instant::now() {
                        tracing::debug!(%peer, "connection dropped: idle, or its peer sends or reads nothing");
                        connected.is_slow();
                        return;
                    }
                }
            }
        }
    }
}

/// The service's answer; a plain 500 should it panic, so that one request's defect is not the whole connection's.
async fn guarded<S, F>(service: S, request: Request<Incoming>, peer: SocketAddr) -> Response<Body>
where
    S: Service<F>,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let instance = request.uri().path().to_owned();
    let answer = AssertUnwindSafe(async { service(request, peer).await }).catch_unwind();
    answer.await.unwrap_or_else(|_| {
        let error = Error::internal("a request handler panicked; the panic is in the log");
        problem::reply(&error, &instance, "").into()
    })
}

#[cfg(test)]
mod tests;
