//! Access tokens: JSON Web Tokens signed with Ed25519. Owns the signing keys and the claims. Never checks whether the
//! session of a token still exists: `auth` does.
//!
//! A token is accepted only with `alg` EdDSA, `typ` at+jwt (RFC 9068), the `kid` of a known key, the right audience,
//! and an expiry after the current time of the host's clock. So no other kind of token is accepted as an access token.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::clock::{Random, Timestamp};
use crate::db::{Db, signing_key};
use crate::error::{Error, Result};
use crate::id::{SessionId, UserId};

const TYPE: &str = "at+jwt";
const AUDIENCE: &str = "wharf";

/// Longer tokens are refused before any work. Tokens of Wharf are much shorter.
const MAX_LEN: usize = 2048;

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
}

impl Claims {
    pub(super) fn new(sub: UserId, sid: SessionId, now: Timestamp, lifetime: Duration) -> Self {
        Self { sub, sid, aud: AUDIENCE.to_owned(), iat: now.as_secs(), exp: now.plus(lifetime).as_secs() }
    }
}

/// The keys of this installation, shared by its nodes through the database.
pub(super) struct SigningKeys {
    signing: Key,
    /// Older keys. Their tokens are still valid.
    older: Vec<Key>,
    validation: Validation,
}

struct Key {
    kid: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl SigningKeys {
    /// Reads the keys, and creates the first one at the first start. Nodes that start at the same time agree on one
    /// key.
    pub(super) async fn open(db: &Db, random: &Random, now: Timestamp) -> Result<Self> {
        let mut rows = signing_key::list(db).await?;
        if rows.is_empty() {
            let key = SigningKey::from_bytes(&random.bytes()?);
            let der = key.to_pkcs8_der().map_err(unusable)?;
            signing_key::insert_first(db, &thumbprint(&key), der.as_bytes(), now).await?;
            rows = signing_key::list(db).await?;
        }
        let mut keys = rows.into_iter().map(Key::read).collect::<Result<Vec<_>>>()?;
        let signing = keys.pop().ok_or_else(|| Error::internal("there is no signing key"))?;
        Ok(Self { signing, older: keys, validation: validation() })
    }

    /// Returns the signed token.
    pub(super) fn sign(&self, claims: &Claims) -> Result<String> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(self.signing.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.signing.encoding)
            .map_err(|error| Error::internal("an access token cannot be signed").with_source(error))
    }

    /// Returns the claims of a valid token that has not expired.
    ///
    /// # Errors
    /// `invalid_token` for any other token. Only the log contains the reason.
    pub(super) fn verify(&self, token: &str, now: Timestamp) -> Result<Claims> {
        let refuse = |reason: &str| Error::invalid_token().with_internal(reason);
        if token.len() > MAX_LEN {
            return Err(refuse("too long"));
        }
        let header = jsonwebtoken::decode_header(token).map_err(|error| Error::invalid_token().with_source(error))?;
        if header.typ.as_deref() != Some(TYPE) {
            return Err(refuse("another type of token"));
        }
        let key = std::iter::once(&self.signing)
            .chain(&self.older)
            .find(|key| header.kid.as_deref() == Some(key.kid.as_str()))
            .ok_or_else(|| refuse("an unknown key"))?;
        let claims = jsonwebtoken::decode::<Claims>(token, &key.decoding, &self.validation)
            .map_err(|error| Error::invalid_token().with_source(error))?
            .claims;
        if now.as_secs() >= claims.exp {
            return Err(refuse("expired"));
        }
        Ok(claims)
    }
}

impl Key {
    fn read(row: signing_key::SigningKeyRow) -> Result<Self> {
        let key = SigningKey::from_pkcs8_der(&row.private_key).map_err(unusable)?;
        let public = URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes());
        let decoding = DecodingKey::from_ed_components(&public).map_err(unusable)?;
        Ok(Self { kid: row.kid, encoding: EncodingKey::from_ed_der(&row.private_key), decoding })
    }
}

fn validation() -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    // The library would use the system clock with a minute of leeway. `SigningKeys::verify` uses the host's clock.
    validation.validate_exp = false;
    validation.set_required_spec_claims(&["exp", "sub", "aud"]);
    validation.set_audience(&[AUDIENCE]);
    validation
}

/// Returns the JWK thumbprint of a key (RFC 7638), which is its `kid`.
fn thumbprint(key: &SigningKey) -> String {
    let public = URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes());
    let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{public}"}}"#);
    URL_SAFE_NO_PAD.encode(Sha256::digest(jwk.as_bytes()))
}

fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal("a signing key in the database cannot be used").with_source(error)
}

#[cfg(test)]
mod tests;
