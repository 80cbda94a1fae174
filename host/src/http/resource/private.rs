//! Creation of accounts without authentication, for tests of frontends. Only available in development.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::users::UserPublic;
use crate::address::Address;
use crate::auth::NewAccount;
use crate::config::Secret;
use crate::error::Result;
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::Reply;

const TAG: &str = "private";

/// Returns the routes for development. `http::resource` omits them unless `server.development` is set.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::post("/api/v1/private/users/", create_user)
            .public()
            .named(TAG, "create_user", "Create User")
            .described("Creates an account without authentication. Only available in development.")
            .json::<PrivateUserCreate>()
            .replies::<UserPublic>(),
    ]
}

#[derive(Deserialize, JsonSchema)]
struct PrivateUserCreate {
    email: Address,
    /// A password of any length.
    password: String,
    #[schemars(length(max = 255))]
    full_name: String,
    /// Ignored.
    #[serde(default, rename = "is_verified")]
    _is_verified: bool,
}

async fn create_user(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let body: PrivateUserCreate = call.json()?;
    let account = NewAccount {
        email: body.email,
        password: Secret::new(body.password),
        full_name: Some(body.full_name),
        is_active: true,
        is_superuser: false,
    };
    Reply::json(&UserPublic::from(host.auth.create_user(account, &call.initiator()).await?))
}
