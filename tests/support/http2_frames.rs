//! HTTP/2 frame by frame, for requests that no client library would send.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// One connection.
pub(crate) struct Wire(TcpStream);

/// A received frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Wire {
    /// Connects, and sets the initial window of each stream: the number of bytes that the host may send.
    pub(crate) async fn connect(addr: SocketAddr, window: u32) -> Self {
        let mut wire = Self(TcpStream::connect(addr).await.unwrap());
        wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
        wire.send(&frame(SETTINGS, 0, 0, &settings)).await;
        wire
    }

    /// Sends bytes. Returns whether the connection took them.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok()
    }

    pub(crate) async fn get(&mut self, stream: u32, path: &str) -> bool {
        self.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &head(path))).await
    }

    /// Widens the window of a stream, or of the connection (stream 0), by the given number of bytes.
    pub(crate) async fn widen(&mut self, stream: u32, bytes: u32) -> bool {
        self.send(&frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())).await
    }

    /// Returns the next frame, or `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Returns the next frame of a kind on a stream, or `None` at the end of the connection.
    pub(crate) async fn next_of(&mut self, kind: u8, stream: u32) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if (frame.kind, frame.stream) == (kind, stream) {
                return Some(frame);
            }
        }
    }
}

/// Encodes a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Encodes the headers of a GET.
pub(crate) fn head(path: &str) -> Vec<u8> {
    // `:method: GET` and `:scheme: http` of the static table, then `:path` and `:authority` by their names in it.
    let mut head = vec![0x82, 0x86, 0x04];
    text(&mut head, path);
    head.push(0x01);
    text(&mut head, "x");
    head
}

/// Encodes a header that is not added to the dynamic table.
pub(crate) fn header(name: &str, value: &str) -> Vec<u8> {
    let mut header = vec![0];
    text(&mut header, name);
    text(&mut header, value);
    header
}

/// Encodes a text without Huffman coding: its length in seven bits, continued in groups of seven, then its bytes.
fn text(head: &mut Vec<u8>, text: &str) {
    match text.len().checked_sub(127) {
        None => head.push(u8::try_from(text.len()).unwrap()),
        Some(mut rest) => {
            head.push(127);
            while rest >= 128 {
                head.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            head.push(u8::try_from(rest).unwrap());
        }
    }
    head.extend_from_slice(text.as_bytes());
}
