//! Deploys, limits and removals, through the operator API and the plugins' own routes.

mod breaker;
mod canary;
pub(crate) mod compile;
mod declared_messages;
mod dependency;
mod deploy;
mod deploy_rejection;
mod deploy_rejection_under_load;
mod deploy_under_load;
mod digest;
mod emergencies;
mod grants;
mod job;
mod limit_overrides;
mod limits;
mod lost_response;
mod many_plugins;
mod memory_accounting;
mod numbers;
mod overtaken_deploy;
mod pages;
mod quotas;
pub(crate) mod releases;
mod removal;
mod responses;
mod signature;
mod start;
mod statement_cancellation;
mod webhooks;

use serde_json::{Value, json};

use crate::support::{Client, Component, TestHost, TestResponse};

/// Returns the default declaration of a liar: one public route at its mount that responds with `answer`.
pub(crate) fn declaration() -> Value {
    json!({
        "name": "liar",
        "version": "1.0.0",
        "routes": [{ "method": "GET", "path": "/", "access": "public", "operation": {} }],
        "answer": "one",
    })
}

/// Returns a liar with some members of the declaration changed.
pub(crate) fn liar(changes: Value) -> Component {
    let mut declaration = declaration();
    for (name, value) in changes.as_object().unwrap() {
        declaration[name] = value.clone();
    }
    Component::liar(&declaration)
}

/// Deploys with settings, which are sent as a part of the body.
pub(crate) async fn deploy_with_settings(
    client: &Client,
    component: &Component,
    grant: &str,
    settings: &Value,
) -> TestResponse {
    client.deploy_with_settings(&component.0, &format!("grant={grant}"), &settings.to_string()).await
}

/// Returns all plugins as the operator API lists them.
pub(crate) async fn plugins(host: &TestHost) -> Value {
    host.superuser().get("/plugins/").await.ok()
}
