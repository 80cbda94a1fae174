//! The networks from which the owners of accounts signed in. Owns the SQL on `known_clients` and the bound of its rows;
//! `auth::known_client` owns their meaning.

use super::{Db, on};
use crate::address::AddressKey;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::UserId;
use crate::network::Network;

/// The most networks of one account. The latest ones are kept.
const MAX_NETWORKS: i64 = 20;

/// Returns whether the owner of the account with this address signed in from the network after `since`.
pub(crate) async fn exists(db: &Db, account: &AddressKey, network: Network, since: Timestamp) -> Result<bool> {
    const SQL: &str = "SELECT known_clients.network FROM known_clients JOIN users ON users.id = known_clients.user_id \
        WHERE users.email_key = $1 AND known_clients.network = $2 AND known_clients.last_used_at > $3";
    let found = on!(db, pool => {
        sqlx::query_scalar::<_, String>(SQL)
            .bind(account.as_str())
            .bind(network.to_string())
            .bind(since)
            .fetch_optional(pool)
            .await
    })?;
    Ok(found.is_some())
}

/// Records a sign-in from the network at `now`. Forgets networks that were not used after `since`, and the ones beyond
/// [`MAX_NETWORKS`].
pub(crate) async fn record(db: &Db, user: UserId, network: Network, now: Timestamp, since: Timestamp) -> Result<()> {
    const RECORD: &str = "INSERT INTO known_clients (user_id, network, last_used_at) VALUES ($1, $2, $3) \
        ON CONFLICT (user_id, network) DO UPDATE SET last_used_at = excluded.last_used_at";
    const FORGET: &str = "DELETE FROM known_clients WHERE user_id = $1 AND (last_used_at <= $2 OR network NOT IN \
        (SELECT network FROM known_clients WHERE user_id = $1 ORDER BY last_used_at DESC, network LIMIT $3))";
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        sqlx::query(RECORD).bind(user).bind(network.to_string()).bind(now).execute(&mut *tx).await?;
        sqlx::query(FORGET).bind(user).bind(since).bind(MAX_NETWORKS).execute(&mut *tx).await?;
        tx.commit().await?;
    });
    Ok(())
}
