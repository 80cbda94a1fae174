//! The entries of the queue of mails: their recipients, and which of them are not sent twice. An entry holds no token.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::credential_change::CredentialChange;
use super::templates::Template;
use crate::address::AddressKey;
use crate::id::UserId;

/// A longer key of an address belongs to no account, so its text need not be stored.
const MAX_KEY_BYTES: usize = 1024;

/// An entry of the queue: which mail goes to which recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Mail {
    /// A link to set a new password, if an account has this address. Any text is accepted.
    Recovery {
        /// The address as requested.
        email: String,
    },
    /// A link to set the first password.
    NewAccount {
        /// The new user.
        user_id: UserId,
    },
    /// A link by which an invited person sets their first password.
    Invitation {
        /// The account of the invited person.
        user_id: UserId,
    },
    /// A link to verify the address of an account, if an account has this address and it is not verified. Any text is
    /// accepted.
    Verification {
        /// The address as requested.
        email: String,
    },
    /// A note that somebody tried to sign up with the address of an account, or to change theirs to it.
    AccountExists {
        /// The address.
        email: String,
    },
    /// A link to confirm the new address of an account. It goes to that address.
    AddressChange {
        /// The account.
        user_id: UserId,
        /// The new address.
        email: String,
    },
    /// A note that an account has a new address. It goes to the old one.
    AddressChanged {
        /// The old address.
        old: String,
        /// The new address.
        new: String,
    },
    /// A note that a password, a second factor or a linked identity of an account was changed.
    CredentialChanged {
        /// The account.
        user_id: UserId,
        /// The change.
        change: CredentialChange,
    },
    /// A test of the delivery.
    Test {
        /// The recipient.
        email: String,
    },
}

impl Mail {
    /// Returns the recovery of an account, by any text that a client sends for its address.
    pub fn recovery(email: &str) -> Self {
        Self::Recovery { email: bounded(email) }
    }

    /// Returns the verification of an address, by any text that a client sends for it.
    pub fn verification(email: &str) -> Self {
        Self::Verification { email: bounded(email) }
    }

    pub(super) fn template(&self) -> Template {
        match self {
            Self::Recovery { .. } => Template::Recovery,
            Self::NewAccount { .. } => Template::NewAccount,
            Self::Invitation { .. } => Template::Invitation,
            Self::Verification { .. } => Template::Verification,
            Self::AccountExists { .. } => Template::AccountExists,
            Self::AddressChange { .. } => Template::AddressChange,
            Self::AddressChanged { .. } => Template::AddressChanged,
            Self::CredentialChanged { .. } => Template::CredentialChanged,
            Self::Test { .. } => Template::Test,
        }
    }

    /// Returns the key of mails that are not sent twice: those that a person can cause for another one, and those that a
    /// person can cause any number of times. It is a hash, so that the table of recent mails names no address.
    pub(super) fn repeat_key(&self) -> Option<Vec<u8>> {
        let recipient = match self {
            Self::Recovery { email } | Self::Verification { email } | Self::AccountExists { email } => key_text(email),
            // Otherwise one account could keep another one from the mail.
            Self::AddressChange { user_id, email } => format!("{user_id} {}", key_text(email)),
            Self::Invitation { user_id } => user_id.to_string(),
            Self::CredentialChanged { user_id, change } => format!("{user_id} {}", change.as_str()),
            Self::NewAccount { .. } | Self::AddressChanged { .. } | Self::Test { .. } => return None,
        };
        let key = Sha256::new().chain_update(self.template().as_str()).chain_update([0]).chain_update(recipient);
        Some(key.finalize().to_vec())
    }

    /// Returns whether a caller without an account can cause it.
    pub(super) fn is_anonymous(&self) -> bool {
        matches!(self, Self::Recovery { .. } | Self::Verification { .. } | Self::AccountExists { .. })
    }
}

/// Returns the key of an address. All texts that are no address have one key, and no account.
fn key_text(email: &str) -> String {
    AddressKey::of(email).map_or_else(String::new, |key| key.as_str().to_owned())
}

/// Returns the text for an address that a client sent, or an empty one if no account can have this address.
fn bounded(email: &str) -> String {
    let possible = AddressKey::of(email).is_some_and(|key| key.as_str().len() <= MAX_KEY_BYTES);
    if possible { email.to_owned() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_address_is_one_recipient_of_each_kind() {
        let key = |mail: &Mail| mail.repeat_key().unwrap();
        let recovery = key(&Mail::recovery("Jane@Example.com"));
        assert_eq!(recovery, key(&Mail::recovery(" jane@EXAMPLE.com ")));
        assert_ne!(recovery, key(&Mail::recovery("joan@example.com")));
        assert_ne!(recovery, key(&Mail::verification("jane@example.com")));
        assert_eq!(key(&Mail::recovery("no address")), key(&Mail::recovery("nul\0@example.com")));
        assert_eq!(Mail::Test { email: "a@example.com".to_owned() }.repeat_key(), None);
    }

    #[test]
    fn a_text_that_no_account_can_have_is_not_stored() {
        let long = format!("{}@example.com", "x".repeat(5000));
        for text in [long.as_str(), "no address", "nul\0@example.com"] {
            assert_eq!(Mail::recovery(text), Mail::Recovery { email: String::new() });
        }
        assert_eq!(Mail::recovery("a@example.com"), Mail::Recovery { email: "a@example.com".to_owned() });
    }
}
