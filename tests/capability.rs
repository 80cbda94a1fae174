//! The capabilities that plugins import, tested through guests that use them.

mod auth;
mod cache;
mod config;
mod email;
mod events;
mod http;
mod jobs;
mod log;
mod response_cache;
mod schedules;
mod sql;
mod standard_http;
mod users;

use crate::support::host::CHAMELEON;
use crate::support::{Component, TestHost};

/// Deploys a second plugin from the same component.
async fn deploy_twin(host: &TestHost) {
    host.superuser().deploy(&Component::chameleon().0, &format!("{CHAMELEON}&name=twin")).await.ok();
}
