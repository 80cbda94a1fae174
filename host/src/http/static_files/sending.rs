//! The body of a file that is being sent.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use futures_util::Stream as _;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncReadExt as _, Take};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::io::ReaderStream;

/// The bytes that are read from the file at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Part of a file. It holds its permit until the client has read it.
pub(super) struct Sending {
    file: ReaderStream<Take<tokio::fs::File>>,
    /// The bytes that are not read from the file yet.
    rest: u64,
    _permit: OwnedSemaphorePermit,
}

impl Sending {
    /// Returns the body with `length` bytes of a file, from the byte `first`.
    pub(super) fn body(mut file: File, first: u64, length: u64, permit: OwnedSemaphorePermit) -> io::Result<Body> {
        if length == 0 {
            return Ok(Body::empty());
        }
        if first > 0 {
            file.seek(SeekFrom::Start(first))?;
        }
        let file = ReaderStream::with_capacity(tokio::fs::File::from_std(file).take(length), CHUNK_BYTES);
        Ok(Body::new(Self { file, rest: length, _permit: permit }))
    }
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(match ready!(Pin::new(&mut self.file).poll_next(context)) {
            Some(Ok(bytes)) => {
                self.rest = self.rest.saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                Some(Ok(Frame::data(bytes)))
            }
            Some(Err(error)) => Some(Err(error)),
            // The file was shortened. An error ends the response visibly.
            None if self.rest > 0 => {
                self.rest = 0;
                Some(Err(io::ErrorKind::UnexpectedEof.into()))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.rest == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest)
    }
}
