//! The test support: throwaway servers and hosts, clients and components. Knows nothing about any single test.

pub(crate) mod authenticator;
pub(crate) mod backend;
pub(crate) mod browser;
pub(crate) mod client;
pub(crate) mod compiled_components;
pub(crate) mod compiled_functions;
pub(crate) mod component;
pub(crate) mod courier;
pub(crate) mod event_source;
pub(crate) mod files;
pub(crate) mod gate;
pub(crate) mod host;
pub(crate) mod http2_frames;
pub(crate) mod intake;
pub(crate) mod issuer;
pub(crate) mod load;
pub(crate) mod mail;
pub(crate) mod own_process;
pub(crate) mod packages;
pub(crate) mod passkey;
pub(crate) mod patience;
pub(crate) mod pgbouncer;
pub(crate) mod polling;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod remote;
pub(crate) mod secret_watch;
pub(crate) mod small_disk;
pub(crate) mod statement_log;
pub(crate) mod worker;

pub(crate) use backend::{Backend, both};
pub(crate) use client::{Client, Request, TestResponse};
pub(crate) use component::Component;
pub(crate) use host::{Setup, TestHost};
pub(crate) use load::Load;
