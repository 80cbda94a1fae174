//! One connection to one checked address: TCP, TLS for https, HTTP/1.1. Never looks up a name and never checks an
//! address: the caller has done both. Dropping a connection closes it, even in the middle of a response.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::failure::{Failure, Phase};
use super::origin::{Host, Scheme, Server};

/// Header lines of a message; more hit a limit.
pub(super) const MAX_HEADERS: usize = 100;
/// Header bytes of a message; more hit a limit.
pub(super) const MAX_HEADER_BYTES: usize = 64 * 1024;
/// The number of a name's addresses that are tried.
const MAX_ADDRESSES: usize = 4;

/// The trusted certificates.
#[derive(Debug, Clone, Default)]
pub enum Roots {
    /// The certificates that the system trusts.
    #[default]
    System,
    /// Only these, each in DER.
    Only(Vec<Vec<u8>>),
}

/// The TLS configuration, created when it is first needed.
#[derive(Default)]
pub(super) struct Tls {
    roots: Roots,
    config: OnceCell<Arc<ClientConfig>>,
}

impl Tls {
    pub(super) fn new(roots: Roots) -> Self {
        Self { roots, config: OnceCell::new() }
    }

    async fn connector(&self) -> Result<TlsConnector, Failure> {
        let create = || async {
            let mut trusted = RootCertStore::empty();
            let roots = match self.roots.clone() {
                Roots::Only(roots) => roots.into_iter().map(CertificateDer::from).collect(),
                // Reads files.
                Roots::System => spawn_blocking(rustls_native_certs::load_native_certs)
                    .await
                    .map(|loaded| loaded.certs)
                    .unwrap_or_default(),
            };
            trusted.add_parsable_certificates(roots);
            if trusted.is_empty() {
                // Not cached: the next request reads the files again.
                let reason = "the system trusts no certificates, so plugins cannot send requests over https";
                tracing::error!("{reason}");
                return Err(Failure::Internal(reason.to_owned()));
            }
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| Failure::Protocol(format!("TLS cannot be set up: {error}")))?;
            let mut config = config.with_root_certificates(trusted).with_no_client_auth();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Ok(Arc::new(config))
        };
        self.config.get_or_try_init(create).await.map(|config| TlsConnector::from(Arc::clone(config)))
    }
}

/// A connection that speaks HTTP/1.1.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) begun: Instant,
    sender: SendRequest<Full<Bytes>>,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The error of a request that got no response.
pub(super) struct SendError {
    pub(super) error: hyper::Error,
    /// Nothing of the request was sent.
    pub(super) unsent: bool,
}

impl Connection {
    /// Connects to the first address that accepts.
    ///
    /// # Errors
    /// No address accepts within `limit` and before `end`.
    pub(super) async fn open(
        server: &Server,
        addresses: &[SocketAddr],
        tls: &Tls,
        limit: Duration,
        end: Instant,
    ) -> Result<Self, Failure> {
        let begun = Instant::now();
        let until = end.min(begun + limit);
        let stream = connect(server, addresses, until).await?;
        // Small requests are sent without delay. Without this option they are only slower.
        let _ = stream.set_nodelay(true);
        match server.scheme {
            Scheme::Http => Self::speak(stream, begun).await,
            Scheme::Https => {
                let name = match &server.host {
                    Host::Name(name) => ServerName::try_from(name.clone())
                        .map_err(|_| Failure::Invalid(format!("{name} is not a name that a certificate can have")))?,
                    Host::Address(address) => ServerName::from(*address),
                };
                let handshake = async { Ok(tls.connector().await?.connect(name, stream).await) };
                match timeout_at(until, handshake).await {
                    Err(_) => Err(Phase::Tls.timeout()),
                    Ok(Err(failure)) => Err(failure),
                    Ok(Ok(Err(error))) => {
                        Err(Failure::Protocol(format!("the TLS handshake with {server} failed: {error}")))
                    }
                    Ok(Ok(Ok(stream))) => Self::speak(stream, begun).await,
                }
            }
        }
    }

    async fn speak<S>(stream: S, begun: Instant) -> Result<Self, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // Only sets up the state machine; nothing is sent or awaited.
        let (sender, connection) = Builder::new()
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEADER_BYTES)
            .max_buf_size(MAX_HEADER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::Unreachable(format!("the connection broke: {error}")))?;
        let task = tokio::spawn(async move {
            // The caller that waits for the response gets the same error.
            let _ = connection.await;
        });
        Ok(Self { begun, sender, task: task.abort_handle() })
    }

    /// Returns whether a request can be sent, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a request and returns the response's head.
    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, SendError> {
        if let Err(error) = self.sender.ready().await {
            return Err(SendError { error, unsent: true });
        }
        self.sender.try_send_request(request).await.map_err(|mut failed| {
            let unsent = failed.take_message().is_some();
            SendError { error: failed.into_error(), unsent }
        })
    }
}

async fn connect(server: &Server, addresses: &[SocketAddr], until: Instant) -> Result<TcpStream, Failure> {
    let mut failure = Failure::Unreachable(format!("{server} has no address"));
    let mut left = addresses.len().min(MAX_ADDRESSES);
    for address in addresses.iter().take(MAX_ADDRESSES) {
        // Each address gets an equal share of the time left, so that a silent one does not use all of it.
        let now = Instant::now();
        let share = until.saturating_duration_since(now) / u32::try_from(left.max(1)).unwrap_or(1);
        failure = match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => Failure::Unreachable(format!("{server} cannot be connected to: {}", error.kind())),
            Err(_) => Phase::Connect.timeout(),
        };
        left = left.saturating_sub(1);
    }
    Err(failure)
}
