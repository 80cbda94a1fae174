//! Verification of addresses: the link of a mail comes back, or another mail is requested.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::address::AddressKey;
use crate::auth::throttle::Action;
use crate::email::Mail;
use crate::error::{Result, code};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Message, Reply};

const TAG: &str = "users";

/// Returns the routes of verification.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::post("/api/v1/users/verify-email", verify_email)
            .public()
            .named(TAG, "verify_email", "Verify Email")
            .described(
                "Takes the token of a link: verifies the address of an account, or gives an account its new address.",
            )
            .json::<VerifyEmail>()
            .replies::<Message>(),
        HostRoute::post("/api/v1/users/verify-email/send", send_verification)
            .public()
            .named(TAG, "send_verification", "Send Verification")
            .described(
                "Sends a link to verify the address if an account has it and it is not verified. The response is always \
                 the same.",
            )
            .json::<SendVerification>()
            .replies::<Message>(),
    ]
}

#[derive(Deserialize, JsonSchema)]
struct VerifyEmail {
    /// The token of the link.
    token: String,
}

#[derive(Deserialize, JsonSchema)]
struct SendVerification {
    /// The address. Any text is accepted.
    email: String,
}

async fn verify_email(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let body: VerifyEmail = call.json()?;
    let proved = host.auth.prove_address(&body.token, &call.initiator(), |mail| host.mail.for_address(mail)).await;
    host.auth.throttle().after(Action::PasswordReset, call.address, &code::INVALID_VERIFICATION_TOKEN, proved)?;
    host.mail.wake();
    Reply::message("Email verified successfully")
}

async fn send_verification(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let body: SendVerification = call.json()?;
    host.auth.throttle().check(Action::Verification, AddressKey::of(&body.email).as_ref(), call.address)?;
    host.mail.enqueue(&Mail::verification(&body.email)).await?;
    Reply::message("If that email has an account and is not verified, we sent a link")
}
