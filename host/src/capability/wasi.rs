//! The harmless part of WASI 0.2, always linked: clocks, randomness, stdio into the plugin's log, and an environment and
//! a filesystem with nothing in them. Sockets are not linked at all.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::component::{HasData, Linker, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream, WasiCli, WasiCliView};
use wasmtime_wasi::clocks::{HostWallClock, WasiClocks, WasiClocksView};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::{cli, clocks, filesystem, random};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::random::WasiRandom;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::guest::{CallContext, Guest};
use super::log::{Level, PluginLog};
use super::{Limit, Usage};
use crate::clock::Clock;

/// Packages of which some interfaces are linked for everybody.
pub const PACKAGES: &[&str] = &["wasi:cli", "wasi:clocks", "wasi:filesystem", "wasi:io", "wasi:random"];

/// Random bytes a guest may ask for at once.
const MAX_RANDOM: u64 = 64 * 1024;
/// Bytes of one output line; the rest becomes the next line. And of one write, which takes no longer than the rest of a tick
/// then, however many lines it has: nothing looks at a guest while it is in the host.
const MAX_LINE: usize = 4 * 1024;

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let (ctx, table) = self.wasi();
        WasiCtxView { ctx, table }
    }
}

struct HasIo;

impl HasData for HasIo {
    type Data<'a> = &'a mut ResourceTable;
}

/// Defines the functions.
///
/// # Errors
/// A defect of the host.
pub fn link(l: &mut Linker<Guest>) -> wasmtime::Result<()> {
    use wasmtime_wasi_io::bindings::wasi::io;
    io::error::add_to_linker::<Guest, HasIo>(l, |guest| &mut guest.table)?;
    io::poll::add_to_linker::<Guest, HasIo>(l, |guest| &mut guest.table)?;
    io::streams::add_to_linker::<Guest, HasIo>(l, |guest| &mut guest.table)?;
    clocks::wall_clock::add_to_linker::<Guest, WasiClocks>(l, Guest::clocks)?;
    clocks::monotonic_clock::add_to_linker::<Guest, WasiClocks>(l, Guest::clocks)?;
    random::random::add_to_linker::<Guest, WasiRandom>(l, |guest| guest.ctx().ctx.random())?;
    random::insecure::add_to_linker::<Guest, WasiRandom>(l, |guest| guest.ctx().ctx.random())?;
    random::insecure_seed::add_to_linker::<Guest, WasiRandom>(l, |guest| guest.ctx().ctx.random())?;
    cli::exit::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::environment::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::stdin::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::stdout::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::stderr::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_input::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_output::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_stdin::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_stdout::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_stderr::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    filesystem::preopens::add_to_linker::<Guest, WasiFilesystem>(l, Guest::filesystem)?;
    filesystem::types::add_to_linker::<Guest, WasiFilesystem>(l, Guest::filesystem)?;
    Ok(())
}

/// The context of one call: nothing in it but time, randomness and output.
pub(super) fn context(call: &Arc<CallContext>, log: &Arc<PluginLog>, usage: &Arc<Usage>, clock: &Clock) -> WasiCtx {
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

/// Standard output or error of a call: every line becomes a log entry of the plugin.
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
    /// A guest that ends or traps in the middle of a line still leaves it in the log.
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
            return Err(StreamError::trap("more was written at once than `check-write` allows"));
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
