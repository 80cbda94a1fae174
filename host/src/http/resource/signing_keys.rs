//! Signing keys: their public parts for other services, their states and their rotation for operators.

use std::sync::Arc;

use axum::http::header::{CACHE_CONTROL, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::auth::{PUBLISHED_KEYS_MAX_AGE, PublicSigningKey, SigningKeyState};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::Reply;
use crate::permission::HostPermission;

const TAG: &str = "signing_keys";

/// Returns the routes of signing keys.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::get("/.well-known/jwks.json", read_key_set)
            .public()
            .named(TAG, "read_key_set", "Read Key Set")
            .described("Returns the public keys by which other services verify access tokens, as a JWK set (RFC 7517).")
            .replies::<KeySet>(),
        HostRoute::get("/api/v1/signing-keys/", read_signing_keys)
            .permission(HostPermission::SigningKeysRotate)
            .named(TAG, "read_signing_keys", "Read Signing Keys")
            .described("Lists the keys that verify access tokens, newest first, with their states.")
            .replies::<SigningKeysPublic>(),
        HostRoute::post("/api/v1/signing-keys/rotate", rotate_signing_key)
            .permission(HostPermission::SigningKeysRotate)
            .named(TAG, "rotate_signing_key", "Rotate Signing Key")
            .described(
                "Creates a signing key. It is published at once and signs ten minutes later. The older keys verify \
                 until their last token has expired. With `revoke_old`, it signs at once and the older keys are \
                 deleted: every access token is invalid then, and clients refresh.",
            )
            .query::<Rotation>()
            .replies::<SigningKeysPublic>()
            .run_to_completion(),
    ]
}

/// A JWK set (RFC 7517, section 5).
#[derive(Serialize, JsonSchema)]
struct KeySet {
    keys: Vec<PublicJwk>,
}

/// A public key of Ed25519 as a JWK (RFC 8037, section 2).
#[derive(Serialize, JsonSchema)]
struct PublicJwk {
    kty: &'static str,
    crv: &'static str,
    alg: &'static str,
    r#use: &'static str,
    kid: String,
    x: String,
}

/// The state of a signing key: it is `published`, it `signs`, or it only `verifies`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum State {
    Published,
    Signs,
    Verifies,
}

/// A signing key without its private part.
#[derive(Serialize, JsonSchema)]
struct SigningKeyPublic {
    kid: String,
    state: State,
    created_at: Timestamp,
    /// When it begins or began to sign.
    signs_from: Timestamp,
    /// When it stops to verify. `null` means that no other key has replaced it.
    expires_at: Option<Timestamp>,
}

#[derive(Serialize, JsonSchema)]
struct SigningKeysPublic {
    data: Vec<SigningKeyPublic>,
    count: usize,
}

#[derive(Deserialize, JsonSchema)]
struct Rotation {
    /// Whether the older keys are deleted at once.
    #[serde(default)]
    revoke_old: bool,
}

impl From<PublicSigningKey> for SigningKeyPublic {
    fn from(key: PublicSigningKey) -> Self {
        let state = match key.state {
            SigningKeyState::Published => State::Published,
            SigningKeyState::Signs => State::Signs,
            SigningKeyState::Verifies => State::Verifies,
        };
        let PublicSigningKey { kid, created_at, signs_from, expires_at, .. } = key;
        Self { kid, state, created_at, signs_from, expires_at }
    }
}

fn listed(keys: Vec<PublicSigningKey>) -> Result<Reply> {
    let data: Vec<SigningKeyPublic> = keys.into_iter().map(SigningKeyPublic::from).collect();
    Reply::json(&SigningKeysPublic { count: data.len(), data })
}

async fn read_key_set(host: Arc<Host>, _: Call) -> Result<Reply> {
    let jwk = |key: PublicSigningKey| PublicJwk {
        kty: "OKP",
        crv: "Ed25519",
        alg: "EdDSA",
        r#use: "sig",
        kid: key.kid,
        x: key.x,
    };
    let reply = Reply::json(&KeySet { keys: host.auth.signing_keys().await?.into_iter().map(jwk).collect() })?;
    let fresh = format!("public, max-age={}", PUBLISHED_KEYS_MAX_AGE.as_secs());
    Ok(reply.with_header(CACHE_CONTROL, HeaderValue::try_from(fresh).map_err(Error::internal)?))
}

async fn read_signing_keys(host: Arc<Host>, _: Call) -> Result<Reply> {
    listed(host.auth.signing_keys().await?)
}

async fn rotate_signing_key(host: Arc<Host>, call: Call) -> Result<Reply> {
    let rotation: Rotation = call.query()?;
    listed(host.auth.rotate_signing_key(&call.initiator(), rotation.revoke_old).await?)
}
