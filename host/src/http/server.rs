//! The server: accepts and limits connections, reads HTTP/1.1 and HTTP/2 from them, and passes each request to a
//! service.
//!
//! Owns every limit that applies before a request is complete: the number of connections, the time for sending headers,
//! for being idle and for reading a response, and the size of headers. Also owns the graceful shutdown. Never looks
//! into a request, unless hyper cannot parse its head.

mod activity;
mod head_scan;
mod http2_streams;
mod refused_head;
mod response_body;
mod watched_stream;

use std::convert::Infallible;
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

use self::activity::Activity;
use self::http2_streams::StreamExecutor;
use self::refused_head::{MAX_HEADER_BYTES, MAX_HEADERS};
use self::response_body::ResponseBody;
use self::watched_stream::{RefusedSlot, WatchedStream};
use super::problem;
use super::traffic::Traffic;
use crate::config;
use crate::error::{Error, Result};

pub use self::refused_head::Refuse;

/// Maximum number of open streams of one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;

/// Interval of the pings to a silent HTTP/2 client.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Pause after the system refused a connection because it lacks file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Marks a response, as an extension of it, whose body has times without anything to read: a stream of events. A client
/// that waits for more is not slow.
#[derive(Debug, Clone, Copy)]
pub(super) struct LiveBody;

/// Handles requests: called once per request, with the address of the client. It always returns a response. If it
/// panics, the client gets a plain 500.
pub trait Service<F>: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static {}

impl<S, F> Service<F> for S where S: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static {}

/// Serves `listener` until `shutdown`. Then lets in-flight requests finish within `server.shutdown_grace` and cuts the
/// others.
///
/// # Errors
/// None at present. The signature allows for listeners that can fail permanently.
pub async fn serve<S, F>(
    listener: TcpListener,
    config: Arc<config::Server>,
    traffic: Arc<Traffic>,
    service: S,
    refuse: Arc<Refuse>,
    shutdown: CancellationToken,
) -> Result<()>
where
    S: Service<F>,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let builder = builder(&config);
    // More connections wait in the queue of the kernel. Each accepted one costs a file, a task and a buffer.
    let permits = Arc::new(Semaphore::new(config.connections.min(Semaphore::MAX_PERMITS)));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();

    loop {
        let accepted = async {
            // The permit comes first: a connection that cannot be served yet stays in the queue of the kernel.
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
                    refuse: Arc::clone(&refuse),
                    shutdown: shutdown.clone(),
                };
                let cut = cut.clone();
                connections.spawn(async move {
                    let mut cut = cancelled(&cut);
                    // Dropping the connection also drops the handlers of its requests.
                    tokio::select! {
                        () = connection.run(stream, peer) => {}
                        Some(()) = cut.next() => {}
                    }
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
        tracing::warn!(connections = left, grace = ?config.shutdown_grace, "cut unfinished connections");
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

/// Waits for a token that all connections share. It is asked only when it woke the connection: to ask it takes two locks,
/// which all connections would contend for at each of their requests.
fn cancelled(token: &CancellationToken) -> FuturesUnordered<WaitForCancellationFuture<'_>> {
    std::iter::once(token.cancelled()).collect()
}

/// Returns whether the client disconnected between its SYN and our accept.
fn concerns_one_connection(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
}

struct Connection<S> {
    builder: Builder<StreamExecutor>,
    config: Arc<config::Server>,
    traffic: Arc<Traffic>,
    service: S,
    refuse: Arc<Refuse>,
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
                async move {
                    let response = response.await;
                    let is_live = response.extensions().get::<LiveBody>().is_some();
                    Ok::<_, Infallible>(response.map(|body| ResponseBody::new(body, request_guard, is_live)))
                }
            })
        };
        let refused = RefusedSlot::default();
        // hyper has dropped the socket when the block ends.
        {
            let stream = WatchedStream::new(stream, Arc::clone(&activity), Arc::clone(&refused));
            let connection = self.builder.serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let mut shutdown = cancelled(&self.shutdown);
            let mut stopping = false;
            loop {
                let deadline = activity.deadline(self.config.header_timeout, self.config.body_timeout);
                tokio::select! {
                    ended = connection.as_mut() => {
                        if let Err(error) = ended {
                            // The client disconnected or does not speak HTTP. An operator cannot act on that.
                            tracing::debug!(error, %peer, "connection ended early");
                            connected.is_broken();
                        }
                        break;
                    }
                    Some(()) = shutdown.next(), if !stopping => {
                        stopping = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    () = sleep_until(deadline) => {
                        let ended = activity.end_stalled(self.config.body_timeout);
                        if ended > 0 {
                            tracing::debug!(streams = ended, %peer, "streams reset: their responses are not read");
                            connected.are_stalled(ended);
                        }
                        // The deadline may have moved during the sleep, so check it again before dropping the
                        // connection.
                        if activity.deadline(self.config.header_timeout, self.config.body_timeout) <= Instant::now() {
                            tracing::debug!(%peer, "connection dropped: it is idle, or the client sends or reads nothing");
                            connected.is_slow();
                            break;
                        }
                    }
                }
            }
        }
        let refused = refused.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(refused) = refused {
            refused_head::respond(refused, &*self.refuse, peer, self.config.header_timeout).await;
        }
    }
}

/// Returns the response of the service, or a plain 500 if it panics, so that one defect does not end the whole
/// connection.
async fn guarded<S, F>(service: S, request: Request<Incoming>, peer: SocketAddr) -> Response<Body>
where
    S: Service<F>,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let instance = request.uri().path().to_owned();
    // Boxed, because hyper and the futures around this one would move it several times, and it is large.
    let response = AssertUnwindSafe(Box::pin(async { service(request, peer).await })).catch_unwind();
    response.await.unwrap_or_else(|_| {
        let error = Error::internal("a request handler panicked; the panic is in the log");
        problem::reply(&error, &instance, "").into()
    })
}

#[cfg(test)]
mod tests;
