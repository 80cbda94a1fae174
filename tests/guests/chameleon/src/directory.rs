//! Look-ups in the directory of accounts.

use serde::Deserialize;
use wharf_sdk::prelude::*;
use wharf_sdk::serde_json::{Value, json};
use wharf_sdk::users::{self, Error, User};

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Question {
    /// Ids with commas between them; they are looked up.
    #[serde(default)]
    ids: Option<String>,
    /// An address to look up.
    #[serde(default)]
    email: Option<String>,
    /// The id behind which a page begins.
    #[serde(default)]
    after: Option<Uuid>,
    /// The size of the page.
    #[serde(default)]
    limit: Option<u32>,
}

/// Answers with accounts, or with the error as text.
#[get("/directory", access = public)]
pub(crate) fn directory(Query(question): Query<Question>) -> Json<Value> {
    let shown = |user: &User| {
        let User { id, name, email, active, superuser } = user;
        json!({ "id": id, "name": name, "email": email, "active": active, "superuser": superuser })
    };
    Json(match look_up(&question) {
        Ok(found) => found.iter().map(shown).collect(),
        Err(error) => format!("{error:?}").into(),
    })
}

fn look_up(question: &Question) -> Result<Vec<User>, Error> {
    if let Some(ids) = &question.ids {
        return users::find(ids.split(',').filter_map(|id| Uuid::parse_str(id).ok()));
    }
    match &question.email {
        Some(email) => Ok(users::find_by_email(&email.replace('␀', "\0"))?.into_iter().collect()),
        None => users::list(question.after, question.limit.unwrap_or(users::MAX_USERS)),
    }
}

/// Reads all accounts in pages and returns their number.
#[get("/directory/all", access = public)]
pub(crate) fn all_users() -> Result<Json<usize>> {
    let (mut after, mut count) = (None, 0);
    loop {
        let page = users::list(after, 2)?;
        let Some(last) = page.last() else { return Ok(Json(count)) };
        after = Some(last.id);
        count += page.len();
    }
}

/// Reads the first page again and again.
#[get("/directory/endless", access = public)]
pub(crate) fn read_endlessly() -> Text {
    loop {
        std::hint::black_box(users::list(None, users::MAX_USERS).is_ok());
    }
}
