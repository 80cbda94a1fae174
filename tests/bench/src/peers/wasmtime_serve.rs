//! `wasmtime serve` with its default settings, and the same greeting as a component of `wasi:http`.

use std::path::Path;
use std::process::Command;

use super::{Peer, Server, installed};
use crate::Failure;
use crate::free_address::free_address;
use crate::load::Request;
use crate::routes::route;

pub(super) const NAME: &str = "wasmtime serve";

const COMPONENT: &str = "target/wasm32-wasip2/plugin/proxy.wasm";

pub(super) fn start(_directory: &Path) -> Result<Peer, Failure> {
    let address = free_address()?.to_string();
    let url = format!("http://{address}/");
    let mut command = Command::new(installed("bin/wasmtime")?);
    // The standard library imports the interfaces of `wasi:cli`.
    command.args(["serve", "-S", "cli", "--addr", &address, COMPONENT]);
    let server = Server::start(&mut command, &url)?;
    let requests = vec![(route::HELLO, Request::get(url))];
    Ok(Peer { name: NAME, processes: vec![server.pid()], requests, _server: server, _database: None })
}
