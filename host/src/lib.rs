//! Wharf: a backend in one binary whose business routes are sandboxed WebAssembly components. `ARCHITECTURE.md` in this
//! crate's directory is the map.

pub mod address;
pub mod app;
pub mod audit;
pub mod auth;
pub mod cache;
pub mod capability;
pub mod cli;
pub mod clock;
pub mod config;
pub mod db;
pub mod egress;
pub mod email;
pub mod error;
pub mod http;
pub mod id;
pub mod initiator;
pub mod message;
pub mod network;
pub(crate) mod outage;
pub mod permission;
pub(crate) mod permits;
pub mod plugin;
pub mod public_key;
pub mod route;
pub mod shutdown;
pub mod signals;
pub mod telemetry;
