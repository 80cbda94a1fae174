//! API keys: those of the caller, and all keys for operators.
//!
//! The routes below `/users/me` belong to a session, never to a key. An operator creates keys that belong to nobody, and
//! none for another account: the secret of such a key would let the operator act as that account.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::login::secret;
use super::pagination::Page;
use crate::auth::{ApiKey, NewKey};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Message, Reply};
use crate::id::{KeyId, UserId};
use crate::permission::{HostPermission, Permission};

const TAG: &str = "keys";

/// The lifetime of a key for which the client gives none: 90 days.
const DEFAULT_LIFETIME: u64 = 90 * 24 * 3600;

/// Returns the routes of API keys.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::get("/api/v1/users/me/keys", read_keys_me)
            .session()
            .named(TAG, "read_keys_me", "Read Keys Me")
            .described("Lists the API keys of the caller, newest first.")
            .query::<Page>()
            .replies::<KeysPublic>(),
        HostRoute::post("/api/v1/users/me/keys", create_key_me)
            .session()
            .named(TAG, "create_key_me", "Create Key Me")
            .described(
                "Creates an API key that belongs to the caller. It has the listed permissions as long as the caller \
                 has them. The response contains the key, which cannot be read again.",
            )
            .json::<KeyCreate>()
            .replies::<KeyCreated>(),
        HostRoute::delete("/api/v1/users/me/keys/{key_id}", delete_key_me)
            .session()
            .named(TAG, "delete_key_me", "Delete Key Me")
            .described("Revokes an API key of the caller. Its next request is refused.")
            .path::<KeyId>("key_id")
            .replies::<Message>(),
        HostRoute::get("/api/v1/keys/", read_keys)
            .permission(HostPermission::KeysRead)
            .named(TAG, "read_keys", "Read Keys")
            .described("Lists all API keys, newest first.")
            .query::<Page>()
            .replies::<KeysPublic>(),
        HostRoute::post("/api/v1/keys/", create_key)
            .permission(HostPermission::KeysWrite)
            .named(TAG, "create_key", "Create Key")
            .described(
                "Creates an API key that belongs to nobody. The caller needs a session and every permission of the \
                 key. The response contains the key, which cannot be read again.",
            )
            .json::<KeyCreate>()
            .replies::<KeyCreated>(),
        HostRoute::delete("/api/v1/keys/{key_id}", delete_key)
            .permission(HostPermission::KeysWrite)
            .named(TAG, "delete_key", "Delete Key")
            .described("Revokes an API key. Its next request is refused.")
            .path::<KeyId>("key_id")
            .replies::<Message>(),
    ]
}

/// An API key without its secret.
#[derive(Serialize, JsonSchema)]
struct KeyPublic {
    id: KeyId,
    name: String,
    /// The beginning of the key, by which a found key is recognized. It is no secret.
    prefix: String,
    /// The account that it belongs to. `null` means nobody.
    owner: Option<UserId>,
    /// The account that created it.
    created_by: UserId,
    permissions: Vec<Permission>,
    created_at: Timestamp,
    /// When it expires. `null` means never.
    expires_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    last_used_at: Option<Timestamp>,
}

impl From<ApiKey> for KeyPublic {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            prefix: key.prefix,
            owner: key.owner,
            created_by: key.created_by,
            permissions: key.permissions,
            created_at: key.created_at,
            expires_at: key.expires_at,
            last_used_at: key.last_used_at,
        }
    }
}

/// A page of API keys.
#[derive(Serialize, JsonSchema)]
struct KeysPublic {
    data: Vec<KeyPublic>,
    /// The number of keys before pagination.
    count: i64,
}

/// A new API key.
#[derive(Serialize, JsonSchema)]
struct KeyCreated {
    /// The key itself, for `Authorization: Bearer …`. It cannot be read again.
    key: String,
    #[serde(flatten)]
    about: KeyPublic,
}

#[derive(Deserialize, JsonSchema)]
struct KeyCreate {
    /// A name for people.
    #[schemars(length(min = 1, max = 100))]
    name: String,
    /// The permissions, such as `plugins:deploy`.
    #[schemars(length(min = 1, max = 100))]
    permissions: Vec<Permission>,
    /// The lifetime in seconds, 90 days unless given. `null` means that the key does not expire.
    #[serde(default = "default_lifetime")]
    #[schemars(range(min = 60, max = 315_360_000))]
    expires_in: Option<u64>,
}

#[allow(clippy::unnecessary_wraps, reason = "serde needs the type of the member")]
fn default_lifetime() -> Option<u64> {
    Some(DEFAULT_LIFETIME)
}

async fn create(host: &Host, mut call: Call, is_own: bool) -> Result<Reply> {
    let body: KeyCreate = call.json()?;
    // A stolen token must not become a credential that outlives it.
    host.auth.require_step_up(call.caller()?)?;
    let lifetime = body.expires_in.map(Duration::from_secs);
    let new = NewKey { name: body.name, is_own, permissions: body.permissions, lifetime };
    let (key, text) = host.auth.create_key(&call.initiator(), call.caller()?, new).await?;
    let reply = Reply::json(&KeyCreated { key: text.expose().to_owned(), about: key.into() })?;
    Ok(secret(reply))
}

async fn read(host: &Host, call: &Call, owner: Option<UserId>) -> Result<Reply> {
    let page: Page = call.query()?;
    let (keys, count) = host.auth.keys(owner, page.skip, page.limit).await?;
    Reply::json(&KeysPublic { data: keys.into_iter().map(KeyPublic::from).collect(), count })
}

async fn delete(host: &Host, call: &Call, owner: Option<UserId>) -> Result<Reply> {
    host.auth.revoke_key(&call.initiator(), owner, call.path("key_id")?).await?;
    Reply::message("API key revoked")
}

async fn read_keys_me(host: Arc<Host>, call: Call) -> Result<Reply> {
    read(&host, &call, Some(call.caller()?.user()?.id)).await
}

async fn create_key_me(host: Arc<Host>, call: Call) -> Result<Reply> {
    create(&host, call, true).await
}

async fn delete_key_me(host: Arc<Host>, call: Call) -> Result<Reply> {
    delete(&host, &call, Some(call.caller()?.user()?.id)).await
}

async fn read_keys(host: Arc<Host>, call: Call) -> Result<Reply> {
    read(&host, &call, None).await
}

async fn create_key(host: Arc<Host>, call: Call) -> Result<Reply> {
    create(&host, call, false).await
}

async fn delete_key(host: Arc<Host>, call: Call) -> Result<Reply> {
    delete(&host, &call, None).await
}
