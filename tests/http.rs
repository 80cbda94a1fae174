//! The contract of the HTTP API, asked from outside as a client would ask.

mod body;
mod cors;
mod health;
mod items;
mod login;
mod mail;
pub(crate) mod metrics;
mod openapi;
mod private;
mod problem;
mod recovery;
mod response_body;
mod sessions;
mod static_files;
mod tokens;
mod users;
mod utils;

use serde_json::Value;

use crate::support::Answer;

/// The members of an account, in order.
const USER: [&str; 6] = ["email", "is_active", "is_superuser", "full_name", "id", "created_at"];

const INVALID_TOKEN: &str = "Could not validate credentials";
const PRIVILEGES: &str = "The user doesn't have enough privileges";

/// The names of an object's members, in order.
#[track_caller]
fn members(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}")).keys().map(String::as_str).collect()
}

/// A member that is a text.
#[track_caller]
fn text<'v>(value: &'v Value, member: &str) -> &'v str {
    value[member].as_str().unwrap_or_else(|| panic!("{member} is no text: {value}"))
}

/// The values of one member throughout a list's `data`.
#[track_caller]
fn column<'v>(list: &'v Value, member: &str) -> Vec<&'v str> {
    list["data"].as_array().unwrap().iter().map(|row| text(row, member)).collect()
}

/// Nobody asks without credentials: 401, and how to have them.
#[track_caller]
fn not_authenticated(answer: &Answer) {
    answer.is_problem(401, "not_authenticated", "Not authenticated");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
}

/// A token that is no good, for whatever reason: 401, and nothing that tells the reason.
#[track_caller]
fn invalid_token(answer: &Answer) {
    answer.is_problem(401, "invalid_token", INVALID_TOKEN);
    assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer error="invalid_token""#));
}

/// A UUID of version 4 as it is sent, and a timestamp of UTC.
#[track_caller]
fn is_stamped(row: &Value) {
    let id = text(row, "id");
    let uuid = uuid::Uuid::parse_str(id).unwrap();
    assert_eq!((uuid.get_version_num(), uuid.hyphenated().to_string().as_str()), (4, id));
    let at = text(row, "created_at");
    assert!(at.len() >= "2026-11-23T14:35:13Z".len() && at.as_bytes()[10] == b'T' && at.ends_with('Z'), "{at}");
}
