//! The contract of the HTTP API, tested from outside as a client uses it.

mod access_matrix;
mod api_keys;
mod audit;
mod body;
mod client_origin;
mod compression;
mod content_coding;
mod cookies;
mod cors;
mod dev_mail;
mod email;
mod event_stream;
mod head;
mod health;
mod host_events;
mod invitations;
mod item_events;
mod items;
mod login;
mod mails;
pub(crate) mod metrics;
mod oidc;
mod openapi;
mod passkeys;
mod passwords;
mod private;
mod problem;
mod recovery;
mod response_body;
mod rfc;
mod roles;
mod second_factor;
mod sessions;
mod settings;
mod signing_keys;
mod static_files;
mod step_up;
mod tasks;
mod throttle;
mod token_confusion;
mod tokens;
mod users;
mod utils;
mod verification;

use serde_json::Value;

use crate::support::TestResponse;

/// The members of an account, in order.
const USER: [&str; 6] = ["email", "is_active", "is_superuser", "full_name", "id", "created_at"];

const INVALID_TOKEN: &str = "Could not validate credentials";
const PRIVILEGES: &str = "The user doesn't have enough privileges";

/// Returns the names of an object's members, in order.
#[track_caller]
fn members(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("not an object: {value}")).keys().map(String::as_str).collect()
}

/// Returns a member that is a string.
#[track_caller]
fn text<'v>(value: &'v Value, member: &str) -> &'v str {
    value[member].as_str().unwrap_or_else(|| panic!("{member} is not a string: {value}"))
}

/// Returns the values of one member for all rows of a list's `data`.
#[track_caller]
fn column<'v>(list: &'v Value, member: &str) -> Vec<&'v str> {
    list["data"].as_array().unwrap().iter().map(|row| text(row, member)).collect()
}

/// Checks a 401 for missing credentials, with the challenge.
#[track_caller]
fn not_authenticated(response: &TestResponse) {
    response.is_problem(401, "not_authenticated", "Not authenticated");
    assert_eq!(response.header("www-authenticate"), Some("Bearer"));
}

/// Checks a 401 for an invalid token, with no hint at the reason.
#[track_caller]
fn invalid_token(response: &TestResponse) {
    response.is_problem(401, "invalid_token", INVALID_TOKEN);
    assert_eq!(response.header("www-authenticate"), Some(r#"Bearer error="invalid_token""#));
}

/// Checks that a row has a UUID of version 4 and a UTC timestamp.
#[track_caller]
fn is_stamped(row: &Value) {
    let id = text(row, "id");
    let uuid = uuid::Uuid::parse_str(id).unwrap();
    assert_eq!((uuid.get_version_num(), uuid.hyphenated().to_string().as_str()), (4, id));
    let at = text(row, "created_at");
    assert!(at.len() >= "2026-11-23T14:35:13Z".len() && at.as_bytes()[10] == b'T' && at.ends_with('Z'), "{at}");
}
