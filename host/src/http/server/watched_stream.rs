//! The socket of a connection as hyper uses it. hyper answers a head that it cannot parse by itself, with an empty
//! response that has neither a problem nor CORS headers. This wrapper holds such a response back and keeps the socket,
//! so that `refused_head` can respond instead.
//!
//! A response that hyper wrote by itself is recognized by three facts together: no request is being handled and no
//! response is being sent, so no bytes of a body can be meant; the bytes are one whole head with a status of 4xx and an
//! empty body; and the head has no `x-request-id`, which every response of the service has.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::activity::Activity;
use super::head_scan::HeadScan;

/// The beginning of an HTTP/2 connection.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n";

/// A head that hyper refused: the socket, and the part of the head that was recognized.
pub(super) struct Refused {
    pub(super) stream: TcpStream,
    pub(super) scan: HeadScan,
    /// The status that hyper chose.
    pub(super) status: StatusCode,
}

/// Where the socket is found after hyper has dropped it.
pub(super) type RefusedSlot = Arc<Mutex<Option<Refused>>>;

/// A socket whose heads are watched.
pub(super) struct WatchedStream {
    /// `None` after the drop only.
    stream: Option<TcpStream>,
    activity: Arc<Activity>,
    scan: HeadScan,
    /// The head behind the one that is being scanned, if a pipelining client has sent some of it already.
    next: HeadScan,
    /// The number of requests before the head that is being scanned.
    begun: u64,
    /// Whether the head that is being scanned began right behind the head before it, so that no byte is one of a body.
    is_adjacent: bool,
    is_http2: bool,
    held_back: Option<StatusCode>,
    slot: RefusedSlot,
}

impl WatchedStream {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>, slot: RefusedSlot) -> Self {
        Self {
            stream: Some(stream),
            activity,
            scan: HeadScan::default(),
            next: HeadScan::default(),
            begun: 0,
            is_adjacent: false,
            is_http2: false,
            held_back: None,
            slot,
        }
    }

    fn stream(&mut self) -> Result<Pin<&mut TcpStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| std::io::ErrorKind::NotConnected.into())
    }

    /// Notes the bytes of a head. Bytes that arrive while a request is handled belong to its body.
    fn note(&mut self, bytes: &[u8]) {
        if self.is_http2 {
            return;
        }
        self.follow();
        if self.begun == 0 && bytes.starts_with(HTTP2) {
            self.is_http2 = true;
        } else if self.is_adjacent || self.activity.is_idle() {
            let after = self.scan.read(bytes);
            if self.scan.is_complete() && !self.scan.has_body() {
                self.next.read(after);
            }
        }
    }

    /// Moves on to the head behind those of the requests that have begun.
    fn follow(&mut self) {
        let begun = self.activity.begun();
        if begun == self.begun {
            return;
        }
        let next = std::mem::take(&mut self.next);
        // Of more than one request in the same bytes, nothing is known about the last one.
        self.is_adjacent = begun == self.begun.saturating_add(1) && self.scan.is_complete() && !self.scan.has_body();
        self.scan = if self.is_adjacent { next } else { HeadScan::default() };
        self.begun = begun;
    }

    /// Returns whether the bytes are a response that hyper wrote by itself, or more of what follows one.
    fn holds_back(&mut self, bytes: &[u8]) -> bool {
        if self.held_back.is_none() && !self.is_http2 && self.activity.is_idle() {
            self.held_back = automatic_status(bytes);
        }
        self.held_back.is_some()
    }
}

/// Returns the status of a response that hyper wrote by itself.
fn automatic_status(bytes: &[u8]) -> Option<StatusCode> {
    let head = std::str::from_utf8(bytes.strip_suffix(b"\r\n\r\n")?).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.get(1..)?.trim_start().get(..3)?.parse::<StatusCode>().ok()?;
    let (mut is_empty, mut is_ours) = (false, false);
    for line in lines {
        is_empty |= line == "content-length: 0";
        // An empty line begins a second message.
        is_ours |= line.is_empty() || line.starts_with("x-request-id:");
    }
    (status.is_client_error() && is_empty && !is_ours).then_some(status)
}

impl AsyncRead for WatchedStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        ready!(self.stream()?.poll_read(context, buffer))?;
        self.note(buffer.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        if self.holds_back(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        self.stream()?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        // hyper writes a head without a body as one slice.
        let mut filled = slices.iter().filter(|slice| !slice.is_empty());
        if let (Some(only), None) = (filled.next(), filled.next())
            && self.holds_back(only)
        {
            return Poll::Ready(Ok(only.len()));
        }
        self.stream()?.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(TcpStream::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.stream()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        if self.held_back.is_some() {
            return Poll::Ready(Ok(()));
        }
        self.stream()?.poll_shutdown(context)
    }
}

impl Drop for WatchedStream {
    fn drop(&mut self) {
        if let (Some(status), Some(stream)) = (self.held_back, self.stream.take()) {
            self.follow();
            let scan = std::mem::take(&mut self.scan);
            *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Refused { stream, scan, status });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_response_of_hyper_itself_is_held_back() {
        let status = |text: &str| automatic_status(text.as_bytes()).map(|status| status.as_u16());
        let date = "date: Sun, 29 Nov 2026 20:00:00 GMT";
        assert_eq!(status(&format!("HTTP/1.1 414 URI Too Long\r\ncontent-length: 0\r\n{date}\r\n\r\n")), Some(414));
        assert_eq!(status(&format!("HTTP/1.0 400 Bad Request\r\ncontent-length: 0\r\n{date}\r\n\r\n")), Some(400));
        for other in [
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nx-request-id: 1\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\nmore",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nHTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 414 URI Too Long\r\ncontent-length: 0\r\n",
            "\r\n\r\n",
            "",
        ] {
            assert_eq!(status(other), None, "{other}");
        }
    }
}
