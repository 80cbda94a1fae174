//! The second half of a sign-in, and step-up.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::login::{self, Token, TokenReceiver};
use crate::address::AddressKey;
use crate::auth::throttle::Action;
use crate::auth::{Proof, RelyingParty};
use crate::config::Secret;
use crate::error::{Error, FieldError, Result, code};
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

/// The proofs of a second factor; a request gives one of them.
#[derive(Deserialize, JsonSchema)]
struct FactorProofs {
    /// The code that an authenticator app shows.
    #[serde(default)]
    #[schemars(with = "String", length(max = 32))]
    code: Option<String>,
    /// A recovery code.
    #[serde(default)]
    #[schemars(with = "String", length(max = 64))]
    recovery_code: Option<String>,
    /// The credential of the browser for the options of `/login/passkey/options`, as its `toJSON()` returns it.
    #[serde(default)]
    #[schemars(with = "Map<String, Value>")]
    passkey: Option<Map<String, Value>>,
}

impl FactorProofs {
    fn are_none(&self) -> bool {
        self.code.is_none() && self.recovery_code.is_none() && self.passkey.is_none()
    }

    /// Returns the only proof among those given.
    fn only(self, host: &Host) -> Result<Option<Proof>> {
        Ok(match (self.code, self.recovery_code, self.passkey) {
            (Some(code), None, None) => Some(Proof::Code(Secret::new(code))),
            (None, Some(code), None) => Some(Proof::RecoveryCode(Secret::new(code))),
            (None, None, Some(response)) => {
                let party = RelyingParty::of(&host.config.server.frontend_url)?;
                Some(Proof::Passkey { party, response: Value::Object(response) })
            }
            _ => None,
        })
    }
}

/// The continuation of a sign-in.
#[derive(Deserialize, JsonSchema)]
struct SecondFactor {
    /// From the response `second_factor_required`.
    #[schemars(length(max = 64))]
    challenge: String,
    #[serde(flatten)]
    proofs: FactorProofs,
}

/// A fresh proof.
#[derive(Deserialize, JsonSchema)]
struct StepUp {
    #[serde(flatten)]
    proofs: FactorProofs,
    /// The password, if the account has no second factor.
    #[serde(default)]
    #[schemars(with = "String", length(max = 128))]
    password: Option<String>,
}

fn not_one_proof(members: &str) -> Error {
    Error::invalid(vec![FieldError::new("value_error", ["body"], format!("Send exactly one of {members}"))])
}

async fn complete_sign_in(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let receiver = TokenReceiver::of(&call)?;
    let SecondFactor { challenge, proofs } = call.json()?;
    let proof = proofs.only(&host)?.ok_or_else(|| not_one_proof("code, recovery_code, passkey"))?;
    // `auth::factor` bounds the wrong codes of one account.
    let attempt = host.auth.throttle().begin(Action::SecondFactor, None, call.address)?;
    let completed = host.auth.complete_sign_in(&challenge, &proof, &call.client()).await;
    // A try that the account's wait refused costs queries too.
    attempt.settle_any(&completed, &[code::INCORRECT_CODE, code::INVALID_PASSKEY, code::THROTTLED]);
    login::issued_tokens(&host, &completed?, &receiver)
}

async fn step_up(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let StepUp { proofs, password } = call.json()?;
    let no_factor = proofs.are_none();
    let (caller, by) = (call.caller()?, call.initiator());
    match (proofs.only(&host)?, password) {
        (Some(proof), None) => host.auth.step_up(caller, &proof, &by).await?,
        (None, Some(password)) if no_factor => {
            let account = AddressKey::of(&caller.user()?.email);
            let attempt = host.auth.throttle().begin(Action::PasswordCheck, account.as_ref(), call.address)?;
            let stepped_up = host.auth.step_up_by_password(caller, &password, &by).await;
            attempt.settle(&stepped_up, &code::INCORRECT_PASSWORD);
            stepped_up?;
        }
        _ => return Err(not_one_proof("code, recovery_code, passkey, password")),
    }
    Reply::message("Stepped up successfully")
}
