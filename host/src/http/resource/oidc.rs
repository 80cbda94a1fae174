//! Sign-in at OpenID Connect issuers. The browser visits two routes of the host; the frontend calls the others. A
//! failure on the way goes to the frontend as a code and a text in the query, because a person is looking at the page.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::http::header::{HeaderValue, LOCATION};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::login::{self, TokenReceiver};
use crate::auth::throttle::Action;
use crate::auth::{Ended, MAX_RETURN_TO, OIDC_LIFETIME, OidcAnswer};
use crate::config::{FrontendOrigin, Secret};
use crate::email::CredentialChange;
use crate::error::{Error, FieldError, Result};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::Reply;
use crate::http::request_head;
use crate::http::session_cookie;
use crate::id::IssuerName;

const TAG: &str = "login";

/// Returns the routes.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::get("/api/v1/login/issuers", read_issuers)
            .public()
            .named(TAG, "read_issuers", "Read Issuers")
            .described("Lists the OpenID Connect issuers that people can sign in with.")
            .replies::<IssuersPublic>(),
        HostRoute::get("/api/v1/login/oidc/{issuer}", begin_sign_in)
            .public()
            .named(TAG, "begin_sign_in", "Begin Sign In")
            .described(
                "Sends the browser to an issuer. It comes back to `return_to` with a `code` for \
                 `POST /login/exchange-code`, or with `error` and `error_description`.",
            )
            .path::<IssuerName>("issuer")
            .query::<SignInQuery>()
            .replies_empty(303),
        HostRoute::get("/api/v1/login/oidc/{issuer}/callback", finish_sign_in)
            .public()
            .named(TAG, "finish_sign_in", "Finish Sign In")
            .described("Receives the response of an issuer from the browser. This is the redirect URI of this host.")
            .path::<IssuerName>("issuer")
            .query::<CallbackQuery>()
            .replies_empty(303)
            .run_to_completion(),
        HostRoute::post("/api/v1/login/exchange-code", exchange_code)
            .public()
            .named(TAG, "exchange_code", "Exchange Code")
            .described("Starts a session with the code that the browser brought back. A code works once, for a minute.")
            .query::<TokenReceiver>()
            .json::<CodeExchange>()
            .replies::<login::Token>()
            .replies_empty(204),
    ]
}

/// An issuer as a page for signing in shows it.
#[derive(Serialize, JsonSchema)]
struct IssuerPublic {
    /// The name in paths.
    name: IssuerName,
    /// The name for people.
    label: String,
}

#[derive(Serialize, JsonSchema)]
struct IssuersPublic {
    data: Vec<IssuerPublic>,
    count: usize,
}

#[derive(Deserialize, JsonSchema)]
struct SignInQuery {
    /// The base64url of the SHA-256 of a random verifier that the frontend keeps (PKCE, method S256).
    #[schemars(regex(pattern = r"^[A-Za-z0-9_-]{43}$"))]
    code_challenge: String,
    /// The URL of a page of a frontend, or a path on the first one. `/login` if it is missing.
    #[serde(default)]
    #[schemars(length(max = 1000))]
    return_to: Option<String>,
}

/// The parameters that issuers add. Nothing is required, so that a person gets a text about the sign-in and not about a
/// parameter.
#[derive(Deserialize, JsonSchema)]
struct CallbackQuery {
    #[serde(default)]
    #[schemars(length(max = 4096))]
    code: Option<String>,
    #[serde(default)]
    #[schemars(length(max = 4096))]
    state: Option<String>,
    #[serde(default)]
    #[schemars(length(max = 4096))]
    error: Option<String>,
    #[serde(default)]
    #[schemars(length(max = 4096))]
    iss: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct CodeExchange {
    /// The code in the query of `return_to`.
    code: String,
    /// The verifier whose challenge began the sign-in.
    #[schemars(length(min = 43, max = 128))]
    code_verifier: String,
}

async fn read_issuers(host: Arc<Host>, _: Call) -> Result<Reply> {
    let shown = |(name, label): (&IssuerName, &str)| IssuerPublic { name: name.clone(), label: label.to_owned() };
    let data: Vec<IssuerPublic> = host.oidc.issuers().map(shown).collect();
    Reply::json(&IssuersPublic { count: data.len(), data })
}

async fn begin_sign_in(host: Arc<Host>, call: Call) -> Result<Reply> {
    let query: SignInQuery = call.query()?;
    let return_to = return_to(&host, query.return_to.as_deref())?;
    let issuer = call.path("issuer")?;
    let attempt = host.auth.throttle().begin(Action::IssuerSignIn, None, call.address)?;
    let begun = host.oidc.begin(&issuer, &return_to, &query.code_challenge, &call.request_id).await?;
    attempt.succeeded();
    Ok(redirect(&begun.url)?.with_cookie(pending(&begun.cookie)?))
}

async fn finish_sign_in(host: Arc<Host>, call: Call) -> Result<Reply> {
    let query: CallbackQuery = call.query()?;
    let answer = OidcAnswer { state: query.state, code: query.code, error: query.error, iss: query.iss };
    let cookie = session_cookie::sign_in(&call.headers);
    let issuer: IssuerName = call.path("issuer")?;
    // Anybody can begin a sign-in and invent the answer, with which the host then asks the issuer.
    let attempt = host.auth.throttle().begin(Action::IssuerSignIn, None, call.address)?;
    let finished = host.oidc.finish(&issuer, cookie, &answer, &call.client()).await?;
    if finished.result.is_ok() {
        attempt.succeeded();
    }
    let linked = match &finished.result {
        Ok(Ended::Linked(user) | Ended::Code { linked: Some(user), .. }) => Some(*user),
        Ok(Ended::Code { .. }) | Err(_) => None,
    };
    if let Some(user) = linked {
        host.mail.announce(user, CredentialChange::IdentityLinked).await;
    }
    // The cookie is not signed, so the URL in it is checked again.
    let mut url = Url::parse(&return_to(&host, Some(&finished.return_to))?).map_err(Error::internal)?;
    {
        let mut query = url.query_pairs_mut();
        match &finished.result {
            Ok(Ended::Code { code, .. }) => query.append_pair("code", code.expose()),
            Ok(Ended::Linked(_)) => query.append_pair("linked", issuer.as_str()),
            Err(error) => {
                query.append_pair("error", error.code().as_str()).append_pair("error_description", error.public())
            }
        };
    }
    Ok(redirect(url.as_str())?.with_cookie(session_cookie::ended_sign_in()?))
}

async fn exchange_code(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let receiver = TokenReceiver::of(&call)?;
    let exchange: CodeExchange = call.json()?;
    let signed_in = host.oidc.exchange(&exchange.code, &exchange.code_verifier, &call.client()).await?;
    login::signed_in(&host, signed_in, &receiver)
}

/// Returns the cookie that keeps the state of a sign-in.
pub(super) fn pending(state: &Secret) -> Result<HeaderValue> {
    session_cookie::of_sign_in(state.expose(), OIDC_LIFETIME)
}

/// Sends the browser elsewhere. No cache keeps the URL, which may contain a secret.
fn redirect(url: &str) -> Result<Reply> {
    let location = HeaderValue::from_str(url).map_err(Error::internal)?;
    Ok(login::secret(Reply::empty(StatusCode::SEE_OTHER).with_header(LOCATION, location)))
}

/// Returns the URL of the frontend that a browser returns to. Only the origins of frontends and of the host itself are
/// allowed: otherwise a link to this host could lead anywhere, with a code. An origin that only a pattern allows does
/// not count, because anybody may have a host below the domain.
///
/// # Errors
/// 422: it is another URL, or no page of a frontend.
pub(super) fn return_to(host: &Host, wanted: Option<&str>) -> Result<String> {
    let refused = || {
        let text = "Input should be the path or the URL of a page of an allowed frontend";
        Error::invalid(vec![FieldError::new("value_error", ["query", "return_to"], text)])
    };
    let server = &host.config.server;
    let base = Url::parse(server.frontend_url.links()).map_err(Error::internal)?;
    let url = match wanted {
        None => format!("{}/login", server.frontend_url.links()).parse::<Url>(),
        Some(text) if text.len() > MAX_RETURN_TO => return Err(refused()),
        // A URL parser drops some characters and reads others as slashes.
        Some(text) if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') => return Err(refused()),
        Some(text) => base.join(text),
    };
    let mut url: Url = url.map_err(|_| refused())?;
    let origin = url.origin().ascii_serialization();
    let is_web = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
    let is_named = |allowed: &FrontendOrigin| matches!(allowed, FrontendOrigin::One(one) if *one == origin);
    let is_known = server.frontend_url.origins().iter().any(is_named) || server.public_origin() == origin;
    if !is_web || !is_known || !is_page(host, url.path()) {
        return Err(refused());
    }
    url.set_fragment(None);
    Ok(url.into())
}

/// Returns whether a path can be that of a page of a frontend. A plugin that received the code could exchange it,
/// because anybody may choose the challenge of a link that begins a sign-in. The origin does not matter: the host may
/// serve several of the frontends.
fn is_page(host: &Host, path: &str) -> bool {
    let path = request_head::normalized(path);
    // A proxy in front of the host may read these as a slash.
    let is_ambiguous = ["//", "%2F", "%5C"].into_iter().any(|text| path.contains(text));
    let is_api = path == "/api" || path.starts_with("/api/");
    !is_ambiguous && !is_api && host.plugins.generation().find(&path).is_none()
}
