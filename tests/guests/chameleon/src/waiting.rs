//! A call that waits for a server and then uses its capabilities, so that a test can change something in between.

use std::collections::BTreeMap;

use serde::Deserialize;
use wharf_sdk::prelude::*;
use wharf_sdk::sql::{self, params};
use wharf_sdk::{cache, http, log};

use crate::requests::Fetching;
use crate::standard;

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Waiting {
    url: String,
    /// The capabilities to use after the wait.
    then: Vec<String>,
    in_transaction: bool,
}

fn outcome<T, E: std::fmt::Debug>(result: Result<T, E>) -> String {
    result.map_or_else(|error| format!("{error:?}"), |_| "ok".to_owned())
}

/// Writes in a transaction, if there is to be one, waits for a server, uses each named capability and commits. Returns
/// the outcome of each.
#[post("/wait-then", access = public)]
pub(crate) fn wait_then(Json(waiting): Json<Waiting>) -> Json<BTreeMap<String, String>> {
    let mut outcomes = BTreeMap::new();
    let mut wait = || {
        let _ = http::request("GET", &waiting.url).send();
        for name in &waiting.then {
            outcomes.insert(name.clone(), attempt(name, &waiting.url));
        }
    };
    if !waiting.in_transaction {
        wait();
        return Json(outcomes);
    }
    let committed = sql::transaction(|transaction| {
        let id = Uuid::new_v4();
        let written = params![id, id.to_string()];
        transaction.execute("INSERT INTO note (id, text) VALUES ($1, $2)", written)?;
        wait();
        Ok::<_, sql::Error>(())
    });
    outcomes.insert("commit".to_owned(), outcome(committed));
    Json(outcomes)
}

fn attempt(capability: &str, url: &str) -> String {
    match capability {
        "sql" => outcome(sql::query_value::<i64>("SELECT COUNT(*) FROM note", params![])),
        "cache" => outcome(cache::set("key", b"value", None, &[])),
        "http" => outcome(http::request("GET", url).send()),
        "standard" => outcome(standard::fetch(&Fetching {
            url: url.to_owned(),
            method: None,
            headers: Vec::new(),
            body: String::new(),
            timeout_ms: None,
            redirects: None,
            times: None,
        })),
        "log" => {
            log::info("after the wait", &[]);
            "ok".to_owned()
        }
        other => format!("unknown: {other}"),
    }
}
