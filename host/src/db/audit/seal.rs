//! The sealing of entries: gives each new entry its place in a chain and its hash. Owns the heads of the chains in
//! `audit_chains`. The transaction of a change never waits for it, because entries are sealed after they were
//! committed.

use std::collections::HashMap;

use super::entry_columns;
use super::link::{Link, Position};
use crate::db::{Db, on};
use crate::error::Result;

/// The most entries that one transaction seals, so that other writers do not wait long.
const BATCH: i64 = 200;

/// The columns of an entry that is not sealed yet, as those of a [`Link`].
const UNSEALED: &str = concat!(
    "SELECT '' AS chain, CAST(0 AS BIGINT) AS sequence, a.id, '' AS node, ",
    entry_columns!(),
    ", '' AS hash FROM audit a WHERE a.sequence IS NULL ORDER BY a.id LIMIT $1"
);

/// The last links that a node knows, by chain. It has one for each plugin that recorded something.
pub type Heads = HashMap<String, Position>;

/// The outcome of one transaction.
#[derive(Debug, Default)]
pub struct Sealed {
    /// The number of entries.
    pub entries: usize,
    /// Whether there may be more.
    pub more: bool,
    /// The chains that the entries belong to.
    pub chains: Vec<String>,
    /// Chains whose head in the database is not the one that this node wrote: entries were removed or changed
    /// meanwhile.
    pub broken: Vec<String>,
}

/// Returns the number of entries that are not sealed.
///
/// # Errors
/// The database fails.
pub async fn count_unsealed(db: &Db) -> Result<i64> {
    const SQL: &str = "SELECT COUNT(*) FROM audit WHERE sequence IS NULL";
    Ok(on!(db, pool => sqlx::query_scalar(SQL).fetch_one(pool).await)?)
}

/// Seals the oldest entries that are not sealed, in one transaction, and updates `heads`.
///
/// # Errors
/// The database fails.
pub async fn seal(db: &Db, node: &str, heads: &mut Heads) -> Result<Sealed> {
    // Most of the time there is nothing, and then no lock is taken.
    const ANY: &str = "SELECT id FROM audit WHERE sequence IS NULL LIMIT 1";
    const HEAD: &str = "SELECT sequence, hash FROM audit_chains WHERE chain = $1";
    const SEAL: &str = "UPDATE audit SET chain = $2, sequence = $3, node = $4, hash = $5 WHERE id = $1";
    const SET_HEAD: &str = "INSERT INTO audit_chains (chain, sequence, hash) VALUES ($1, $2, $3) \
        ON CONFLICT (chain) DO UPDATE SET sequence = $2, hash = $3";
    let any: Option<i64> = on!(db, pool => sqlx::query_scalar(ANY).fetch_optional(pool).await)?;
    if any.is_none() {
        return Ok(Sealed::default());
    }
    // Nodes take turns. SQLite has one writer and needs no lock.
    let lock = db.dialect("SELECT 1", "SELECT 1 FROM pg_advisory_xact_lock(hashtext('wharf:audit'))");
    let mut new = Heads::new();
    let mut sealed = Sealed::default();
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        sqlx::query(lock).execute(&mut *tx).await?;
        let links = sqlx::query_as::<_, Link>(UNSEALED).bind(BATCH).fetch_all(&mut *tx).await?;
        sealed.entries = links.len();
        sealed.more = i64::try_from(links.len()) == Ok(BATCH);
        for mut link in links {
            link.chain = Link::chain_of(link.plugin.as_deref(), &link.action);
            let head = match new.get(&link.chain) {
                Some(head) => head.clone(),
                None => {
                    let stored: Option<(i64, String)> =
                        sqlx::query_as(HEAD).bind(&link.chain).fetch_optional(&mut *tx).await?;
                    let stored = stored.map(|(sequence, hash)| Position { sequence, hash });
                    let (head, intact) = reconcile(stored, heads.get(&link.chain));
                    if !intact {
                        sealed.broken.push(link.chain.clone());
                    }
                    head
                }
            };
            link.sequence = head.sequence.saturating_add(1);
            node.clone_into(&mut link.node);
            link.hash = link.hash_after(&head.hash);
            sqlx::query(SEAL)
                .bind(link.id)
                .bind(&link.chain)
                .bind(link.sequence)
                .bind(&link.node)
                .bind(&link.hash)
                .execute(&mut *tx)
                .await?;
            new.insert(link.chain, Position { sequence: link.sequence, hash: link.hash });
        }
        for (chain, head) in &new {
            sqlx::query(SET_HEAD).bind(chain).bind(head.sequence).bind(&head.hash).execute(&mut *tx).await?;
        }
        tx.commit().await?;
    });
    sealed.chains = new.keys().cloned().collect();
    heads.extend(new);
    Ok(sealed)
}

/// Returns the head to continue from, and whether the stored one is as this node or a later node left it. A chain whose
/// end was cut off continues behind the head that this node knows, so that the gap stays visible.
fn reconcile(stored: Option<Position>, known: Option<&Position>) -> (Position, bool) {
    match (stored, known) {
        (stored, None) => (stored.unwrap_or_default(), true),
        (Some(stored), Some(known)) if stored == *known || stored.sequence > known.sequence => (stored, true),
        (_, Some(known)) => (known.clone(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_that_was_cut_off_continues_behind_the_known_head() {
        let at = |sequence, hash: &str| Position { sequence, hash: hash.to_owned() };
        assert_eq!(reconcile(None, None), (Position::default(), true));
        assert_eq!(reconcile(Some(at(3, "c")), None), (at(3, "c"), true));
        assert_eq!(reconcile(Some(at(3, "c")), Some(&at(3, "c"))), (at(3, "c"), true));
        assert_eq!(reconcile(Some(at(5, "e")), Some(&at(3, "c"))), (at(5, "e"), true), "another node sealed");
        assert_eq!(reconcile(Some(at(2, "b")), Some(&at(3, "c"))), (at(3, "c"), false));
        assert_eq!(reconcile(Some(at(3, "x")), Some(&at(3, "c"))), (at(3, "c"), false));
        assert_eq!(reconcile(None, Some(&at(3, "c"))), (at(3, "c"), false));
    }
}
