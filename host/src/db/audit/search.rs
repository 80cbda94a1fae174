//! The search in the audit log: filters, and pages that continue behind the last entry that was read. Never changes it.

use std::fmt;
use std::str::FromStr;

use super::{entry_columns, entry_row};
use crate::clock::Timestamp;
use crate::db::{Db, on};
use crate::error::Result;
use crate::id::{KeyId, PluginName, UserId};

/// The characters of an action or object that the indexes contain.
const INDEXED: i32 = 100;

/// The conditions of a search. `None` accepts every entry.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// The account that acted.
    pub actor: Option<UserId>,
    /// The API key that acted.
    pub key: Option<KeyId>,
    /// The action. A text that ends with `*` stands for all actions that begin so.
    pub action: Option<String>,
    /// The object.
    pub object: Option<String>,
    /// The plugin that recorded the entry, or that the entry is about.
    pub plugin: Option<PluginName>,
    /// The outcome.
    pub outcome: Option<String>,
    /// The request.
    pub request_id: Option<String>,
    /// The earliest time.
    pub since: Option<Timestamp>,
    /// The first time that is too late.
    pub until: Option<Timestamp>,
}

/// A page of a search.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// The entry to continue behind.
    pub after: Option<Cursor>,
    /// Whether the oldest entries come first.
    pub oldest_first: bool,
    /// The most entries.
    pub limit: i64,
}

/// An entry's place in the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    at: Timestamp,
    id: i64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.at.0, self.id)
    }
}

/// A text that is not a [`Cursor`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not the cursor of a page")]
pub struct InvalidCursor;

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (at, id) = text.split_once('.').ok_or(InvalidCursor)?;
        let number = |text: &str| text.parse::<i64>().map_err(|_| InvalidCursor);
        Ok(Self { at: Timestamp(number(at)?), id: number(id)? })
    }
}

entry_row! {
    /// An entry that was found.
    #[derive(Debug, Clone)]
    pub struct FoundEntry {
        /// The id.
        pub id: i64,
        /// The email address of the account that acted, while it exists.
        pub actor_email: Option<String>,
    } and {
        /// The chain; `None` before it is sealed, as the next three.
        pub chain: Option<String>,
        /// The place in the chain.
        pub sequence: Option<i64>,
        /// The node that sealed it.
        pub node: Option<String>,
        /// The hash.
        pub hash: Option<String>,
    }
}

impl FoundEntry {
    /// Returns the place of this entry.
    pub fn cursor(&self) -> Cursor {
        Cursor { at: self.at, id: self.id }
    }
}

/// Returns a page of the entries that fit `filter`.
///
/// # Errors
/// The database fails.
pub async fn search(db: &Db, filter: &Filter, page: Page) -> Result<Vec<FoundEntry>> {
    const SELECT: &str = concat!(
        "SELECT a.id, u.email AS actor_email, ",
        entry_columns!(),
        ", a.chain, a.sequence, a.node, a.hash FROM audit a LEFT JOIN users u ON u.id = a.actor WHERE 1 = 1"
    );
    // Only the conditions that are used are written, so that the database picks the index for them.
    on!(db, pool => {
        let mut query = sqlx::QueryBuilder::new(SELECT);
        if let Some(actor) = filter.actor {
            query.push(" AND a.actor = ").push_bind(actor);
        }
        if let Some(key) = filter.key {
            query.push(" AND a.actor_key = ").push_bind(key);
        }
        match filter.action.as_deref().map(|action| action.strip_suffix('*').ok_or(action)) {
            None => {}
            Some(Ok(beginning)) => {
                let length = i32::try_from(beginning.chars().count()).unwrap_or(i32::MAX);
                query.push(" AND substr(a.action, 1, ").push_bind(length).push(") = ").push_bind(beginning.to_owned());
            }
            Some(Err(action)) => {
                query.push(format!(" AND substr(a.action, 1, {INDEXED}) = ")).push_bind(indexed(action));
                query.push(" AND a.action = ").push_bind(action.to_owned());
            }
        }
        if let Some(object) = &filter.object {
            query.push(format!(" AND substr(a.object, 1, {INDEXED}) = ")).push_bind(indexed(object));
            query.push(" AND a.object = ").push_bind(object.clone());
        }
        if let Some(plugin) = &filter.plugin {
            query.push(" AND a.plugin = ").push_bind(plugin.clone());
        }
        if let Some(outcome) = &filter.outcome {
            query.push(" AND a.outcome = ").push_bind(outcome.clone());
        }
        if let Some(request) = &filter.request_id {
            query.push(" AND a.request_id = ").push_bind(request.clone());
        }
        if let Some(since) = filter.since {
            query.push(" AND a.at >= ").push_bind(since);
        }
        if let Some(until) = filter.until {
            query.push(" AND a.at < ").push_bind(until);
        }
        if let Some(after) = page.after {
            query.push(if page.oldest_first { " AND (a.at, a.id) > (" } else { " AND (a.at, a.id) < (" });
            query.push_bind(after.at).push(", ").push_bind(after.id).push(")");
        }
        query.push(match page.oldest_first {
            true => " ORDER BY a.at, a.id LIMIT ",
            false => " ORDER BY a.at DESC, a.id DESC LIMIT ",
        });
        query.push_bind(page.limit);
        Ok(query.build_query_as::<FoundEntry>().fetch_all(pool).await?)
    })
}

/// Returns the part of a text that the indexes contain.
fn indexed(text: &str) -> String {
    text.chars().take(usize::try_from(INDEXED).unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        for cursor in [Cursor { at: Timestamp(-3), id: 7 }, Cursor { at: Timestamp(i64::MAX), id: 0 }] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for text in ["", ".", "1", "1.", "1.x", "1.2.3", "99999999999999999999.1"] {
            assert_eq!(text.parse::<Cursor>(), Err(InvalidCursor), "{text}");
        }
    }
}
