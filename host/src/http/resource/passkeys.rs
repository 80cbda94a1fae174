//! Passkeys: those of the caller, and sign-in with one.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::login::{self, Token, TokenReceiver, secret};
use crate::auth::RelyingParty;
use crate::auth::throttle::Action;
use crate::email::CredentialChange;
use crate::error::{Result, code};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Message, Reply};
use crate::id::PasskeyId;

/// Returns the routes of passkeys.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::post("/api/v1/login/passkey/options", begin_passkey_use)
            .public()
            .named("login", "passkey_options", "Passkey Options")
            .described(
                "Begins the use of a passkey. The browser passes the options to `navigator.credentials.get`. Its response \
                 is a proof for five minutes, once: for `/login/passkey`, `/login/second-factor` or `/login/step-up`.",
            )
            .replies::<PasskeyOptions>(),
        HostRoute::post("/api/v1/login/passkey", sign_in)
            .public()
            .named("login", "passkey", "Passkey")
            .described("Starts a session with a passkey, without a password.")
            .query::<TokenReceiver>()
            .json::<PasskeyUse>()
            .replies::<Token>()
            .replies_empty(204),
        HostRoute::post("/api/v1/users/me/factors/passkeys/options", begin_passkey_me)
            .session()
            .named("users", "begin_passkey_me", "Begin Passkey Me")
            .described(
                "Begins to add a passkey. The browser passes the options to `navigator.credentials.create`, within five \
                 minutes. Requires a recent sign-in or step-up.",
            )
            .replies::<PasskeyOptions>(),
        HostRoute::post("/api/v1/users/me/factors/passkeys", add_passkey_me)
            .session()
            .named("users", "add_passkey_me", "Add Passkey Me")
            .described(
                "Adds the passkey that the browser created, and returns recovery codes, once. Sign-ins with the password \
                 require a second factor from then on. This session counts as one with two factors.",
            )
            .json::<NewPasskey>()
            .replies::<AddedPasskey>()
            .run_to_completion(),
        HostRoute::delete("/api/v1/users/me/factors/passkeys/{passkey_id}", remove_passkey_me)
            .session()
            .named("users", "remove_passkey_me", "Remove Passkey Me")
            .described("Removes a passkey of the caller. Requires a recent proof of the second factor.")
            .path::<PasskeyId>("passkey_id")
            .replies::<Message>()
            .run_to_completion(),
    ]
}

/// Options for the browser.
#[derive(Serialize, JsonSchema)]
struct PasskeyOptions {
    /// The JSON form of `PublicKeyCredentialCreationOptions` or `PublicKeyCredentialRequestOptions` (WebAuthn, level 3).
    #[schemars(with = "Map<String, Value>")]
    options: Value,
}

#[derive(Deserialize, JsonSchema)]
struct PasskeyUse {
    /// The credential of the browser, as its `toJSON()` returns it.
    passkey: Map<String, Value>,
}

#[derive(Deserialize, JsonSchema)]
struct NewPasskey {
    /// A name for people, such as that of the device.
    #[schemars(length(min = 1, max = 100))]
    name: String,
    /// The credential of the browser, as its `toJSON()` returns it.
    passkey: Map<String, Value>,
}

#[derive(Serialize, JsonSchema)]
struct AddedPasskey {
    id: PasskeyId,
    /// Each replaces a second factor once. Empty if the account keeps the codes that it has.
    recovery_codes: Vec<String>,
}

fn party(host: &Host) -> Result<RelyingParty> {
    RelyingParty::of(&host.config.server.frontend_url)
}

async fn begin_passkey_use(host: Arc<Host>, call: Call) -> Result<Reply> {
    host.auth.throttle().check(Action::PasskeyRequest, None, call.address)?;
    let options = host.auth.begin_passkey_use(&party(&host)?).await?;
    Ok(secret(Reply::json(&PasskeyOptions { options })?))
}

async fn sign_in(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let receiver = TokenReceiver::of(&call)?;
    let PasskeyUse { passkey } = call.json()?;
    let attempt = host.auth.throttle().begin(Action::SecondFactor, None, call.address)?;
    let signed_in = host.auth.sign_in_by_passkey(&party(&host)?, &Value::Object(passkey), &call.client()).await;
    attempt.settle(&signed_in, &code::INVALID_PASSKEY);
    login::issued_tokens(&host, &signed_in?, &receiver)
}

async fn begin_passkey_me(host: Arc<Host>, call: Call) -> Result<Reply> {
    let options = host.auth.begin_passkey(call.caller()?, &party(&host)?).await?;
    Ok(secret(Reply::json(&PasskeyOptions { options })?))
}

async fn add_passkey_me(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let NewPasskey { name, passkey } = call.json()?;
    let (caller, by) = (call.caller()?, call.initiator());
    let (id, codes) = host.auth.add_passkey(caller, &party(&host)?, &name, &Value::Object(passkey), &by).await?;
    host.mail.announce(caller.user()?.id, CredentialChange::PasskeyAdded).await;
    let recovery_codes = codes.iter().map(|code| code.expose().to_owned()).collect();
    Ok(secret(Reply::json(&AddedPasskey { id, recovery_codes })?))
}

async fn remove_passkey_me(host: Arc<Host>, call: Call) -> Result<Reply> {
    let caller = call.caller()?;
    host.auth.remove_passkey(caller, call.path("passkey_id")?, &call.initiator()).await?;
    host.mail.announce(caller.user()?.id, CredentialChange::PasskeyRemoved).await;
    Reply::message("Passkey removed successfully")
}
