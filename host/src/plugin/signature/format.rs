//! The format of a signature: its fields, its bytes, its text form, and the check of a signature. Knows nothing of
//! files.
//!
//! A signature has 137 bytes: version (1), public key (32), time in seconds since 1970 (8, big-endian), SHA-256 of the
//! component (32), Ed25519 signature (64). The Ed25519 signature covers [`DOMAIN`] and all fields before it, so that a
//! signature that the same key made for another purpose is never valid for a component, and the reverse. The component
//! is the file without the signatures at its end, so several people can sign the same bytes in any order. A key is
//! identified by itself, so there is no lookup, and no two keys can be confused.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::private_key::PrivateKey;
use crate::clock::Timestamp;
use crate::public_key::{PUBLIC_KEY_LEN, PublicKey, SIGNATURE_LEN};

/// The prefix of every signed message: its purpose, which no other message of the same key has.
const DOMAIN: &[u8] = b"wharf plugin component signature\0";

/// The version of the format. A host refuses unknown versions rather than guess their content.
const VERSION: u8 = 1;

const DIGEST_LEN: usize = 32;
const STATEMENT_LEN: usize = 1 + PUBLIC_KEY_LEN + 8 + DIGEST_LEN;
pub(super) const LEN: usize = STATEMENT_LEN + SIGNATURE_LEN;

/// The prefix of a detached signature.
const PREFIX: &str = "wharf-signature:";

/// The maximum number of signatures of one file, which limits the work for an upload.
pub const MAX_SIGNATURES: usize = 16;

/// How far the signer's clock may be ahead of the host's.
pub const SKEW: Duration = Duration::from_secs(5 * 60);

/// A claim that a key signed a component at a time. It proves nothing before [`Signature::check`].
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    /// The key that claims to have signed.
    pub key: PublicKey,
    /// The time of signing, in whole seconds.
    pub at: Timestamp,
    component: [u8; DIGEST_LEN],
    signature: [u8; SIGNATURE_LEN],
}

/// Why bytes or a text are not a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The prefix is missing.
    #[error("it does not begin with {PREFIX}")]
    Prefix,
    /// The rest is not base64url, or is padded.
    #[error("it is not base64url after {PREFIX}")]
    Encoding,
    /// It is too short or too long.
    #[error("it does not have the length of a signature")]
    Length,
    /// A later version of Wharf made it, or it is damaged.
    #[error("it has the version {0}, and this Wharf supports only {VERSION}")]
    Version(u8),
    /// The key is not valid.
    #[error("its key is not an Ed25519 key")]
    Key,
    /// The time is after the year 9999.
    #[error("its time is not valid")]
    Time,
}

/// Why a signature is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSignature {
    /// It is for another component.
    #[error("the component is not the one that was signed: it was altered, or the signature is another file's")]
    Component,
    /// The key did not sign this message.
    #[error("the signature does not match its key: it was altered")]
    Signature,
    /// Its time is in the future, so its age would be meaningless.
    #[error("the signature has a time in the future, {0}; check the clock of the machine that signed")]
    Future(Timestamp),
}

/// The digest that is signed: SHA-256 of a file without the signatures at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComponentDigest([u8; DIGEST_LEN]);

impl ComponentDigest {
    /// Computes the digest of a component, which has no signatures at its end.
    pub fn of(component: &[u8]) -> Self {
        Self(Sha256::digest(component).into())
    }
}

impl Signature {
    /// Signs a component.
    pub fn sign(key: &PrivateKey, component: ComponentDigest, at: Timestamp) -> Self {
        // Rounded as the format stores it: no fraction, and no time before 1970.
        let at = Timestamp(at.as_secs().max(0).saturating_mul(1_000_000));
        let mut made = Self { key: key.public_key(), at, component: component.0, signature: [0; SIGNATURE_LEN] };
        made.signature = key.sign(&made.message());
        made
    }

    /// Checks that its key signed this component, and not in the future.
    ///
    /// # Errors
    /// The reason why it is not valid.
    pub fn check(&self, component: ComponentDigest, now: Timestamp) -> Result<(), InvalidSignature> {
        // First, so that a person with the wrong file reads this reason, whether or not the rest is right.
        if self.component != component.0 {
            return Err(InvalidSignature::Component);
        }
        if !self.key.verifies(&self.message(), &self.signature) {
            return Err(InvalidSignature::Signature);
        }
        if self.at > now.plus(SKEW) {
            return Err(InvalidSignature::Future(self.at));
        }
        Ok(())
    }

    /// Returns whether it claims to be for this component, which is true for every valid signature.
    pub fn is_of(&self, component: ComponentDigest) -> bool {
        self.component == component.0
    }

    /// Parses detached signatures, one per line.
    ///
    /// # Errors
    /// The number of the first invalid line, counted from one, with the reason.
    pub fn read_lines(text: &str) -> Result<Vec<Self>, (usize, Malformed)> {
        let lines = text.lines().map(str::trim).zip(1..).filter(|(line, _)| !line.is_empty());
        lines.map(|(line, number)| line.parse().map_err(|error| (number, error))).collect()
    }

    fn message(&self) -> Vec<u8> {
        [DOMAIN, &self.statement()].concat()
    }

    fn statement(&self) -> [u8; STATEMENT_LEN] {
        let mut statement = [0; STATEMENT_LEN];
        let time = self.at.as_secs().to_be_bytes();
        let parts = [VERSION].into_iter().chain(*self.key.as_bytes()).chain(time).chain(self.component);
        for (to, from) in statement.iter_mut().zip(parts) {
            *to = from;
        }
        statement
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        [self.statement().as_slice(), &self.signature].concat()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        // Checked before the length, which may differ in another version.
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&version) => return Err(Malformed::Version(version)),
            None => return Err(Malformed::Length),
        }
        let bytes: &[u8; LEN] = bytes.try_into().map_err(|_| Malformed::Length)?;
        let (_, rest) = bytes.split_first_chunk::<1>().ok_or(Malformed::Length)?;
        let (key, rest) = rest.split_first_chunk::<PUBLIC_KEY_LEN>().ok_or(Malformed::Length)?;
        let (time, rest) = rest.split_first_chunk::<8>().ok_or(Malformed::Length)?;
        let (component, rest) = rest.split_first_chunk::<DIGEST_LEN>().ok_or(Malformed::Length)?;
        let signature = rest.try_into().map_err(|_| Malformed::Length)?;
        let seconds = u64::from_be_bytes(*time);
        // The last second of the year 9999, the last year that timestamps support.
        let seconds = i64::try_from(seconds).ok().filter(|seconds| *seconds <= 253_402_300_799);
        Ok(Self {
            key: PublicKey::from_bytes(key).map_err(|_| Malformed::Key)?,
            at: Timestamp(seconds.and_then(|seconds| seconds.checked_mul(1_000_000)).ok_or(Malformed::Time)?),
            component: *component,
            signature,
        })
    }
}

impl FromStr for Signature {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let encoded = text.strip_prefix(PREFIX).ok_or(Malformed::Prefix)?;
        Self::from_bytes(&URL_SAFE_NO_PAD.decode(encoded).map_err(|_| Malformed::Encoding)?)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.to_bytes()))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({} at {})", self.key, self.at)
    }
}

impl fmt::Display for ComponentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests;
