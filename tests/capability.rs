//! What plugins import, seen through a guest that uses all of it.

mod auth;
mod cache;
mod config;
mod http;
mod log;
mod response_cache;
mod sql;
mod standard_http;

use crate::support::host::CHAMELEON;
use crate::support::{Component, TestHost};

/// A second plugin of the same code.
async fn deploy_twin(host: &TestHost) {
    host.superuser().deploy(&Component::chameleon().0, &format!("{CHAMELEON}&name=twin")).await.ok();
}
