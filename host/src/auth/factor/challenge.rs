//! The second half of a sign-in. Owns the format of challenges: 256 random bits, stored as SHA-256, for one account and
//! one completed sign-in. A challenge ends when the password of the account changes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{PATIENCE, Proof, SecondFactorChallenge};
use crate::auth::Auth;
use crate::auth::caller::Strength;
use crate::auth::client::Client;
use crate::auth::session::IssuedTokens;
use crate::config::Secret;
use crate::db;
use crate::db::login_challenge::{self, NewChallenge};
use crate::db::user::UserRow;
use crate::error::{Error, Result, code};

const LEN: usize = 32;

/// The number of proofs that a client can try for one challenge.
const MOST_ATTEMPTS: i64 = 5;

impl Auth {
    /// Begins the wait for a second factor. `None` means that the account has none, so the sign-in is complete.
    pub(in crate::auth) async fn begin_challenge(&self, user: &UserRow) -> Result<Option<SecondFactorChallenge>> {
        let methods = self.factors(user.id).await?.methods();
        if methods.is_empty() {
            return Ok(None);
        }
        let challenge: [u8; LEN] = self.0.random.bytes()?;
        let now = self.0.clock.now();
        let row = NewChallenge {
            hash: &Sha256::digest(challenge),
            user: user.id,
            password_digest: &digest(user),
            expires_at: now.plus(PATIENCE),
        };
        login_challenge::insert(&self.0.db, &row, now).await?;
        Ok(Some(SecondFactorChallenge { challenge: Secret::new(URL_SAFE_NO_PAD.encode(challenge)), methods }))
    }

    /// Completes a sign-in with a second factor.
    ///
    /// # Errors
    /// `invalid_challenge`: unknown, expired, used, tried too often, or of an older password; `incorrect_code`;
    /// `inactive_user`; `throttled`.
    pub async fn complete_sign_in(&self, challenge: &str, proof: &Proof, client: &Client) -> Result<IssuedTokens> {
        let db = &self.0.db;
        let challenge = URL_SAFE_NO_PAD.decode(challenge).ok().filter(|bytes| bytes.len() == LEN);
        let hash = Sha256::digest(challenge.ok_or_else(invalid)?);
        let row = login_challenge::attempt(db, &hash, MOST_ATTEMPTS, self.0.clock.now()).await?.ok_or_else(invalid)?;
        let user = db::user::find(db, row.user_id).await?.ok_or_else(invalid)?;
        let unchanged: bool = row.password_digest.ct_eq(&digest(&user)).into();
        if !unchanged {
            return Err(invalid());
        }
        if !user.is_active {
            return Err(Error::bad_request(code::INACTIVE_USER, "Inactive user"));
        }
        if let Err(error) = self.check_proof(user.id, None, proof, &client.initiator()).await {
            if *error.code() == code::THROTTLED {
                login_challenge::return_attempt(db, &hash).await?;
            }
            return Err(error);
        }
        // Two requests may prove two factors for one challenge at the same time.
        if !login_challenge::consume(db, &hash).await? {
            return Err(invalid());
        }
        self.begin_session(&user, client, Strength::Multi).await?.ok_or_else(invalid)
    }
}

/// Returns a digest that changes with the password of the account.
fn digest(user: &UserRow) -> [u8; 32] {
    Sha256::digest(user.password_hash.as_bytes()).into()
}

fn invalid() -> Error {
    Error::bad_request(code::INVALID_CHALLENGE, "The sign-in is over or expired; begin again")
}
