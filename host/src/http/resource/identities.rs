//! The identities of the caller: their accounts at OpenID Connect issuers.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::login;
use super::oidc::{pending, return_to};
use crate::auth::Identity;
use crate::clock::Timestamp;
use crate::email::CredentialChange;
use crate::error::Result;
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Message, Reply};
use crate::id::{IdentityId, IssuerName};

const TAG: &str = "users";

/// Returns the routes.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::get("/api/v1/users/me/identities", read_identities)
            .named(TAG, "read_identities_me", "Read Identities Me")
            .described("Lists the accounts at issuers that the caller can sign in with, oldest first.")
            .replies::<IdentitiesPublic>(),
        HostRoute::post("/api/v1/users/me/identities", link_identity)
            .session()
            .named(TAG, "link_identity_me", "Link Identity Me")
            .described(
                "Begins to link an account at an issuer. The frontend sends the browser to `authorization_url`; it \
                 comes back to `return_to` with `linked`, or with `error` and `error_description`. The request must \
                 send and receive cookies.",
            )
            .json::<NewLink>()
            .replies::<LinkPublic>(),
        HostRoute::delete("/api/v1/users/me/identities/{identity_id}", delete_identity)
            .session()
            .named(TAG, "delete_identity_me", "Delete Identity Me")
            .described("Removes an identity of the caller, unless nothing else lets them sign in.")
            .path::<IdentityId>("identity_id")
            .replies::<Message>()
            .run_to_completion(),
    ]
}

/// An identity as its owner sees it.
#[derive(Serialize, JsonSchema)]
struct IdentityPublic {
    id: IdentityId,
    /// The name of the issuer; `null` if the configuration has it no longer.
    issuer: Option<IssuerName>,
    /// The URL of the issuer.
    url: String,
    /// The address that the issuer verified last.
    email: Option<String>,
    created_at: Timestamp,
    /// When the user last signed in with it.
    last_used_at: Timestamp,
}

#[derive(Serialize, JsonSchema)]
struct IdentitiesPublic {
    data: Vec<IdentityPublic>,
    count: usize,
    /// Whether the account has a password, too.
    has_password: bool,
}

#[derive(Deserialize, JsonSchema)]
struct NewLink {
    /// The name of the issuer.
    issuer: IssuerName,
    /// A URL of a frontend, or a path on the first one. `/login` if it is missing.
    #[serde(default)]
    #[schemars(length(max = 1000))]
    return_to: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct LinkPublic {
    /// The URL at the issuer.
    authorization_url: String,
}

async fn read_identities(host: Arc<Host>, call: Call) -> Result<Reply> {
    let user = call.caller()?.user()?.id;
    let shown = |identity: Identity| IdentityPublic {
        id: identity.id,
        issuer: host.oidc.issuer_of_url(&identity.issuer).cloned(),
        url: identity.issuer,
        email: identity.email,
        created_at: identity.created_at,
        last_used_at: identity.last_used_at,
    };
    let data: Vec<IdentityPublic> = host.auth.identities(user).await?.into_iter().map(shown).collect();
    Reply::json(&IdentitiesPublic { count: data.len(), data, has_password: host.auth.has_password(user).await? })
}

async fn link_identity(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let link: NewLink = call.json()?;
    let return_to = return_to(&host, link.return_to.as_deref())?;
    let begun = host.oidc.begin_link(&link.issuer, &return_to, call.caller()?, &call.request_id).await?;
    let reply = Reply::json(&LinkPublic { authorization_url: begun.url })?;
    Ok(login::secret(reply).with_cookie(pending(&begun.cookie)?))
}

async fn delete_identity(host: Arc<Host>, call: Call) -> Result<Reply> {
    let caller = call.caller()?;
    host.auth.unlink(caller, call.path("identity_id")?, &call.initiator()).await?;
    host.mail.announce(caller.user()?.id, CredentialChange::IdentityRemoved).await;
    Reply::message("Identity deleted successfully")
}
