//! Invitations: an account without a password, and a mail with a link to set one.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::users::UserPublic;
use crate::address::Address;
use crate::auth::Invitation;
use crate::error::Result;
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::Reply;
use crate::id::RoleName;
use crate::permission::HostPermission;

/// Returns the route of invitations.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::post("/api/v1/users/invite", invite_user)
            .permission(HostPermission::UsersInvite)
            .named("users", "invite_user", "Invite User")
            .described(
                "Creates an account without a password and sends a link to set one. A person who has not accepted yet gets \
                 another mail, and their account stays as it is. The permissions of the roles must be the caller's own.",
            )
            .json::<UserInvite>()
            .replies::<UserPublic>(),
    ]
}

#[derive(Deserialize, JsonSchema)]
struct UserInvite {
    email: Address,
    #[serde(default)]
    #[schemars(length(max = 255))]
    full_name: Option<String>,
    /// The roles that the account gets in addition to the default ones.
    #[serde(default)]
    #[schemars(length(max = 20))]
    roles: Vec<RoleName>,
}

async fn invite_user(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let body: UserInvite = call.json()?;
    host.mail.require_delivery()?;
    let invitation = Invitation { email: body.email, full_name: body.full_name, roles: body.roles };
    let (caller, by) = (call.caller()?, call.initiator());
    if !invitation.roles.is_empty() {
        host.auth.require_step_up(caller)?;
    }
    let user = host.auth.invite(caller, invitation, &by, |user| host.mail.for_invitation(user)).await?;
    host.mail.wake();
    Reply::json(&UserPublic::from(user))
}
