//! A stand-in for a remote server, on loopback. A test sets its replies and reads the requests and the number of
//! connections that it got.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::polling::until;

/// The server's reaction to a request.
#[derive(Clone)]
pub(crate) enum Reply {
    /// Writes this and waits for the next request.
    Say(String),
    /// Does the same after a pause.
    Later(Duration, String),
    /// Writes this and closes the connection.
    Close(String),
    /// Writes this and then nothing, until the other side closes.
    Hang(String),
    /// Writes the first text, and then the second one repeatedly, with a pause before each.
    Endless(String, String, Duration),
}

impl Reply {
    /// Returns a response with this status and body.
    pub(crate) fn of(status: u16, body: &str) -> Self {
        Self::with(status, "", body)
    }

    /// Returns the same with header lines, each with its line break.
    pub(crate) fn with(status: u16, headers: &str, body: &str) -> Self {
        Self::Say(format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()))
    }

    /// Returns a redirect.
    pub(crate) fn to(status: u16, location: &str) -> Self {
        Self::with(status, &format!("location: {location}\r\n"), "elsewhere")
    }
}

type Responder = dyn Fn(&str) -> Reply + Send + Sync;

/// The server.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) addr: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    accepted: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
}

/// A certificate and its key.
pub(crate) struct Identity {
    pub(crate) certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Identity {
    pub(crate) fn of(name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        Self { certificate: made.cert.der().to_vec(), key: made.signing_key.serialize_der() }
    }
}

impl Remote {
    /// Starts a server. `answer` gets the text of each request.
    pub(crate) async fn start(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve(None, Arc::new(answer)).await
    }

    /// Starts the same server with TLS.
    pub(crate) async fn start_tls(identity: &Identity, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![identity.certificate.clone().into()],
                PrivateKeyDer::try_from(identity.key.clone()).unwrap(),
            )
            .unwrap();
        Self::serve(Some(Arc::new(config).into()), Arc::new(answer)).await
    }

    async fn serve(tls: Option<TlsAcceptor>, answer: Arc<Responder>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let remote = Self {
            addr: listener.local_addr().unwrap(),
            seen: Arc::default(),
            accepted: Arc::default(),
            closed: Arc::default(),
        };
        let serving = remote.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.accepted.fetch_add(1, Ordering::SeqCst);
                let (tls, answer, remote) = (tls.clone(), Arc::clone(&answer), serving.clone());
                tokio::spawn(async move {
                    match tls {
                        None => remote.talk(stream, &*answer).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                remote.talk(stream, &*answer).await;
                            }
                        }
                    }
                    remote.closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        remote
    }

    async fn talk(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &Responder) {
        while let Some(request) = read(&mut stream).await {
            self.seen.lock().unwrap().push(request.clone());
            match answer(&request) {
                Reply::Say(text) => {
                    if stream.write_all(text.as_bytes()).await.is_err() {
                        return;
                    }
                }
                Reply::Later(pause, text) => {
                    tokio::time::sleep(pause).await;
                    if stream.write_all(text.as_bytes()).await.is_err() {
                        return;
                    }
                }
                Reply::Close(text) => {
                    let _ = stream.write_all(text.as_bytes()).await;
                    let _ = stream.shutdown().await;
                    return;
                }
                Reply::Hang(text) => {
                    let _ = stream.write_all(text.as_bytes()).await;
                    let mut rest = [0; 1024];
                    while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
                    return;
                }
                Reply::Endless(first, again, pause) => {
                    let mut sent = stream.write_all(first.as_bytes()).await;
                    while sent.is_ok() {
                        tokio::time::sleep(pause).await;
                        sent = stream.write_all(again.as_bytes()).await;
                    }
                    return;
                }
            }
        }
    }

    /// Returns its origin.
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Returns the texts of the requests so far.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// Returns the number of connections that were opened.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Waits until the given number of requests arrived.
    pub(crate) async fn until_seen(&self, count: usize) {
        until("a request", async || (self.seen().len() >= count).then_some(())).await;
    }

    /// Waits until every connection is closed.
    pub(crate) async fn until_closed(&self) {
        let all = || self.closed.load(Ordering::SeqCst) == self.accepted();
        until("closed connections", async || all().then_some(())).await;
    }
}

/// Reads a request. Returns `None` at the end of the connection.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Some(text);
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// Returns an address at which no connect completes, because the accept queue is full. This lasts until the second
/// value is dropped.
pub(crate) async fn silent() -> (SocketAddr, impl Sized) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    for _ in 0..64 {
        match tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(addr)).await {
            Ok(stream) => queue.push(stream.unwrap()),
            Err(_) => return (addr, (listener, queue)),
        }
    }
    panic!("the queue of {addr} is never full");
}
