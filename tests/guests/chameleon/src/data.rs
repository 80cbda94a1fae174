//! Calls to the database.

use serde::{Deserialize, Serialize};
use wharf_sdk::prelude::*;
use wharf_sdk::sql::{self, params};

use crate::{End, endless};

#[get("/notes", access = public)]
pub(crate) fn notes() -> Result<Json<Vec<String>>> {
    let rows: Vec<(String,)> = sql::query("SELECT text FROM note ORDER BY text", params![])?;
    Ok(Json(rows.into_iter().map(|(text,)| text).collect()))
}

/// Reads a table that does not exist, which is the plugin's own fault.
#[get("/wrong-notes", access = public)]
pub(crate) fn wrong_notes() -> Result<Json<Vec<String>>> {
    let rows: Vec<(String,)> = sql::query("SELECT text FROM nothing", params![])?;
    Ok(Json(rows.into_iter().map(|(text,)| text).collect()))
}

const INSERT: &str = "INSERT INTO note (id, text) VALUES ($1, $2)";

#[post("/notes/{text}", access = public)]
pub(crate) fn add_note(Path(text): Path<String>) -> Result<()> {
    sql::execute(INSERT, params![Uuid::new_v4(), text])?;
    Ok(())
}

/// Adds all notes or none.
#[post("/notes", access = public)]
pub(crate) fn add_notes(Json(texts): Json<Vec<String>>) -> Result<()> {
    let statements: Vec<_> =
        texts.into_iter().map(|text| sql::statement(INSERT, params![Uuid::new_v4(), text])).collect();
    sql::batch_all(&statements)?;
    Ok(())
}

/// A statement that never ends.
const ENDLESS: &str =
    "WITH RECURSIVE endless (n) AS (SELECT 1 UNION ALL SELECT 1 FROM endless WHERE n = 1) SELECT count(*) FROM endless";

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Leaving {
    end: End,
    text: String,
}

/// Writes in a transaction and leaves it in the given way without a commit.
#[post("/transaction", access = public)]
pub(crate) fn leave_transaction(Query(leaving): Query<Leaving>) -> Result<()> {
    sql::transaction(|transaction| {
        transaction.execute(INSERT, params![Uuid::new_v4(), leaving.text.clone()])?;
        match leaving.end {
            End::Trap => std::process::abort(),
            End::Sleep => std::thread::sleep(std::time::Duration::from_secs(3600)),
            End::Loop => endless(),
            End::Return => std::process::exit(0),
            End::Fail => {}
            End::Query => {
                transaction.query_value::<i64>(ENDLESS, params![])?;
            }
        }
        Err(Problem::conflict("left", "The transaction was left"))
    })
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Outcome {
    /// Whether the statement returned rows.
    rows: bool,
    error: Option<String>,
}

/// Runs any statement and returns the outcome that the guest sees.
#[post("/statement", access = public)]
pub(crate) fn statement(statement: Bytes) -> Json<Outcome> {
    let text = String::from_utf8_lossy(&statement.0).into_owned();
    Json(match sql::batch([sql::statement(text, params![])]) {
        Ok([rows]) => Outcome { rows: !rows.is_empty(), error: None },
        Err(error) => Outcome { rows: false, error: Some(format!("{error:?}")) },
    })
}

/// Holds a connection while it sleeps.
#[post("/transactions/{millis}", access = public)]
pub(crate) fn transactions(Path(millis): Path<u64>) -> Result<()> {
    sql::transaction(|transaction| {
        let _: i64 = transaction.query_value("SELECT COUNT(*) FROM note", params![])?;
        std::thread::sleep(std::time::Duration::from_millis(millis));
        Ok::<_, Problem>(())
    })
}

/// Writes in a transaction, tries to write outside it, and returns the errors that the guest sees.
#[post("/outside", access = public)]
pub(crate) fn write_outside() -> Result<Json<Vec<String>>> {
    let mut errors = Vec::new();
    sql::transaction(|transaction| {
        transaction.execute(INSERT, params![Uuid::new_v4(), "inside"])?;
        let outside = sql::execute(INSERT, params![Uuid::new_v4(), "outside"]);
        let batch = sql::batch([sql::statement("DELETE FROM note", params![])]);
        let second = sql::transaction(|_| Ok::<_, Problem>(()));
        errors = vec![format!("{outside:?}"), format!("{:?}", batch.map(|_| ())), format!("{second:?}")];
        let committed: i64 = sql::query_value("SELECT COUNT(*) FROM note", params![])?;
        assert_eq!(committed, 0);
        Ok::<_, Problem>(())
    })?;
    Ok(Json(errors))
}
