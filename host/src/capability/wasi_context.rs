//! The WASI context of one call: time, randomness and output, and nothing else. Every line of standard output and
//! standard error becomes an entry of the plugin's log, within the plugin's log rate.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::clocks::HostWallClock;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use super::call_context::CallContext;
use super::log::{Level, PluginLog};
use super::{Limit, Usage};
use crate::clock::Clock;

/// The most random bytes that a guest may request at once.
const MAX_RANDOM: u64 = 64 * 1024;
/// The most bytes of one output line; the rest becomes the next line. Also the most bytes of one write: the host does
/// not check a guest while it is in a host function, so a write of many lines must still end within the current tick.
const MAX_LINE: usize = 4 * 1024;

/// Creates the context of one call.
pub(super) fn wasi_context(
    call: &Arc<CallContext>,
    log: &Arc<PluginLog>,
    usage: &Arc<Usage>,
    clock: &Clock,
) -> WasiCtx {
    let output = |level| {
        let (call, log, usage) = (Arc::clone(call), Arc::clone(log), Arc::clone(usage));
        Output { line: Arc::new(Mutex::new(Line { level, text: Vec::new(), call, log, usage })) }
    };
    WasiCtx::builder()
        .stdout(output(Level::Info))
        .stderr(output(Level::Warn))
        .wall_clock(WallClock(clock.clone()))
        .max_random_size(MAX_RANDOM)
        .allow_tcp(false)
        .allow_udp(false)
        .build()
}

struct WallClock(Clock);

impl HostWallClock for WallClock {
    fn resolution(&self) -> Duration {
        Duration::from_micros(1)
    }

    fn now(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.now().0).unwrap_or(0))
    }
}

/// Standard output or standard error of a call.
#[derive(Clone)]
struct Output {
    line: Arc<Mutex<Line>>,
}

struct Line {
    level: Level,
    text: Vec<u8>,
    call: Arc<CallContext>,
    log: Arc<PluginLog>,
    usage: Arc<Usage>,
}

impl Line {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' || self.text.len() >= MAX_LINE {
                self.end();
            }
            if byte != b'\n' {
                self.text.push(byte);
            }
        }
    }

    fn end(&mut self) {
        if !self.text.is_empty() {
            let text = String::from_utf8_lossy(&self.text).into_owned();
            if !self.log.write(&self.call, self.level, &text, &[]) {
                self.usage.hit(Limit::LogRate);
            }
            self.text.clear();
        }
    }
}

impl Drop for Line {
    /// Logs the unfinished line of a guest that ends or traps in the middle of it.
    fn drop(&mut self) {
        self.end();
    }
}

impl Output {
    fn push(&self, bytes: &[u8]) {
        if let Ok(mut line) = self.line.lock() {
            line.write(bytes);
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > MAX_LINE {
            return Err(StreamError::trap("a write exceeded the size that `check-write` permits"));
        }
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_LINE)
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
