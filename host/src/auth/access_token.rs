//! Access tokens: JSON Web Tokens signed with Ed25519. Owns the claims and the rules by which a token is accepted. Never
//! checks whether the session of a token still exists: `auth` does. `auth::signing_keys` owns the keys.
//!
//! A token is accepted only with the header that this host writes and no other member: `alg` EdDSA, `typ` at+jwt (RFC
//! 9068) and the `kid` of a known key. So a token can neither choose an algorithm nor bring or name a key (`jwk`, `jku`,
//! `x5u`), and no other kind of token is accepted. It needs the right audience, a time of issue that is not in the
//! future, and an expiry after the current time of the host's clock.

use std::sync::LazyLock;
use std::time::Duration;

use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};

use super::signing_keys::SigningKeys;
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{SessionId, UserId};

const TYPE: &str = "at+jwt";
const AUDIENCE: &str = "wharf";

/// Longer tokens are refused before any work. Tokens of Wharf are much shorter.
const MAX_LEN: usize = 2048;

/// How far the time of issue may be in the future: the clocks of two nodes differ.
const SKEW: Duration = Duration::from_secs(60);

static VALIDATION: LazyLock<Validation> = LazyLock::new(|| {
    let mut validation = Validation::new(Algorithm::EdDSA);
    // The library would use the system clock with a minute of leeway. `verify` uses the host's clock.
    validation.validate_exp = false;
    validation.set_required_spec_claims(&["exp", "sub", "aud"]);
    validation.set_audience(&[AUDIENCE]);
    validation
});

/// The claims of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    /// The user.
    pub(super) sub: UserId,
    /// The session.
    pub(super) sid: SessionId,
    /// The audience, which is always Wharf.
    aud: String,
    /// The time of issue in seconds since 1970.
    iat: i64,
    /// The expiry in seconds since 1970.
    pub(super) exp: i64,
    /// The time before which a token is not valid. This host never sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
}

impl Claims {
    pub(super) fn new(sub: UserId, sid: SessionId, now: Timestamp, lifetime: Duration) -> Self {
        let (iat, exp) = (now.as_secs(), now.plus(lifetime).as_secs());
        Self { sub, sid, aud: AUDIENCE.to_owned(), iat, exp, nbf: None }
    }
}

/// Returns the signed token.
pub(super) async fn sign(keys: &SigningKeys, claims: &Claims, now: Timestamp) -> Result<String> {
    let key = keys.signer(now).await?;
    jsonwebtoken::encode(&header(&key.kid), claims, &key.encoding)
        .map_err(|error| Error::internal("an access token cannot be signed").with_source(error))
}

/// Returns the claims of a valid token that has not expired.
///
/// # Errors
/// `invalid_token` for any other token. Only the log contains the reason.
pub(super) async fn verify(keys: &SigningKeys, token: &str, now: Timestamp) -> Result<Claims> {
    let refuse = |reason: &str| Error::invalid_token().with_internal(reason);
    let kid = key_id(token)?;
    let key = keys.find(&kid, now).await?.ok_or_else(|| refuse("an unknown key"))?;
    let claims = jsonwebtoken::decode::<Claims>(token, &key.decoding, &VALIDATION)
        .map_err(|error| Error::invalid_token().with_source(error))?
        .claims;
    let latest = now.plus(SKEW).as_secs();
    if now.as_secs() >= claims.exp {
        return Err(refuse("expired"));
    }
    if claims.iat > latest || claims.nbf.is_some_and(|nbf| nbf > latest) {
        return Err(refuse("its time is in the future"));
    }
    Ok(claims)
}

/// Returns the id of the key that a token names, if its header is one of this host.
fn key_id(token: &str) -> Result<String> {
    let refuse = |reason: &str| Error::invalid_token().with_internal(reason);
    if token.len() > MAX_LEN {
        return Err(refuse("too long"));
    }
    let given = jsonwebtoken::decode_header(token).map_err(|error| Error::invalid_token().with_source(error))?;
    match &given.kid {
        Some(kid) if given == header(kid) => Ok(kid.clone()),
        _ => Err(refuse("another kind of token")),
    }
}

fn header(kid: &str) -> Header {
    let mut header = Header::new(Algorithm::EdDSA);
    header.typ = Some(TYPE.to_owned());
    header.kid = Some(kid.to_owned());
    header
}

#[cfg(test)]
mod tests;
