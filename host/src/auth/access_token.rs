//! Access tokens: JSON Web Tokens signed with Ed25519. Owns the keys and the claims; whether the session a token names still
//! lives is `auth`'s to ask.
//!
//! A token is accepted only with `alg` EdDSA, `typ` at+jwt (RFC 9068), a `kid` of ours, our audience and an expiry in the
//! future of the host's clock, so that no other kind of token ever passes for one.

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

/// No token of ours comes near this length; longer ones are refused before any work.
const MAX_LEN: usize = 2048;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    /// Whose.
    pub(super) sub: UserId,
    /// Of which session.
    pub(super) sid: SessionId,
    /// Whom for: always Wharf.
    aud: String,
    /// Made at, in seconds since 1970.
    iat: i64,
    /// Valid until, in seconds since 1970.
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
    /// Older keys, whose tokens are still good.
    older: Vec<Key>,
    validation: Validation,
}

struct Key {
    kid: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl SigningKeys {
    /// Reads the keys, making the first one at the first start. Nodes that start at once agree on one.
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

    /// The signed token.
    pub(super) fn sign(&self, claims: &Claims) -> Result<String> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(self.signing.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.signing.encoding)
            .map_err(|error| Error::internal("an access token cannot be signed").with_source(error))
    }

    /// The claims of a token that is ours and has not expired.
    ///
    /// # Errors
    /// Anything else: `invalid_token`, with the reason for the log only.
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
    // The library would ask the system's clock, with a minute of leeway; `SigningKeys::verify` asks the host's.
    validation.validate_exp = false;
    validation.set_required_spec_claims(&["exp", "sub", "aud"]);
    validation.set_audience(&[AUDIENCE]);
    validation
}

/// The key's name: its JWK thumbprint (RFC 7638).
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
