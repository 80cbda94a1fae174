//! Second factors: an authenticator app (TOTP) and recovery codes. Owns the ways to prove a second factor, and the rules
//! when one is asked for: at a sign-in of an account that has one, and before dangerous operations (step-up).
//!
//! The key of an app is stored as it is, next to the keys that sign access tokens: a person who can read the database can
//! sign in without it. Recovery codes and challenges are stored as SHA-256. Attempts are counted before the proof is
//! checked, per challenge and per account, and each step of an app is accepted once. The way of a sign-in: first factor →
//! [`SecondFactorChallenge`] → [`Proof`] → session with two factors.

mod challenge;
mod enrolment;
mod proof;
mod recovery_code;
mod step_up;
mod totp;

use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::Secret;

/// A way to prove a second factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A code of an authenticator app.
    Totp,
    /// A recovery code.
    RecoveryCode,
}

impl Method {
    /// Returns the word for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Totp => "totp",
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
}

/// A sign-in that waits for a second factor.
#[derive(Debug, Clone)]
pub struct SecondFactorChallenge {
    /// Continues this sign-in once, and is as secret as a token.
    pub challenge: Secret,
    /// The ways to continue.
    pub methods: Vec<Method>,
}

/// The factors of an account, as its owner sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Factors {
    /// When the authenticator app was confirmed; `None` means that there is none.
    pub totp_since: Option<Timestamp>,
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
