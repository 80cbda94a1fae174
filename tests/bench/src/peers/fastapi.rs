//! FastAPI and SQLModel on PostgreSQL: `tests/bench/peers/fastapi_server.py`. The CPU time and the memory of PostgreSQL count.

use std::path::Path;
use std::process::Command;

use super::{Peer, Server, installed};
use crate::free_address::free_address;
use crate::load::Request;
use crate::postgres::Postgres;
use crate::routes::{BINARY, BODY_BYTES, JSON, NEW_ITEM, json_login, route};
use crate::wharf::{EMAIL, PASSWORD};
use crate::{Failure, ITEMS, LIST_LIMIT, plain};

pub(super) const NAME: &str = "FastAPI, PostgreSQL";

const PROGRAM: &str = "tests/bench/peers/fastapi_server.py";

pub(super) fn start(_directory: &Path) -> Result<Peer, Failure> {
    let python = installed("python/bin/python")?;
    let database = Postgres::start()?.ok_or("PostgreSQL is not installed")?;
    let address = free_address()?;
    let url = |path: &str| format!("http://{address}{path}");
    let mut command = Command::new(python);
    command.args([PROGRAM, &address.port().to_string()]).envs([
        ("DATABASE_URL", database.url().replace("postgres://", "postgresql+psycopg://")),
        ("BENCH_TOKEN", plain::TOKEN.to_owned()),
        ("BENCH_EMAIL", EMAIL.to_owned()),
        ("BENCH_PASSWORD", PASSWORD.to_owned()),
        ("BENCH_ITEMS", ITEMS.to_string()),
        ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
    ]);
    let server = Server::start(&mut command, &url("/hello"))?;
    let with_token = |request: Request| request.with_token(plain::TOKEN);
    let list = url(&format!("/items?limit={LIST_LIMIT}"));
    let requests = vec![
        (route::HELLO, Request::get(url("/hello"))),
        (route::ME, with_token(Request::get(url("/users/me")))),
        (route::LIST, with_token(Request::get(list))),
        (route::BODY, Request::post(url("/length"), BINARY, "x".repeat(BODY_BYTES))),
        (route::CREATE, with_token(Request::post(url("/items"), JSON, NEW_ITEM))),
        (route::LOGIN, Request::post(url("/login"), JSON, json_login())),
    ];
    let processes = vec![server.pid(), database.pid()];
    Ok(Peer { name: NAME, processes, requests, _server: server, _database: Some(database) })
}
