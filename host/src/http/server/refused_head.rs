//! The response to a request whose head hyper could not parse: a problem with CORS headers, as for every other request.
//!
//! The rest of the head is read first, within bounds, because it can hold the `Origin`, and because TCP loses the
//! response if a connection is closed while the client is sending. The connection ends after the response, because
//! nobody knows where the next request would begin.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::ORIGIN;
use axum::http::{Method, Request, Response, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::lingering_close::{MAX_DISCARD_TIME, MAX_DISCARDED_BYTES};
use super::super::request_head;
use super::watched_stream::Refused;
use crate::error::{Error, Kind, code};

/// Maximum number of headers of one request. More give a 431.
pub(super) const MAX_HEADERS: usize = 100;

/// Maximum size of all headers of one request, over HTTP/1.1 with the request line. More bytes give a 431.
pub(super) const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Returns the response to a request whose head cannot be parsed. The request has the parts that were recognized.
pub type Refuse = dyn Fn(Error, Request<()>, SocketAddr) -> Response<Body> + Send + Sync;

/// The most bytes of a head that are read in search of its end.
const MAX_HEAD_BYTES: usize = 1024 * 1024;

/// How long the rest of a head may pause. hyper refuses some heads before they end, and some have no end, so a longer
/// pause means that nothing will come.
const MAX_PAUSE: Duration = Duration::from_millis(250);

/// Responds to a refused head and closes the connection. `refuse` makes the response. Takes `limit` at most for each of
/// reading, responding and waiting.
pub(super) async fn respond(mut refused: Refused, refuse: &Refuse, peer: SocketAddr, limit: Duration) {
    let _ = timeout(limit, read_rest(&mut refused)).await;
    let scan = &refused.scan;
    let is_head = scan.is_head();
    let mut request = Request::new(());
    if is_head {
        *request.method_mut() = Method::HEAD;
    }
    if let Some(origin) = scan.origin() {
        request.headers_mut().insert(ORIGIN, origin.clone());
    }
    let response = refuse(reason(&refused), request, peer);
    let mut stream = refused.stream;
    if timeout(limit, write(&mut stream, is_head, response)).await.is_ok() {
        let _ = timeout(limit.min(MAX_DISCARD_TIME), discard(&mut stream)).await;
    }
}

fn reason(refused: &Refused) -> Error {
    let is_long = refused.scan.request_line_bytes() > request_head::MAX_URL_BYTES;
    match refused.status {
        StatusCode::URI_TOO_LONG => request_head::url_too_long(),
        // The URL alone filled the buffer.
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE if is_long => request_head::url_too_long(),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            let text = format!(
                "The request has more than {MAX_HEADERS} headers, or more than {MAX_HEADER_BYTES} bytes of them"
            );
            Error::new(Kind::HeadersTooLarge, code::HEADERS_TOO_LARGE, text)
        }
        _ => request_head::malformed("The request is not valid HTTP"),
    }
}

async fn read_rest(refused: &mut Refused) {
    if !refused.scan.has_method() {
        return;
    }
    let mut piece = vec![0; 16 * 1024];
    let mut read = 0_usize;
    while !refused.scan.is_complete() && read < MAX_HEAD_BYTES {
        match timeout(MAX_PAUSE, refused.stream.read(&mut piece)).await {
            Ok(Ok(length)) if length > 0 => {
                read = read.saturating_add(length);
                refused.scan.read(piece.get(..length).unwrap_or_default());
            }
            _ => return,
        }
    }
}

/// Writes a response, and ends the sending half of the connection. hyper serves it as the response to a request that is
/// known to be valid.
async fn write(stream: &mut TcpStream, is_head: bool, response: Response<Body>) {
    let request: &[u8] = match is_head {
        true => b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n",
        false => b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    };
    let response = Cell::new(Some(response));
    let service = service_fn(move |_| {
        let response = response.take().unwrap_or_default();
        async { Ok::<_, Infallible>(response) }
    });
    let io = TokioIo::new(tokio::io::join(request, stream));
    let served = http1::Builder::new().keep_alive(false).half_close(true).serve_connection(io, service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "the response to an invalid head was not written");
    }
}

async fn discard(stream: &mut TcpStream) {
    let mut piece = vec![0; 16 * 1024];
    let mut seen = 0_usize;
    while let Ok(length) = stream.read(&mut piece).await {
        seen = seen.saturating_add(length);
        if length == 0 || seen > MAX_DISCARDED_BYTES {
            return;
        }
    }
}
