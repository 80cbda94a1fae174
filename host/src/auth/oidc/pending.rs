//! A sign-in at an issuer that is not finished: the state that the browser keeps in a cookie meanwhile. The host stores
//! nothing, so that no flood of sign-ins fills anything.
//!
//! The cookie holds a random secret. The `state`, the `nonce` and the PKCE verifier are different hashes of it, so a
//! response, an ID token and a code fit only the browser that began. The cookie is not signed: with the prefix
//! `__Host-`, only the host itself and the browser's own user can write it, and each member of it affects only their
//! own sign-in. A link to an account that exists is bound to that account in the database (`db::identity`).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::clock::{Random, Timestamp};
use crate::error::Result;
use crate::id::IssuerName;

/// How long a person may be at the issuer.
pub const LIFETIME: Duration = Duration::from_secs(10 * 60);
/// The longest URL to return to.
pub const MAX_RETURN_TO: usize = 1000;
/// A longer cookie is not read.
const MAX_COOKIE: usize = 4096;

/// The end of a sign-in at an issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// The frontend gets a code. Holds its challenge.
    SignIn(String),
    /// The identity is linked to the account that the database names.
    Link,
}

/// The content of the cookie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    issuer: String,
    secret: String,
    pub(super) return_to: String,
    pub(super) purpose: Purpose,
    /// In seconds since 1970.
    begun: i64,
}

impl Pending {
    /// Begins a sign-in.
    pub(super) fn new(
        issuer: &IssuerName,
        return_to: &str,
        purpose: Purpose,
        random: &Random,
        now: Timestamp,
    ) -> Result<Self> {
        let secret: [u8; 32] = random.bytes()?;
        Ok(Self {
            issuer: issuer.to_string(),
            secret: URL_SAFE_NO_PAD.encode(secret),
            return_to: return_to.to_owned(),
            purpose,
            begun: now.as_secs(),
        })
    }

    /// Returns the value of the cookie.
    pub(super) fn cookie(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads a cookie. Returns `None` for one that is malformed, too old, or for another issuer.
    pub(super) fn read(cookie: &str, issuer: &IssuerName, now: Timestamp) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(Some(cookie).filter(|cookie| cookie.len() <= MAX_COOKIE)?).ok()?;
        let pending: Self = serde_json::from_slice(&bytes).ok()?;
        let age = now.as_secs().checked_sub(pending.begun)?;
        let is_current = u64::try_from(age).is_ok_and(|age| age < LIFETIME.as_secs());
        (is_current && pending.issuer == issuer.as_str() && pending.secret.len() == 43).then_some(pending)
    }

    /// Returns whether the state of a response belongs to this browser.
    pub(super) fn is_state(&self, state: &str) -> bool {
        state.as_bytes().ct_eq(self.state().as_bytes()).into()
    }

    pub(super) fn state(&self) -> String {
        self.derive("state")
    }

    pub(super) fn nonce(&self) -> String {
        self.derive("nonce")
    }

    pub(super) fn verifier(&self) -> String {
        self.derive("verifier")
    }

    /// Returns the hash by which the database knows this browser.
    pub(super) fn browser_hash(&self) -> [u8; 32] {
        Sha256::digest(format!("wharf oidc browser {}", self.secret)).into()
    }

    fn derive(&self, purpose: &str) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(format!("wharf oidc {purpose} {}", self.secret)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

    fn pending() -> (IssuerName, Pending) {
        let issuer: IssuerName = "google".parse().unwrap();
        let purpose = Purpose::SignIn("challenge".to_owned());
        let pending = Pending::new(&issuer, "https://shop.example/login", purpose, &Random::System, NOW).unwrap();
        (issuer, pending)
    }

    #[test]
    fn a_cookie_fits_its_issuer_and_ends_after_ten_minutes() {
        let (issuer, pending) = pending();
        let cookie = pending.cookie();
        assert_eq!(Pending::read(&cookie, &issuer, NOW.plus(LIFETIME - Duration::from_secs(1))), Some(pending.clone()));
        assert_eq!(Pending::read(&cookie, &issuer, NOW.plus(LIFETIME)), None);
        assert_eq!(Pending::read(&cookie, &issuer, NOW.minus(Duration::from_secs(1))), None, "from the future");
        assert_eq!(Pending::read(&cookie, &"other".parse().unwrap(), NOW), None);
        for bad in ["", "x", "e30", &"A".repeat(5000)] {
            assert_eq!(Pending::read(bad, &issuer, NOW), None, "{bad}");
        }
        let earliest = Pending { begun: i64::MIN, ..pending };
        assert_eq!(Pending::read(&earliest.cookie(), &issuer, NOW), None);
    }

    #[test]
    fn the_values_of_a_sign_in_differ_from_each_other_and_from_those_of_another() {
        let (_, one) = pending();
        let (_, two) = pending();
        let values = |pending: &Pending| [pending.state(), pending.nonce(), pending.verifier(), pending.secret.clone()];
        let all: std::collections::BTreeSet<_> = values(&one).into_iter().chain(values(&two)).collect();
        assert_eq!(all.len(), 8);
        assert!(one.is_state(&one.state()) && !one.is_state(&two.state()) && !one.is_state(""));
    }
}
