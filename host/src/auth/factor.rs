//! Second factors: an authenticator app (TOTP), passkeys and recovery codes. Owns the ways to prove a second factor, and the rules
//! when one is asked for: at a sign-in of an account that has one, and before dangerous operations (step-up).
//!
//! The key of an app is stored as it is, next to the keys that sign access tokens: a person who can read the database can
//! sign in without it. Recovery codes and challenges are stored as SHA-256. Attempts are counted before the proof is
//! checked, per challenge and per account, and each step of an app is accepted once. The way of a sign-in: first factor →
//! [`SecondFactorChallenge`] → [`Proof`] → session with two factors.

mod challenge;
mod enrolment;
mod passkey;
mod proof;
mod recovery_code;
mod relying_party;
mod step_up;
mod totp;

use std::time::Duration;

use serde_json::Value;

pub use relying_party::RelyingParty;

use crate::clock::Timestamp;
use crate::config::Secret;
use crate::id::PasskeyId;

/// A way to prove a second factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A code of an authenticator app.
    Totp,
    /// A passkey.
    Passkey,
    /// A recovery code.
    RecoveryCode,
}

impl Method {
    /// Returns the word for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Totp => "totp",
            Self::Passkey => "passkey",
            Self::RecoveryCode => "recovery_code",
        }
    }
}

/// A proof that a client sends.
#[derive(Debug, Clone)]
pub enum Proof {
    /// The code that an authenticator app shows.
    Code(Secret),
    /// A recovery code, which works once.
    RecoveryCode(Secret),
    /// The response of a browser to a request for a passkey.
    Passkey {
        /// The site of the passkey.
        party: RelyingParty,
        /// The credential, as its `toJSON()` returns it.
        response: Value,
    },
}

/// A sign-in that waits for a second factor.
#[derive(Debug, Clone)]
pub struct SecondFactorChallenge {
    /// Continues this sign-in once, and is as secret as a token.
    pub challenge: Secret,
    /// The ways to continue.
    pub methods: Vec<Method>,
}

/// A passkey, as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passkey {
    /// The id.
    pub id: PasskeyId,
    /// The name that the owner chose.
    pub name: String,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it was last used.
    pub last_used_at: Option<Timestamp>,
}

/// The factors of an account, as its owner sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Factors {
    /// When the authenticator app was confirmed; `None` means that there is none.
    pub totp_since: Option<Timestamp>,
    /// The passkeys, oldest first.
    pub passkeys: Vec<Passkey>,
    /// The number of unused recovery codes.
    pub recovery_codes: i64,
}

impl Factors {
    /// Returns the ways to prove a second factor. An account with none needs no second factor.
    pub fn methods(&self) -> Vec<Method> {
        let mut methods = Vec::new();
        if self.totp_since.is_some() {
            methods.push(Method::Totp);
        }
        if !self.passkeys.is_empty() {
            methods.push(Method::Passkey);
        }
        if !methods.is_empty() && self.recovery_codes > 0 {
            methods.push(Method::RecoveryCode);
        }
        methods
    }
}

/// The key of an authenticator app before its first code.
#[derive(Debug, Clone)]
pub struct NewTotp {
    /// The key as people type it.
    pub key: Secret,
    /// The URI for a QR code, which contains the key.
    pub uri: Secret,
}

/// How long a sign-in waits for the second factor, and a new key for its first code.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
