//! Login: sign in, refresh tokens, sign out, and recover a password.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::users::UserPublic;
use crate::address::AddressKey;
use crate::auth::throttle::Action;
use crate::auth::{IssuedTokens, SecondFactorChallenge, SignIn};
use crate::email::{CredentialChange, Mail};
use crate::error::{Error, Result, code};
use crate::http::Host;
use crate::http::browser_rules;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Message, Reply};
use crate::http::session_cookie;
use crate::permission::HostPermission;

const TAG: &str = "login";

/// Returns the routes of login and password recovery.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::post("/api/v1/login/access-token", create_access_token)
            .public()
            .named(TAG, "login_access_token", "Login Access Token")
            .described(
                "Starts a session by the OAuth2 password flow. The username is the email address. If the account has a \
                 second factor, the response is 403 `second_factor_required` with the `challenge` for \
                 `/login/second-factor`.",
            )
            .query::<TokenReceiver>()
            .form::<LoginForm>()
            .replies::<Token>()
            .replies_empty(204),
        HostRoute::post("/api/v1/login/refresh-token", refresh_token)
            .public()
            .named(TAG, "refresh_token", "Refresh Token")
            .described("Replaces a refresh token and issues an access token. Reusing a refresh token ends its session.")
            .json::<RefreshRequest>()
            .replies::<Token>(),
        HostRoute::post("/api/v1/login/refresh-cookie", refresh_cookie)
            .public()
            .named(TAG, "refresh_cookie", "Refresh Cookie")
            .described("Does the same with the cookies of a session. The response has no content.")
            .replies_empty(204),
        HostRoute::post("/api/v1/login/logout", delete_session)
            .session()
            .named(TAG, "logout", "Logout")
            .described("Ends the session of the access token, and its cookies.")
            .replies::<Message>(),
        HostRoute::post("/api/v1/login/logout-cookie", end_cookies)
            .public()
            .named(TAG, "logout_cookie", "Logout Cookie")
            .described(
                "Ends the session of the refresh cookie and removes the cookies, also if the access token has expired. \
                 The response has no content.",
            )
            .replies_empty(204),
        HostRoute::post("/api/v1/login/test-token", read_token)
            .named(TAG, "test_token", "Test Token")
            .described("Returns the account of the access token.")
            .replies::<UserPublic>(),
        HostRoute::post("/api/v1/password-recovery/{email}", recover_password)
            .public()
            .named(TAG, "recover_password", "Recover Password")
            .described("Sends a link to set a new password if the address is known. The response is always the same.")
            .path::<String>("email")
            .replies::<Message>(),
        HostRoute::post("/api/v1/reset-password/", reset_password)
            .public()
            .named(TAG, "reset_password", "Reset Password")
            .described("Sets a new password with the token of a link and ends every session of the account.")
            .json::<NewPassword>()
            .replies::<Message>()
            .run_to_completion(),
        HostRoute::post("/api/v1/password-recovery-html-content/{email}", read_recovery_mail)
            .permission(HostPermission::UsersWrite)
            .named(TAG, "recover_password_html_content", "Recover Password Html Content")
            .described("Returns the recovery mail as HTML, with its subject in the header `subject`. No mail is sent.")
            .path::<String>("email"),
    ]
}

/// The form of the OAuth2 password flow.
#[derive(Deserialize, JsonSchema)]
struct LoginForm {
    #[serde(default, rename = "grant_type")]
    #[schemars(regex(pattern = r"^password$"))]
    _grant_type: Option<String>,
    /// The email address.
    username: String,
    password: String,
    /// Ignored.
    #[serde(default, rename = "scope")]
    _scope: String,
    /// Ignored.
    #[serde(default, rename = "client_id")]
    _client_id: Option<String>,
    /// Ignored.
    #[serde(default, rename = "client_secret")]
    _client_secret: Option<String>,
}

/// The tokens of a session.
#[derive(Serialize, JsonSchema)]
pub(super) struct Token {
    /// Sent with every request as `Authorization: Bearer …`.
    access_token: String,
    /// Always `bearer`.
    token_type: &'static str,
    /// Lifetime of the access token in seconds.
    expires_in: u64,
    /// Valid once, for `POST /login/refresh-token`.
    refresh_token: String,
}

#[derive(Deserialize, JsonSchema)]
struct RefreshRequest {
    refresh_token: String,
}

#[derive(Deserialize, JsonSchema)]
struct NewPassword {
    /// The token of the link.
    token: String,
    #[schemars(length(min = 8, max = 128))]
    new_password: String,
}

/// The place for the tokens of a sign-in.
#[derive(Deserialize, JsonSchema)]
pub(super) struct TokenReceiver {
    /// Sets the tokens as cookies that no script can read. The response then has the status 204 and no content. The
    /// request must come from a page of this host or of a frontend.
    #[serde(default)]
    cookie: bool,
}

impl TokenReceiver {
    /// Reads the wish of a request.
    ///
    /// # Errors
    /// 403 `cross_site_request`: another site could sign its visitor in to an account of its own.
    pub(super) fn of(call: &Call) -> Result<Self> {
        let receiver: Self = call.query()?;
        if receiver.cookie {
            browser_rules::require_frontend(call.is_from_frontend)?;
        }
        Ok(receiver)
    }
}

/// Returns the reply to a sign-in.
pub(super) fn signed_in(host: &Host, signed_in: SignIn, receiver: &TokenReceiver) -> Result<Reply> {
    match signed_in {
        SignIn::Tokens(issued) => issued_tokens(host, &issued, receiver),
        SignIn::SecondFactor(challenge) => Err(second_factor_required(&challenge)),
    }
}

/// Returns the reply with the tokens of a session.
pub(super) fn issued_tokens(host: &Host, issued: &IssuedTokens, receiver: &TokenReceiver) -> Result<Reply> {
    if receiver.cookie { cookies(host, issued) } else { token(issued) }
}

fn cookies(host: &Host, issued: &IssuedTokens) -> Result<Reply> {
    let reply = secret(Reply::empty(StatusCode::NO_CONTENT));
    let cookies = session_cookie::of_tokens(issued, host.config.auth.refresh_token_ttl)?;
    Ok(cookies.into_iter().fold(reply, Reply::with_cookie))
}

fn token(issued: &IssuedTokens) -> Result<Reply> {
    let reply = Reply::json(&Token {
        access_token: issued.access_token.expose().to_owned(),
        token_type: "bearer",
        expires_in: issued.expires_in.as_secs(),
        refresh_token: issued.refresh_token.expose().to_owned(),
    })?;
    Ok(secret(reply))
}

/// Returns the refusal that asks for the second factor. The challenge continues the sign-in.
pub(super) fn second_factor_required(challenge: &SecondFactorChallenge) -> Error {
    let methods: Vec<&str> = challenge.methods.iter().map(|method| method.as_str()).collect();
    Error::forbidden(code::SECOND_FACTOR_REQUIRED, "The account has a second factor; continue with it")
        .with_member("challenge", challenge.challenge.expose())
        .with_member("methods", methods)
}

/// Forbids caching a reply that contains a secret (RFC 6749, section 5.1).
pub(super) fn secret(reply: Reply) -> Reply {
    reply.with_header(CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

async fn create_access_token(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let receiver = TokenReceiver::of(&call)?;
    let form: LoginForm = call.json()?;
    let outcome = host.auth.sign_in(&form.username, &form.password, &call.client()).await?;
    signed_in(&host, outcome, &receiver)
}

async fn refresh_token(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let request: RefreshRequest = call.json()?;
    let refreshed = host.auth.refresh(&request.refresh_token).await;
    token(&host.auth.throttle().after(Action::Refresh, call.address, &code::INVALID_TOKEN, refreshed)?)
}

async fn refresh_cookie(host: Arc<Host>, call: Call) -> Result<Reply> {
    browser_rules::require_frontend(call.is_from_frontend)?;
    let token = session_cookie::refresh_token(&call.headers).ok_or_else(Error::invalid_token)?;
    let refreshed = host.auth.refresh(token).await;
    cookies(&host, &host.auth.throttle().after(Action::Refresh, call.address, &code::INVALID_TOKEN, refreshed)?)
}

async fn delete_session(host: Arc<Host>, call: Call) -> Result<Reply> {
    host.auth.sign_out(&call.initiator(), call.caller()?).await?;
    let reply = Reply::message("Logged out successfully")?;
    if session_cookie::access_token(&call.headers).is_none() {
        return Ok(reply);
    }
    Ok(session_cookie::ended_session()?.into_iter().fold(reply, Reply::with_cookie))
}

async fn end_cookies(host: Arc<Host>, call: Call) -> Result<Reply> {
    browser_rules::require_frontend(call.is_from_frontend)?;
    if let Some(token) = session_cookie::refresh_token(&call.headers) {
        let ended = host.auth.sign_out_by_refresh_token(token, &call.client()).await;
        match host.auth.throttle().after(Action::Refresh, call.address, &code::INVALID_TOKEN, ended) {
            // The session has ended already, so only the cookies are left.
            Err(error) if [code::INVALID_TOKEN, code::TOO_MANY_ATTEMPTS].contains(error.code()) => {}
            ended => ended?,
        }
    }
    let reply = secret(Reply::empty(StatusCode::NO_CONTENT));
    Ok(session_cookie::ended_session()?.into_iter().fold(reply, Reply::with_cookie))
}

async fn read_token(_: Arc<Host>, call: Call) -> Result<Reply> {
    Reply::json(&UserPublic::from(call.caller()?.user()?.clone()))
}

async fn recover_password(host: Arc<Host>, call: Call) -> Result<Reply> {
    let email: String = call.path("email")?;
    host.auth.throttle().check(Action::Recovery, AddressKey::of(&email).as_ref(), call.address)?;
    host.mail.enqueue(&Mail::recovery(&email)).await?;
    Reply::message("If that email is registered, we sent a password recovery link")
}

async fn reset_password(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let request: NewPassword = call.json()?;
    let reset = host.auth.reset_password(&request.token, &request.new_password, &call.client()).await;
    let user = host.auth.throttle().after(Action::PasswordReset, call.address, &code::INVALID_RESET_TOKEN, reset)?;
    host.mail.announce(user, CredentialChange::PasswordSet).await;
    Reply::message("Password updated successfully")
}

async fn read_recovery_mail(host: Arc<Host>, call: Call) -> Result<Reply> {
    let unknown =
        || Error::not_found(code::USER_NOT_FOUND, "The user with this username does not exist in the system.");
    let user = host.auth.user_by_email(&call.path::<String>("email")?).await?.ok_or_else(unknown)?;
    // The mail has a link that sets the password.
    host.auth.require_step_up(call.caller()?)?;
    let message = host.mail.preview_recovery(call.caller()?, &user, &call.initiator()).await?;
    let reply = secret(Reply::html(message.html));
    // A subject that is not ASCII is sent as UTF-8. Without control characters, it is always a valid header value.
    let subject: String = message.subject.chars().filter(|c| !c.is_control()).collect();
    Ok(match HeaderValue::from_bytes(subject.as_bytes()) {
        Ok(subject) => reply.with_header(HeaderName::from_static("subject"), subject),
        Err(_) => reply,
    })
}
