//! A watch for secrets in everything that the hosts of this process log, and in every refusal that a client gets, for the
//! whole suite. Clients report the secrets that they receive; a host that ends checks that none was found anywhere.

use std::collections::HashSet;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use serde_json::Value;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;

use super::host::PASSWORD;
use super::statement_log::{self, StatementLog};

/// The members of responses of the host that hold secrets.
const MEMBERS: [&str; 8] =
    ["access_token", "refresh_token", "challenge", "key", "secret", "recovery_codes", "uri", "csrf_token"];

/// The routes of the host whose responses hold secrets. Plugins may use the same names for other things.
const ROUTES: [&str; 3] = ["/api/v1/login/", "/api/v1/users/me", "/api/v1/keys/"];

/// Shorter words can occur by chance.
const SHORTEST: usize = 16;

static KNOWN: Mutex<Option<HashSet<String>>> = Mutex::new(None);
static FOUND: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts to watch the log, once for the process.
pub(crate) fn watch_log() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let log = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| Watched);
        let targets = Targets::new().with_target("wharf", LevelFilter::TRACE);
        let statements = Targets::new().with_target(statement_log::TARGET, LevelFilter::DEBUG);
        let subscriber =
            tracing_subscriber::registry().with(log.with_filter(targets)).with(StatementLog.with_filter(statements));
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
}

/// The log of the hosts. Each event is written with one call.
struct Watched;

impl Write for Watched {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        check("the log", &String::from_utf8_lossy(event));
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Remembers a secret.
pub(crate) fn remember(secret: &str) {
    // A URI holds its secret as a parameter, and the key of an app is written in groups.
    let secret = secret.split_once("secret=").map_or(secret, |(_, rest)| rest);
    let secret: String = secret.chars().take_while(|c| *c != '&').filter(|c| *c != ' ').collect();
    lock(&KNOWN).get_or_insert_default().extend(words(&secret).map(ToOwned::to_owned));
}

/// Checks a refusal, or remembers the secrets of another response.
pub(crate) fn see_response(path: &str, status: u16, body: &[u8]) {
    if status >= 400 {
        check(path, &String::from_utf8_lossy(body));
    }
    if ROUTES.iter().any(|route| path.starts_with(route))
        && let Ok(body) = serde_json::from_slice(body)
    {
        remember_members(&body);
    }
}

fn remember_members(body: &Value) {
    match body {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(secret) if MEMBERS.contains(&name.as_str()) => remember(secret),
                    Value::Array(secrets) if MEMBERS.contains(&name.as_str()) => {
                        secrets.iter().filter_map(Value::as_str).for_each(remember);
                    }
                    other => remember_members(other),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(remember_members),
        _ => {}
    }
}

/// Checks a text from one place.
pub(crate) fn check(place: &str, text: &str) {
    let known = lock(&KNOWN);
    let is_known = |word: &str| known.as_ref().is_some_and(|known| known.contains(word));
    // No hash of a password belongs there either.
    let found = text.contains(PASSWORD) || text.contains("$argon2") || words(text).any(is_known);
    drop(known);
    if found {
        lock(&FOUND).push(format!("{place}: {text}"));
    }
}

/// Expects that no secret was found so far.
#[track_caller]
pub(crate) fn expect_none() {
    let found = lock(&FOUND);
    assert!(found.is_empty(), "secrets were found in {found:#?}");
}

/// Returns the words that can be secrets.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.+/".contains(c);
    text.split(move |c| !is_part(c)).filter(|word| word.len() >= SHORTEST)
}
