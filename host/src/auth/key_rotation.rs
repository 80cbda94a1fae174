//! The rotation of signing keys. Owns the times of a key's life: it is published, then it signs, then it only verifies,
//! and then it is deleted.

use std::time::Duration;

use serde_json::json;

use super::Auth;
use super::signing_keys::{PublicSigningKey, generate};
use crate::db::audit::Entry;
use crate::db::signing_key::{self, NewSigningKey, OldKeys, RotationOutcome};
use crate::error::{Error, Result, code};
use crate::initiator::Initiator;

/// How long a cache may keep the published keys.
pub const PUBLISHED_KEYS_MAX_AGE: Duration = Duration::from_secs(5 * 60);

/// How long a new key is published before it signs: twice the time for which a cache keeps the published keys.
const LEAD: Duration = Duration::from_secs(10 * 60);

/// How much longer a replaced key verifies than its last token lives, for clocks that differ.
const SLACK: Duration = Duration::from_secs(60);

impl Auth {
    /// Returns the keys that verify access tokens, newest first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn signing_keys(&self) -> Result<Vec<PublicSigningKey>> {
        let now = self.0.clock.now();
        Ok(self.0.keys.current(now).await?.public(now))
    }

    /// Creates a signing key that replaces the others. It is published at once and signs after [`LEAD`]. The others
    /// verify until the last of their tokens has expired. With `revoke_old`, the new key signs at once, the others are
    /// deleted, and every access token is invalid from the next request on; sessions and refresh tokens stay.
    ///
    /// # Errors
    /// A conflict `signing_key_overlap`: the newest key does not sign yet, or too many keys still verify tokens.
    pub async fn rotate_signing_key(&self, by: &Initiator, revoke_old: bool) -> Result<Vec<PublicSigningKey>> {
        let inner = &*self.0;
        let now = inner.clock.now();
        let (kid, der) = generate(&inner.random)?;
        let signs_from = if revoke_old { now } else { now.plus(LEAD) };
        let old = match revoke_old {
            true => OldKeys::Revoke,
            false => OldKeys::ExpireAt(signs_from.plus(self.access_ttl()).plus(SLACK)),
        };
        let new = NewSigningKey { kid: &kid, private_key: &der, created_at: now, signs_from };
        let entry = Entry::of(by, now, "signing-key.rotate", format!("signing-key:{kid}"))
            .with_detail(json!({ "signs_from": signs_from, "revoke_old": revoke_old }));
        // Dropped after the keys are read again, so that no token of an old key is cached any more.
        let _forget = inner.token_cache.invalidate_all_after();
        let overlap = |text: &'static str| Error::conflict(code::SIGNING_KEY_OVERLAP, text);
        match signing_key::rotate(&inner.db, &new, old, &entry).await? {
            RotationOutcome::Rotated => Ok(inner.keys.load(now, Duration::ZERO).await?.public(now)),
            RotationOutcome::Pending => Err(overlap("The newest signing key does not sign yet")),
            RotationOutcome::TooMany => Err(overlap("Too many replaced signing keys still verify tokens")),
        }
    }
}

#[cfg(test)]
mod tests;
