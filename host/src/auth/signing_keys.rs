//! The key pairs that sign access tokens. Owns the copy of the keys in memory, and the decision which key signs and which
//! keys verify at a time. `auth::key_rotation` replaces keys. Never knows the content of a token: `auth::access_token`
//! does.
//!
//! The nodes share the keys through the database. Each keeps a copy for at most [`MAX_AGE`], so that it learns of a
//! rotation by another node within seconds. A token with an unknown key id makes it read the keys again at once, but not
//! more often than once in [`MIN_AGE`]. Requests that need the keys at the same time wait for one query together, and
//! fail together: while the database does not respond, they would otherwise wait for it one after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use jsonwebtoken::{DecodingKey, EncodingKey};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use crate::clock::{Random, Timestamp};
use crate::db::Db;
use crate::db::signing_key::{self, SigningKeyRow};
use crate::error::{Code, Error, Kind, Result};

/// The greatest age of the copy in memory.
const MAX_AGE: Duration = Duration::from_secs(5);

/// The least age of a copy that an unknown key id renews.
const MIN_AGE: Duration = Duration::from_secs(1);

/// The state of a signing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningKeyState {
    /// It is published and does not sign yet.
    Published,
    /// It signs new tokens.
    Signs,
    /// It only verifies tokens that it signed before.
    Verifies,
}

/// A signing key without its private part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicSigningKey {
    /// The key id: the JWK thumbprint (RFC 7638).
    pub kid: String,
    /// The public key, 32 bytes in base64url.
    pub x: String,
    /// The state.
    pub state: SigningKeyState,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it begins or began to sign.
    pub signs_from: Timestamp,
    /// When it stops to verify; `None` while no other key has replaced it.
    pub expires_at: Option<Timestamp>,
}

/// The keys of this installation.
pub(super) struct SigningKeys {
    db: Db,
    loaded: ArcSwap<KeySet>,
    /// Locked while the keys are read. Holds the last failure.
    loading: Mutex<Option<Failed>>,
}

/// A failure to read the keys.
struct Failed {
    at: Instant,
    kind: Kind,
    code: Code,
    public: String,
}

impl Failed {
    fn of(error: &Error) -> Self {
        let (kind, code, public) = (error.kind().clone(), error.code().clone(), error.public().to_owned());
        Self { at: Instant::now(), kind, code, public }
    }

    fn error(&self) -> Error {
        let error = Error::new(self.kind.clone(), self.code.clone(), self.public.clone());
        error.with_internal("the signing keys could not be read for another request")
    }
}

/// A copy of the keys in the database.
pub(super) struct KeySet {
    /// In order of generation.
    keys: Vec<Arc<Key>>,
    loaded_at: Timestamp,
}

/// A key pair.
pub(super) struct Key {
    pub(super) kid: String,
    pub(super) encoding: EncodingKey,
    pub(super) decoding: DecodingKey,
    x: String,
    created_at: Timestamp,
    signs_from: Timestamp,
    expires_at: Option<Timestamp>,
}

impl SigningKeys {
    /// Reads the keys, and creates the first one at the first start. Nodes that start at the same time agree on one
    /// key.
    pub(super) async fn open(db: &Db, random: &Random, now: Timestamp) -> Result<Self> {
        let mut rows = signing_key::list(db).await?;
        if rows.is_empty() {
            let (kid, der) = generate(random)?;
            signing_key::insert_first(db, &kid, &der, now).await?;
            rows = signing_key::list(db).await?;
        }
        let loaded = ArcSwap::from_pointee(KeySet::read(rows, now)?);
        Ok(Self { db: db.clone(), loaded, loading: Mutex::default() })
    }

    /// Returns the key that signs now.
    pub(super) async fn signer(&self, now: Timestamp) -> Result<Arc<Key>> {
        self.current(now).await?.signer(now).ok_or_else(|| Error::internal("there is no signing key"))
    }

    /// Returns the key with this id, if it verifies now.
    pub(super) async fn find(&self, kid: &str, now: Timestamp) -> Result<Option<Arc<Key>>> {
        let found = self.current(now).await?.find(kid, now);
        match found {
            Some(key) => Ok(Some(key)),
            // Another node may have created it a moment ago.
            None => Ok(self.load(now, MIN_AGE).await?.find(kid, now)),
        }
    }

    /// Returns the keys, as they were at most [`MAX_AGE`] ago.
    pub(super) async fn current(&self, now: Timestamp) -> Result<Arc<KeySet>> {
        let loaded = self.loaded.load_full();
        if loaded.is_younger(MAX_AGE, now) { Ok(loaded) } else { self.load(now, MAX_AGE).await }
    }

    /// Reads the keys again, unless they were read less than `age` ago.
    pub(super) async fn load(&self, now: Timestamp, age: Duration) -> Result<Arc<KeySet>> {
        let asked = Instant::now();
        let mut last_failure = self.loading.lock().await;
        let loaded = self.loaded.load_full();
        if loaded.is_younger(age, now) {
            return Ok(loaded);
        }
        if let Some(failed) = last_failure.as_ref().filter(|failed| failed.at >= asked) {
            return Err(failed.error());
        }
        match self.read(now).await {
            Ok(keys) => {
                self.loaded.store(Arc::clone(&keys));
                Ok(keys)
            }
            Err(error) => {
                *last_failure = Some(Failed::of(&error));
                Err(error)
            }
        }
    }

    async fn read(&self, now: Timestamp) -> Result<Arc<KeySet>> {
        Ok(Arc::new(KeySet::read(signing_key::list(&self.db).await?, now)?))
    }
}

impl KeySet {
    fn read(rows: Vec<SigningKeyRow>, loaded_at: Timestamp) -> Result<Self> {
        let keys = rows.into_iter().map(|row| Key::read(row).map(Arc::new)).collect::<Result<_>>()?;
        Ok(Self { keys, loaded_at })
    }

    fn is_younger(&self, age: Duration, now: Timestamp) -> bool {
        self.loaded_at <= now && now < self.loaded_at.plus(age)
    }

    /// Returns the newest key that signs. If the clock was set back, it is the oldest one.
    fn signer(&self, now: Timestamp) -> Option<Arc<Key>> {
        let mut keys = self.keys.iter().rev();
        keys.find(|key| key.signs_from <= now).or_else(|| self.keys.first()).cloned()
    }

    fn find(&self, kid: &str, now: Timestamp) -> Option<Arc<Key>> {
        self.keys.iter().find(|key| key.kid == kid && key.verifies(now)).cloned()
    }

    /// Returns the keys that verify now, newest first.
    pub(super) fn public(&self, now: Timestamp) -> Vec<PublicSigningKey> {
        let signer = self.signer(now);
        let signs = |key: &Key| signer.as_ref().is_some_and(|signer| signer.kid == key.kid);
        let state = |key: &Key| match signs(key) {
            true => SigningKeyState::Signs,
            false if key.signs_from > now => SigningKeyState::Published,
            false => SigningKeyState::Verifies,
        };
        let public = |key: &Arc<Key>| PublicSigningKey {
            kid: key.kid.clone(),
            x: key.x.clone(),
            state: state(key),
            created_at: key.created_at,
            signs_from: key.signs_from,
            expires_at: key.expires_at,
        };
        self.keys.iter().filter(|key| key.verifies(now)).map(public).rev().collect()
    }
}

impl Key {
    fn read(row: SigningKeyRow) -> Result<Self> {
        let key = SigningKey::from_pkcs8_der(&row.private_key).map_err(unusable)?;
        let x = public_part(&key);
        Ok(Self {
            kid: row.kid,
            encoding: EncodingKey::from_ed_der(&row.private_key),
            decoding: DecodingKey::from_ed_components(&x).map_err(unusable)?,
            x,
            created_at: row.created_at,
            // A key of an earlier version of the schema signed from the beginning.
            signs_from: row.signs_from.max(row.created_at),
            expires_at: row.expires_at,
        })
    }

    fn verifies(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

/// Returns the id and the private key of a new pair.
pub(super) fn generate(random: &Random) -> Result<(String, Vec<u8>)> {
    let key = SigningKey::from_bytes(&random.bytes()?);
    let der = key.to_pkcs8_der().map_err(unusable)?;
    Ok((thumbprint(&key), der.as_bytes().to_vec()))
}

fn public_part(key: &SigningKey) -> String {
    URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes())
}

/// Returns the JWK thumbprint of a key (RFC 7638), which is its `kid`.
fn thumbprint(key: &SigningKey) -> String {
    let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, public_part(key));
    URL_SAFE_NO_PAD.encode(Sha256::digest(jwk.as_bytes()))
}

fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal("a signing key in the database cannot be used").with_source(error)
}
