//! One OpenID Connect issuer: its discovered endpoints and keys, the URL of a sign-in, and the conversation after it.
//! Owns the errors of issuers in words. `id_token` checks the tokens. Knows no account.
//!
//! The documents of the issuer are kept for an hour. A signature by an unknown key fetches them again, once per
//! sign-in. After a failure, further sign-ins fail at once for a few seconds instead of waiting for the issuer one
//! after another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openidconnect::core::{
    CoreAuthDisplay, CoreAuthenticationFlow, CoreClaimName, CoreClaimType, CoreClient, CoreClientAuthMethod,
    CoreErrorResponseType, CoreGrantType, CoreJsonWebKey, CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm, CoreResponseMode, CoreResponseType, CoreSubjectIdentifierType, CoreTokenResponse,
    CoreUserInfoClaims,
};
use openidconnect::{
    AdditionalProviderMetadata, AuthType, AuthorizationCode, ClientId, ClientSecret, CsrfToken, DiscoveryError,
    IssuerUrl, Nonce, OAuth2TokenResponse as _, PkceCodeChallenge, PkceCodeVerifier, ProviderMetadata, RedirectUrl,
    RequestTokenError, Scope, StandardErrorResponse, SubjectIdentifier, UserInfoError,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Semaphore};

use super::fetch::{Fetch, FetchError};
use super::id_token::{Expected, Refusal, Vouched, display_name, verified, verified_address};
use super::pending::Pending;
use crate::clock::Timestamp;
use crate::config::Issuer;
use crate::egress::Egress;
use crate::error::{Error, Kind, Result, code};

/// How long the documents of an issuer are kept.
const METADATA_LIFETIME: Duration = Duration::from_secs(60 * 60);
/// How long a failed discovery is remembered.
const FAILURE_LIFETIME: Duration = Duration::from_secs(5);
/// The number of sign-ins that ask one issuer at a time: half of the requests that the host sends at once
/// (`egress::host_requests`), so that a slow issuer does not stop the others.
const PLACES: usize = 8;
/// How long a sign-in waits for a place.
const PATIENCE: Duration = Duration::from_secs(2);

/// The member of an issuer's metadata that says whether its responses name it (RFC 9207).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Extra {
    #[serde(default)]
    authorization_response_iss_parameter_supported: Option<bool>,
}

impl AdditionalProviderMetadata for Extra {}

type Metadata = ProviderMetadata<
    Extra,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

type TokenError = RequestTokenError<FetchError, StandardErrorResponse<CoreErrorResponseType>>;

/// An issuer of the configuration.
pub(super) struct Provider {
    pub(super) issuer: Issuer,
    redirect_url: String,
    egress: Egress,
    metadata: Mutex<Discovery>,
    places: Semaphore,
}

/// The state of the discovery.
enum Discovery {
    Missing,
    Known(Arc<Metadata>, Instant),
    Failed(Instant),
}

/// The response that the browser brings from the issuer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The state of the sign-in.
    pub state: Option<String>,
    /// The authorization code.
    pub code: Option<String>,
    /// The error code of the issuer.
    pub error: Option<String>,
    /// The issuer of the response (RFC 9207).
    pub iss: Option<String>,
}

impl Provider {
    /// `public_url` is the origin of this host.
    pub(super) fn new(issuer: Issuer, public_url: &str, egress: Egress) -> Self {
        let redirect_url = format!("{public_url}/api/v1/login/oidc/{}/callback", issuer.name);
        let (metadata, places) = (Mutex::new(Discovery::Missing), Semaphore::new(PLACES));
        Self { issuer, redirect_url, egress, metadata, places }
    }

    /// Returns the URL at the issuer where a person signs in.
    ///
    /// # Errors
    /// `issuer_unavailable`.
    pub(super) async fn authorization_url(&self, pending: &Pending, request_id: &Arc<str>) -> Result<String> {
        let fetch = self.fetch(request_id);
        let metadata = self.metadata(&fetch, None).await?;
        if !fetch.trusts(metadata.authorization_endpoint().as_str()) {
            return Err(self.unavailable().with_internal("the authorization endpoint is not encrypted"));
        }
        let client = CoreClient::from_provider_metadata((*metadata).clone(), self.client_id(), None)
            .set_redirect_uri(self.redirect_url()?);
        let (state, nonce) = (CsrfToken::new(pending.state()), Nonce::new(pending.nonce()));
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&PkceCodeVerifier::new(pending.verifier()));
        let flow = CoreAuthenticationFlow::AuthorizationCode;
        let request = client.authorize_url(flow, move || state, move || nonce).set_pkce_challenge(challenge);
        let scopes = self.issuer.scopes.iter().filter(|scope| *scope != "openid").cloned().map(Scope::new);
        let (url, ..) = request.add_scopes(scopes).url();
        Ok(url.into())
    }

    /// Returns the account that the issuer's answer vouches for.
    ///
    /// # Errors
    /// `issuer_refused`, `issuer_unavailable`, `issuer_response_invalid`.
    pub(super) async fn vouched(
        &self,
        pending: &Pending,
        answer: &Answer,
        now: Timestamp,
        request_id: &Arc<str>,
    ) -> Result<Vouched> {
        let Ok(Ok(_place)) = tokio::time::timeout(PATIENCE, self.places.acquire()).await else {
            return Err(self.unavailable().with_internal("too many sign-ins at the issuer at once"));
        };
        let fetch = self.fetch(request_id);
        let mut metadata = self.metadata(&fetch, None).await?;
        // A response of one issuer must not be taken for that of another one (RFC 9207).
        let names_itself = metadata.additional_metadata().authorization_response_iss_parameter_supported == Some(true);
        match &answer.iss {
            Some(iss) if *iss != self.issuer.url => return Err(invalid("the response is of another issuer")),
            None if names_itself => return Err(invalid("the response does not name its issuer")),
            Some(_) | None => {}
        }
        if let Some(error) = &answer.error {
            return Err(self.front_channel_error(error));
        }
        let code = answer.code.as_ref().ok_or_else(|| invalid("the response has no code"))?;
        let tokens = self.tokens(&metadata, &fetch, code, pending).await?;
        let checked = match verified(&tokens, self.expected(&metadata, pending), now) {
            Err(Refusal::UnknownKey) => {
                metadata = self.metadata(&fetch, Some(&metadata)).await?;
                verified(&tokens, self.expected(&metadata, pending), now)
            }
            checked => checked,
        };
        let vouched = checked.map_err(|refusal| match refusal {
            Refusal::UnknownKey => invalid("the ID token is signed with a key that the issuer does not publish"),
            Refusal::Invalid(reason) => invalid(reason),
        })?;
        if vouched.email.is_some() {
            return Ok(vouched);
        }
        self.with_user_info(&metadata, &fetch, &tokens, vouched).await
    }

    fn fetch(&self, request_id: &Arc<str>) -> Fetch {
        Fetch::new(self.egress.clone(), &self.issuer.url, Arc::clone(request_id))
    }

    fn expected<'a>(&self, metadata: &'a Metadata, pending: &Pending) -> Expected<'a> {
        let (issuer, keys) = (metadata.issuer(), metadata.jwks());
        Expected { client_id: self.client_id(), issuer, keys, nonce: pending.nonce() }
    }

    fn client_id(&self) -> ClientId {
        ClientId::new(self.issuer.client_id.clone())
    }

    fn redirect_url(&self) -> Result<RedirectUrl> {
        RedirectUrl::new(self.redirect_url.clone()).map_err(Error::internal)
    }

    fn issuer_url(&self) -> Result<IssuerUrl> {
        IssuerUrl::new(self.issuer.url.clone()).map_err(Error::internal)
    }

    /// Returns the documents of the issuer. Fetches them if they are missing, too old, or still `outdated`.
    async fn metadata(&self, fetch: &Fetch, outdated: Option<&Arc<Metadata>>) -> Result<Arc<Metadata>> {
        let mut discovery = self.metadata.lock().await;
        match &*discovery {
            Discovery::Known(known, since)
                if since.elapsed() < METADATA_LIFETIME && outdated.is_none_or(|old| !Arc::ptr_eq(old, known)) =>
            {
                return Ok(Arc::clone(known));
            }
            Discovery::Failed(since) if since.elapsed() < FAILURE_LIFETIME => return Err(self.unavailable()),
            Discovery::Missing | Discovery::Known(..) | Discovery::Failed(_) => {}
        }
        match Metadata::discover_async(self.issuer_url()?, fetch).await {
            Ok(found) => {
                let found = Arc::new(found);
                *discovery = Discovery::Known(Arc::clone(&found), Instant::now());
                Ok(found)
            }
            Err(error) => {
                *discovery = Discovery::Failed(Instant::now());
                let reason = discovery_reason(&error);
                tracing::warn!(issuer = %self.issuer.name, reason, "the discovery of an issuer failed");
                Err(self.unavailable().with_internal(reason))
            }
        }
    }

    /// Exchanges the code for tokens.
    async fn tokens(
        &self,
        metadata: &Metadata,
        fetch: &Fetch,
        code: &str,
        pending: &Pending,
    ) -> Result<CoreTokenResponse> {
        let secret = self.issuer.client_secret.as_ref().map(|secret| ClientSecret::new(secret.expose().to_owned()));
        let client = CoreClient::from_provider_metadata(metadata.clone(), self.client_id(), secret)
            .set_redirect_uri(self.redirect_url()?)
            .set_auth_type(auth_type(metadata));
        client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .map_err(|_| self.unavailable().with_internal("the issuer has no token endpoint"))?
            .set_pkce_verifier(PkceCodeVerifier::new(pending.verifier()))
            .request_async(fetch)
            .await
            .map_err(|error| self.back_channel_error(&error))
    }

    /// Completes an account whose address is not in the ID token: some issuers have it only at another endpoint.
    async fn with_user_info(
        &self,
        metadata: &Metadata,
        fetch: &Fetch,
        tokens: &CoreTokenResponse,
        vouched: Vouched,
    ) -> Result<Vouched> {
        // The library panics for a token that cannot stand in a header.
        let is_sendable = tokens.access_token().secret().bytes().all(|byte| byte.is_ascii_graphic());
        if metadata.userinfo_endpoint().is_none() || !is_sendable {
            return Ok(vouched);
        }
        let client = CoreClient::from_provider_metadata(metadata.clone(), self.client_id(), None);
        let subject = SubjectIdentifier::new(vouched.subject.clone());
        let request = client.user_info(tokens.access_token().clone(), Some(subject));
        let request = request.map_err(|error| invalid(error.to_string()))?;
        let claims: CoreUserInfoClaims = match request.request_async(fetch).await {
            Ok(claims) => claims,
            // The issuer gives no more than the ID token.
            Err(UserInfoError::Response(..)) => return Ok(vouched),
            Err(UserInfoError::Request(error)) => return Err(self.unavailable().with_internal(error)),
            // The text contains no body.
            Err(error) => return Err(invalid(format!("the user info of the issuer is not usable: {error}"))),
        };
        Ok(Vouched {
            email: verified_address(claims.email(), claims.email_verified()),
            name: vouched.name.or_else(|| display_name(claims.name())),
            ..vouched
        })
    }

    fn unavailable(&self) -> Error {
        let text = format!("{} cannot be reached at present; try again later", self.issuer.label);
        Error::new(Kind::Unavailable(FAILURE_LIFETIME), code::ISSUER_UNAVAILABLE, text)
    }

    fn refused(&self, text: &str) -> Error {
        Error::bad_request(code::ISSUER_REFUSED, format!("{}: {text}", self.issuer.label))
    }

    /// Returns the error for an error code that the browser brought (RFC 6749, section 4.1.2.1; OpenID Connect Core,
    /// section 3.1.2.6). The text of the issuer is not passed on, because anybody could have written it.
    fn front_channel_error(&self, error: &str) -> Error {
        let internal: String = error.chars().filter(|c| !c.is_control()).take(100).collect();
        let error = match error {
            "access_denied" => self.refused("the sign-in was cancelled or is not allowed"),
            "login_required" | "interaction_required" | "consent_required" | "account_selection_required" => {
                self.refused("it needs you to sign in there first")
            }
            "server_error" | "temporarily_unavailable" => self.unavailable(),
            _ => self.refused("it refuses the request of this host; its operator finds the reason in the log"),
        };
        error.with_internal(format!("the issuer reports {internal:?}"))
    }

    /// Returns the error for an answer of the token endpoint.
    fn back_channel_error(&self, error: &TokenError) -> Error {
        match error {
            RequestTokenError::ServerResponse(response) => {
                let refused = match response.error() {
                    CoreErrorResponseType::InvalidGrant => self.refused("the sign-in took too long; start again"),
                    CoreErrorResponseType::InvalidClient | CoreErrorResponseType::UnauthorizedClient => {
                        self.refused("it does not know this host; its operator must check the client id and secret")
                    }
                    _ => self.refused("it refuses the request of this host; its operator finds the reason in the log"),
                };
                let description: String = response.to_string().chars().filter(|c| !c.is_control()).take(200).collect();
                refused.with_internal(format!("the token endpoint responds with {description:?}"))
            }
            RequestTokenError::Request(error) => self.unavailable().with_internal(error),
            RequestTokenError::Parse(..) => invalid("the response of the token endpoint is not readable"),
            RequestTokenError::Other(_) => {
                self.unavailable().with_internal("the token endpoint sent no usable response")
            }
        }
    }
}

fn invalid(internal: impl std::fmt::Display) -> Error {
    let text = "The answer of the issuer is not valid; start again";
    Error::bad_request(code::ISSUER_RESPONSE_INVALID, text).with_internal(internal)
}

/// Returns the reason for the log. The body of a response is left out.
fn discovery_reason(error: &DiscoveryError<FetchError>) -> String {
    match error {
        DiscoveryError::Request(error) => error.to_string(),
        DiscoveryError::Parse(error) => format!("the document is not readable: {error}"),
        DiscoveryError::Validation(reason) | DiscoveryError::Response(_, _, reason) => reason.clone(),
        error => error.to_string(),
    }
}

/// Returns how the host names itself at the token endpoint: in a header unless the issuer only reads the body.
fn auth_type(metadata: &Metadata) -> AuthType {
    let methods = metadata.token_endpoint_auth_methods_supported().map(Vec::as_slice).unwrap_or_default();
    let only_body = methods.contains(&CoreClientAuthMethod::ClientSecretPost)
        && !methods.contains(&CoreClientAuthMethod::ClientSecretBasic);
    if only_body { AuthType::RequestBody } else { AuthType::BasicAuth }
}
