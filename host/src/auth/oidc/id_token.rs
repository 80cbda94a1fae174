//! The check of ID tokens: signed with a public key of the issuer, for this host alone, issued just now, with the nonce
//! of this browser. Owns the accepted algorithms and the claims that are read.

use std::time::Duration;

use chrono::{DateTime, Utc};
use openidconnect::core::{CoreIdTokenVerifier, CoreJsonWebKeySet, CoreJwsSigningAlgorithm, CoreTokenResponse};
use openidconnect::{
    ClaimsVerificationError, ClientId, EndUserEmail, EndUserName, IssuerUrl, LocalizedClaim, Nonce,
    SignatureVerificationError, TokenResponse as _,
};

use crate::clock::Timestamp;

/// The greatest difference between the clocks of the issuer and of this host.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
/// The longest subject (OpenID Connect Core, section 2), and the longest name and address that are read.
const MAX_TEXT: usize = 255;

/// Signatures with a public key of the issuer. Those with the client's secret are refused: anybody who learns it, such
/// as a second host with the same client, could sign in as everybody.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
];

/// The account at the issuer that an ID token vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vouched {
    pub(super) subject: String,
    /// The address, if the issuer has verified it.
    pub(super) email: Option<String>,
    pub(super) name: Option<String>,
}

/// The reason why an ID token is refused.
pub(super) enum Refusal {
    /// Its key may be new.
    UnknownKey,
    /// Any other reason, for the log. It may contain claims, but no token.
    Invalid(String),
}

/// The values that an ID token must have.
pub(super) struct Expected<'a> {
    pub(super) client_id: ClientId,
    pub(super) issuer: &'a IssuerUrl,
    pub(super) keys: &'a CoreJsonWebKeySet,
    pub(super) nonce: String,
}

/// Checks the ID token of a response.
pub(super) fn verified(tokens: &CoreTokenResponse, expected: Expected<'_>, now: Timestamp) -> Result<Vouched, Refusal> {
    let token = tokens.id_token().ok_or_else(|| Refusal::Invalid("the issuer sent no ID token".to_owned()))?;
    let time = date_time(now);
    let (earliest, latest) = (date_time(now.minus(CLOCK_SKEW * 2)), date_time(now.plus(CLOCK_SKEW)));
    let Expected { client_id, issuer, keys, nonce } = expected;
    // As for a client without a secret, so that no signature with the secret counts.
    let verifier = CoreIdTokenVerifier::new_public_client(client_id, issuer.clone(), keys.clone())
        .set_allowed_algs(ALGORITHMS)
        .set_time_fn(move || time)
        .set_issue_time_verifier_fn(move |issued| {
            let is_recent = (earliest..=latest).contains(&issued);
            if is_recent { Ok(()) } else { Err("not issued just now".to_owned()) }
        });
    let claims = token.claims(&verifier, &Nonce::new(nonce)).map_err(|error| match &error {
        ClaimsVerificationError::SignatureVerification(SignatureVerificationError::NoMatchingKey) => {
            Refusal::UnknownKey
        }
        _ => Refusal::Invalid(format!("the ID token is refused: {error}: {}", source(&error))),
    })?;
    let subject = claims.subject().as_str();
    if subject.is_empty() || subject.len() > MAX_TEXT || subject.chars().any(char::is_control) {
        return Err(Refusal::Invalid("the subject of the ID token is not valid".to_owned()));
    }
    Ok(Vouched {
        subject: subject.to_owned(),
        email: verified_address(claims.email(), claims.email_verified()),
        name: display_name(claims.name()),
    })
}

/// Returns the address if the issuer has verified it.
pub(super) fn verified_address(email: Option<&EndUserEmail>, is_verified: Option<bool>) -> Option<String> {
    let email = email.filter(|_| is_verified == Some(true))?.as_str();
    (email.len() <= MAX_TEXT).then(|| email.to_owned())
}

/// Returns the name without control characters, cut to the length that an account can have.
pub(super) fn display_name(name: Option<&LocalizedClaim<EndUserName>>) -> Option<String> {
    let name: String = name?.get(None)?.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect();
    Some(name).filter(|name| !name.is_empty())
}

fn source(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

fn date_time(at: Timestamp) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(at.0).unwrap_or_default()
}
