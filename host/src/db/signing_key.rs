//! The keys that sign access tokens, shared by all nodes.

use super::row::row;
use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::Result;

row! {
    /// One key pair.
    pub(crate) struct SigningKeyRow {
        pub(crate) kid: String,
        /// Ed25519, PKCS #8 DER.
        pub(crate) private_key: Vec<u8>,
    }
}

/// Returns all keys in order of generation; the last one signs.
pub(crate) async fn list(db: &Db) -> Result<Vec<SigningKeyRow>> {
    const SQL: &str = "SELECT kid, private_key FROM signing_keys ORDER BY generation";
    Ok(on!(db, pool => sqlx::query_as::<_, SigningKeyRow>(SQL).fetch_all(pool).await)?)
}

/// Stores the first key, unless another node was faster: [`list`] returns the key that was stored.
pub(crate) async fn insert_first(db: &Db, kid: &str, private_key: &[u8], now: Timestamp) -> Result<()> {
    const SQL: &str = "INSERT INTO signing_keys (generation, kid, private_key, created_at) VALUES (1, $1, $2, $3) \
        ON CONFLICT (generation) DO NOTHING";
    on!(db, pool => sqlx::query(SQL).bind(kid).bind(private_key).bind(now).execute(pool).await.map(drop))?;
    Ok(())
}
