//! The second half of a sign-in, and step-up.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::login::{self, Token, TokenReceiver};
use crate::auth::Proof;
use crate::config::Secret;
use crate::error::{Error, FieldError, Result};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Message, Reply};

const TAG: &str = "login";

/// Returns the routes that take a proof of a second factor.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::post("/api/v1/login/second-factor", complete_sign_in)
            .public()
            .named(TAG, "second_factor", "Second Factor")
            .described(
                "Completes a sign-in that responded with `second_factor_required`. Takes its `challenge` and exactly one \
                 proof. A challenge ends after ten minutes, after five attempts, and with the sign-in.",
            )
            .query::<TokenReceiver>()
            .json::<SecondFactor>()
            .replies::<Token>()
            .replies_empty(204),
        HostRoute::post("/api/v1/login/step-up", step_up)
            .session()
            .named(TAG, "step_up", "Step Up")
            .described(
                "Proves again that the caller is the user of the session. Takes exactly one proof: of a second factor, or \
                 the password if the account has no second factor. Dangerous operations are open for a while then.",
            )
            .json::<StepUp>()
            .replies::<Message>(),
    ]
}

/// The continuation of a sign-in.
#[derive(Deserialize, JsonSchema)]
struct SecondFactor {
    /// From the response `second_factor_required`.
    #[schemars(length(max = 64))]
    challenge: String,
    /// The code that an authenticator app shows.
    #[serde(default)]
    #[schemars(with = "String", length(max = 32))]
    code: Option<String>,
    /// A recovery code.
    #[serde(default)]
    #[schemars(with = "String", length(max = 64))]
    recovery_code: Option<String>,
}

/// A fresh proof.
#[derive(Deserialize, JsonSchema)]
struct StepUp {
    /// The code that an authenticator app shows.
    #[serde(default)]
    #[schemars(with = "String", length(max = 32))]
    code: Option<String>,
    /// A recovery code.
    #[serde(default)]
    #[schemars(with = "String", length(max = 64))]
    recovery_code: Option<String>,
    /// The password, if the account has no second factor.
    #[serde(default)]
    #[schemars(with = "String", length(max = 128))]
    password: Option<String>,
}

fn proof(code: Option<String>, recovery_code: Option<String>) -> Option<Proof> {
    match (code, recovery_code) {
        (Some(code), None) => Some(Proof::Code(Secret::new(code))),
        (None, Some(code)) => Some(Proof::RecoveryCode(Secret::new(code))),
        _ => None,
    }
}

fn not_one_proof(members: &str) -> Error {
    Error::invalid(vec![FieldError::new("value_error", ["body"], format!("Send exactly one of {members}"))])
}

async fn complete_sign_in(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let receiver = TokenReceiver::of(&call)?;
    let SecondFactor { challenge, code, recovery_code } = call.json()?;
    let proof = proof(code, recovery_code).ok_or_else(|| not_one_proof("code, recovery_code"))?;
    let issued = host.auth.complete_sign_in(&challenge, &proof, &call.client()).await?;
    login::issued_tokens(&host, &issued, &receiver)
}

async fn step_up(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let StepUp { code, recovery_code, password } = call.json()?;
    let (caller, by) = (call.caller()?, call.initiator());
    match (proof(code.clone(), recovery_code.clone()), password) {
        (Some(proof), None) => host.auth.step_up(caller, &proof, &by).await?,
        (None, Some(password)) if code.is_none() && recovery_code.is_none() => {
            host.auth.step_up_by_password(caller, &password, &by).await?;
        }
        _ => return Err(not_one_proof("code, recovery_code, password")),
    }
    Reply::message("Stepped up successfully")
}
