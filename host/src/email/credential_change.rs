//! The changes of an account that its owner learns by mail, because they decide who can sign in. Owns their names for
//! templates and their sentences. An address has mails of its own (`email::mail`).

use serde::{Deserialize, Serialize};

/// A change of a password, a second factor or a linked identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialChange {
    /// A new password, by whomever.
    PasswordSet,
    /// A new authenticator app.
    TotpAdded,
    /// The authenticator app is gone.
    TotpRemoved,
    /// A new passkey.
    PasskeyAdded,
    /// A passkey is gone.
    PasskeyRemoved,
    /// Other recovery codes.
    RecoveryCodesReplaced,
    /// Somebody who may change the account removed all its second factors.
    FactorsRemoved,
    /// A new account at an issuer.
    IdentityLinked,
    /// An account at an issuer is gone.
    IdentityRemoved,
}

impl CredentialChange {
    /// Returns the name for templates.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PasswordSet => "password_set",
            Self::TotpAdded => "totp_added",
            Self::TotpRemoved => "totp_removed",
            Self::PasskeyAdded => "passkey_added",
            Self::PasskeyRemoved => "passkey_removed",
            Self::RecoveryCodesReplaced => "recovery_codes_replaced",
            Self::FactorsRemoved => "factors_removed",
            Self::IdentityLinked => "identity_linked",
            Self::IdentityRemoved => "identity_removed",
        }
    }

    /// Returns the change as one sentence for its owner.
    pub(super) fn sentence(self) -> &'static str {
        match self {
            Self::PasswordSet => "A new password was set.",
            Self::TotpAdded => "An authenticator app was added.",
            Self::TotpRemoved => "The authenticator app was removed.",
            Self::PasskeyAdded => "A passkey was added.",
            Self::PasskeyRemoved => "A passkey was removed.",
            Self::RecoveryCodesReplaced => "The recovery codes were replaced.",
            Self::FactorsRemoved => "All second factors were removed.",
            Self::IdentityLinked => "An account at another service was linked, which can sign in to this one.",
            Self::IdentityRemoved => "The link to an account at another service was removed.",
        }
    }
}
