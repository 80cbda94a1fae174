//! Wharf: a backend in one binary whose business routes are sandboxed WebAssembly components. `ARCHITECTURE.md` beside
//! this crate is the map.

pub mod address;
pub mod auth;
pub mod clock;
pub mod config;
pub mod db;
pub mod email;
pub mod error;
pub mod http;
pub mod id;
pub mod route;
