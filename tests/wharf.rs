//! The integration tests: one binary whose modules mirror `host/src`. They use only Wharf's public interface.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr,
    clippy::large_futures,
    reason = "a test reports by failing"
)]

mod app;
mod architecture;
mod attack;
mod capability;
mod cli;
mod conformance;
mod db;
mod egress;
mod generated_clients;
mod http;
mod plugin;
mod robustness;
mod support;
