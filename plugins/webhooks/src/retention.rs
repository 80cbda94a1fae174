//! The end of what is stored: old messages, deliveries beyond the bound of a log, and the endpoints of accounts that are
//! gone. Owns these bounds. Each statement deletes a bounded number of rows, because a statement has a time limit.
//!
//! A message is deleted in a transaction that looks for its deliveries. So it stays if another endpoint gets it at the same
//! time.

use crate::rights::Owners;
use crate::time::seconds_after;
use wharf_sdk::prelude::*;
use wharf_sdk::sql::{self, params};
use wharf_sdk::users::MAX_USERS;

/// How long a message is kept with its deliveries, in seconds. Only a delivery whose job an operator dropped or cancelled waits
/// for so long.
const KEEP: i64 = 30 * 24 * 60 * 60;

/// How many ended deliveries of one endpoint are kept.
const MAX_KEPT: i64 = 1_000;

/// How many deliveries a new one replaces, at most. More than one, so that a log with too many becomes shorter.
const MAX_REPLACED: i64 = 10;

/// Makes room for another delivery in the log of an endpoint. Each new delivery pays for its own room, so the work does not
/// depend on the number of endpoints.
pub(crate) fn make_room(endpoint: Uuid) -> Result<(), sql::Error> {
    const FULL: &str = "SELECT id FROM delivery WHERE endpoint_id = $1 AND state <> 'waiting'
        ORDER BY created_at DESC, id LIMIT 1 OFFSET $2";
    const REPLACE: &str = "DELETE FROM delivery WHERE state <> 'waiting' AND id IN
        (SELECT id FROM delivery WHERE endpoint_id = $1 AND state <> 'waiting'
            ORDER BY created_at DESC, id LIMIT $3 OFFSET $2)
        RETURNING message_id";
    const UNUSED: &str =
        "DELETE FROM message WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM delivery WHERE message_id = $1)";
    let full: Option<(Uuid,)> = sql::query_optional(FULL, params![endpoint, MAX_KEPT - 1])?;
    if full.is_none() {
        return Ok(());
    }
    let made: Result<(), sql::Error> = sql::transaction(|tx| {
        let replaced: Vec<(Uuid,)> = tx.query(REPLACE, params![endpoint, MAX_KEPT - 1, MAX_REPLACED])?;
        for (message,) in replaced {
            tx.execute(UNUSED, params![message])?;
        }
        Ok(())
    });
    match made {
        // Other events make room at the same time. Some more deliveries are kept until the next event.
        Err(sql::Error::Conflict) => Ok(()),
        made => made,
    }
}

/// Deletes an endpoint of an account with its deliveries, and the messages that no other endpoint got. Returns whether it
/// existed.
pub(crate) fn delete_endpoint(id: Uuid, owner: Uuid) -> Result<bool, sql::Error> {
    const MESSAGES: &str = "DELETE FROM message WHERE id IN
            (SELECT message_id FROM delivery JOIN endpoint ON endpoint.id = endpoint_id
            WHERE endpoint_id = $1 AND owner_id = $2)
        AND NOT EXISTS (SELECT 1 FROM delivery WHERE message_id = message.id AND endpoint_id <> $1)";
    const ENDPOINT: &str = "DELETE FROM endpoint WHERE id = $1 AND owner_id = $2";
    sql::transaction(|tx| {
        tx.execute(MESSAGES, params![id, owner])?;
        Ok(tx.execute(ENDPOINT, params![id, owner])? == 1)
    })
}

/// Deletes all endpoints of an account with their deliveries, and the messages that no endpoint of another account got.
pub(crate) fn delete_endpoints_of(owner: Uuid) -> Result<(), sql::Error> {
    const ENDPOINTS: &str = "SELECT id FROM endpoint WHERE owner_id = $1";
    let endpoints: Vec<(Uuid,)> = sql::query(ENDPOINTS, params![owner])?;
    endpoints.into_iter().try_for_each(|(id,)| delete_endpoint(id, owner).map(|_| ()))
}

/// Deletes what is too old, and what belongs to accounts that are gone.
#[schedule("17 * * * *")]
pub(crate) fn prune() -> Result<(), TaskError> {
    const OLD_SECRETS: &str = "UPDATE endpoint SET previous_secret = NULL, previous_secret_until = NULL
        WHERE previous_secret_until < $1";
    sql::execute(OLD_SECRETS, params![Timestamp::now()])?;
    delete_old_messages()?;
    delete_endpoints_of_the_departed()?;
    Ok(())
}

fn delete_old_messages() -> Result<(), sql::Error> {
    const SOME: &str = "DELETE FROM message WHERE id IN (SELECT id FROM message WHERE created_at < $1 LIMIT 500)";
    let end = seconds_after(Timestamp::now(), -KEEP);
    while sql::execute(SOME, params![end])? > 0 {}
    Ok(())
}

/// Deletes the endpoints of accounts that do not exist any more. The event about a deletion is the rule; the plugin does not
/// get it while it is removed, and a request of the account can add an endpoint after it.
fn delete_endpoints_of_the_departed() -> Result<()> {
    const OWNERS: &str = "SELECT DISTINCT owner_id FROM endpoint WHERE owner_id > $1 ORDER BY owner_id LIMIT $2";
    let mut after = Uuid::nil();
    loop {
        let owners: Vec<(Uuid,)> = sql::query(OWNERS, params![after, MAX_USERS])?;
        let Some((last,)) = owners.last() else { return Ok(()) };
        after = *last;
        let known = Owners::find(owners.iter().map(|(owner,)| *owner))?;
        for (owner,) in owners.into_iter().filter(|(owner,)| !known.exists(*owner)) {
            delete_endpoints_of(owner)?;
        }
    }
}
