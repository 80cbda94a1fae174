//! The second factors of the caller, and those of other accounts for operators.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::login::secret;
use crate::auth::{Factors, Method};
use crate::clock::Timestamp;
use crate::config::Secret;
use crate::email::CredentialChange;
use crate::error::Result;
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Message, Reply};
use crate::id::{PasskeyId, UserId};
use crate::permission::HostPermission;

const TAG: &str = "users";

/// Returns the routes of second factors.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::get("/api/v1/users/me/factors", read_factors_me)
            .session()
            .named(TAG, "read_factors_me", "Read Factors Me")
            .described("Shows the second factors of the caller.")
            .replies::<FactorsPublic>(),
        HostRoute::post("/api/v1/users/me/factors/totp", begin_totp_me)
            .session()
            .named(TAG, "begin_totp_me", "Begin Totp Me")
            .described(
                "Begins the enrolment of an authenticator app: returns its key, once. The first code completes it, within \
                 ten minutes. Requires a recent sign-in or step-up.",
            )
            .replies::<TotpPublic>(),
        HostRoute::post("/api/v1/users/me/factors/totp/verify", confirm_totp_me)
            .session()
            .named(TAG, "confirm_totp_me", "Confirm Totp Me")
            .described(
                "Completes the enrolment with the first code and returns recovery codes, once. Sign-ins require a code \
                 from then on. This session counts as one with two factors.",
            )
            .json::<TotpCode>()
            .replies::<RecoveryCodes>()
            .run_to_completion(),
        HostRoute::delete("/api/v1/users/me/factors/totp", remove_totp_me)
            .session()
            .named(TAG, "remove_totp_me", "Remove Totp Me")
            .described("Removes the authenticator app of the caller. Requires a recent proof of the second factor.")
            .replies::<Message>()
            .run_to_completion(),
        HostRoute::post("/api/v1/users/me/factors/recovery-codes", renew_recovery_codes_me)
            .session()
            .named(TAG, "renew_recovery_codes_me", "Renew Recovery Codes Me")
            .described(
                "Replaces the recovery codes of the caller and returns the new ones, once. Requires a recent proof of the \
                 second factor.",
            )
            .replies::<RecoveryCodes>()
            .run_to_completion(),
        HostRoute::get("/api/v1/users/{user_id}/factors", read_factors)
            .permission(HostPermission::UsersRead)
            .named(TAG, "read_factors", "Read Factors")
            .described("Shows the second factors of an account.")
            .path::<UserId>("user_id")
            .replies::<FactorsPublic>(),
        HostRoute::delete("/api/v1/users/{user_id}/factors", delete_factors)
            .permission(HostPermission::UsersWrite)
            .named(TAG, "delete_factors", "Delete Factors")
            .described(
                "Removes all second factors of an account and ends its sessions, for somebody who lost them. The caller \
                 must have every permission of the account.",
            )
            .path::<UserId>("user_id")
            .replies::<Message>()
            .run_to_completion(),
    ]
}

/// A passkey.
#[derive(Serialize, JsonSchema)]
struct PasskeyPublic {
    id: PasskeyId,
    name: String,
    created_at: Timestamp,
    last_used_at: Option<Timestamp>,
}

/// The second factors of an account.
#[derive(Serialize, JsonSchema)]
struct FactorsPublic {
    /// When the authenticator app was confirmed; `null` without one.
    totp_since: Option<Timestamp>,
    /// The passkeys, oldest first.
    passkeys: Vec<PasskeyPublic>,
    /// The number of unused recovery codes.
    recovery_codes: i64,
    /// The ways to prove a second factor: `totp`, `passkey`, `recovery_code`. Sign-ins require none if the list is empty.
    methods: Vec<&'static str>,
}

impl From<Factors> for FactorsPublic {
    fn from(factors: Factors) -> Self {
        let methods = factors.methods().into_iter().map(Method::as_str).collect();
        let passkeys = factors.passkeys.into_iter().map(|passkey| PasskeyPublic {
            id: passkey.id,
            name: passkey.name,
            created_at: passkey.created_at,
            last_used_at: passkey.last_used_at,
        });
        let passkeys = passkeys.collect();
        Self { totp_since: factors.totp_since, passkeys, recovery_codes: factors.recovery_codes, methods }
    }
}

/// The key of an authenticator app.
#[derive(Serialize, JsonSchema)]
struct TotpPublic {
    /// The key in base 32, to be typed into the app.
    secret: String,
    /// The same as an `otpauth:` URI, to be shown as a QR code.
    uri: String,
}

#[derive(Deserialize, JsonSchema)]
struct TotpCode {
    /// The code that the app shows.
    #[schemars(length(max = 32))]
    code: String,
}

/// Recovery codes. Each replaces a second factor once.
#[derive(Serialize, JsonSchema)]
struct RecoveryCodes {
    /// Empty if the account keeps the codes that it has.
    recovery_codes: Vec<String>,
}

fn recovery_codes(codes: &[Secret]) -> Result<Reply> {
    let recovery_codes = codes.iter().map(|code| code.expose().to_owned()).collect();
    Ok(secret(Reply::json(&RecoveryCodes { recovery_codes })?))
}

async fn read_factors_me(host: Arc<Host>, call: Call) -> Result<Reply> {
    Reply::json(&FactorsPublic::from(host.auth.factors(call.caller()?.user()?.id).await?))
}

async fn begin_totp_me(host: Arc<Host>, call: Call) -> Result<Reply> {
    let new = host.auth.begin_totp(call.caller()?, &host.config.server.project_name).await?;
    let shown = TotpPublic { secret: new.key.expose().to_owned(), uri: new.uri.expose().to_owned() };
    Ok(secret(Reply::json(&shown)?))
}

async fn confirm_totp_me(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let TotpCode { code } = call.json()?;
    let caller = call.caller()?;
    let codes = host.auth.confirm_totp(caller, &code, &call.initiator()).await?;
    host.mail.announce(caller.user()?.id, CredentialChange::TotpAdded).await;
    recovery_codes(&codes)
}

async fn remove_totp_me(host: Arc<Host>, call: Call) -> Result<Reply> {
    let caller = call.caller()?;
    host.auth.remove_totp(caller, &call.initiator()).await?;
    host.mail.announce(caller.user()?.id, CredentialChange::TotpRemoved).await;
    Reply::message("Authenticator app removed successfully")
}

async fn renew_recovery_codes_me(host: Arc<Host>, call: Call) -> Result<Reply> {
    let caller = call.caller()?;
    let codes = host.auth.renew_recovery_codes(caller, &call.initiator()).await?;
    host.mail.announce(caller.user()?.id, CredentialChange::RecoveryCodesReplaced).await;
    recovery_codes(&codes)
}

async fn read_factors(host: Arc<Host>, call: Call) -> Result<Reply> {
    // An unknown account is a 404.
    let user = host.auth.user(call.path("user_id")?).await?;
    Reply::json(&FactorsPublic::from(host.auth.factors(user.id).await?))
}

async fn delete_factors(host: Arc<Host>, call: Call) -> Result<Reply> {
    let (caller, user) = (call.caller()?, call.path("user_id")?);
    host.auth.require_step_up(caller)?;
    let user = host.auth.user(user).await?;
    host.auth.remove_factors_for(caller, user.id, &call.initiator()).await?;
    host.mail.announce(user.id, CredentialChange::FactorsRemoved).await;
    Reply::message("Factors removed successfully")
}
