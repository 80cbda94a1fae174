//! Signatures of component files: who vouches for these bytes, and since when. Owns the format, in the file
//! (`section`) and beside it, the private keys (`private_key`) and what a host makes of signatures at a deploy (`policy`);
//! never knows how a file came here.
//!
//! A signature is 137 bytes: version (1), public key (32), time in seconds since 1970 (8, big-endian), SHA-256 of the
//! component (32), Ed25519 signature (64). The last signs [`DOMAIN`] and all that stands before it, so that no signature
//! made for anything else, by the same key, is one of a component, and none of these is anything else. The component is
//! the file without the signatures at its end: several people sign the same bytes, in any order. A key's name is the key
//! itself, so nothing has to be looked up, and no two keys are mixed up.
//!
//! Inside a file each signature is a custom section of its own (`section`). Beside it, in `FILE.sig` and in the operator
//! API, it is a line: `wharf-signature:` and the same bytes in base64url.

mod policy;
mod private_key;
mod section;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

pub(super) use self::policy::VerifiedSignatures;
pub use self::private_key::{PrivateKey, UnusablePrivateKey};
pub use self::section::{Signed, Unreadable};
use crate::clock::Timestamp;
use crate::public_key::{PUBLIC_KEY_LEN, PublicKey, SIGNATURE_LEN};

/// What every signed text begins with: its purpose, which no other text of this key's has.
const DOMAIN: &[u8] = b"wharf plugin component signature\0";

/// Of the format. A host refuses what it does not know rather than to guess what is signed.
const VERSION: u8 = 1;

const DIGEST_LEN: usize = 32;
const STATEMENT_LEN: usize = 1 + PUBLIC_KEY_LEN + 8 + DIGEST_LEN;
const LEN: usize = STATEMENT_LEN + SIGNATURE_LEN;

/// What a signature beside a file begins with.
const PREFIX: &str = "wharf-signature:";

/// Most signatures of one file; bounds the work that an upload can ask for.
pub const MAX_SIGNATURES: usize = 16;

/// How far the clock of whoever signs may be ahead of ours.
pub const SKEW: Duration = Duration::from_secs(5 * 60);

/// A claim that a key signed a component at a time. Says nothing before [`Signature::check`].
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    /// The key that claims to have signed.
    pub key: PublicKey,
    /// When, in whole seconds.
    pub at: Timestamp,
    component: [u8; DIGEST_LEN],
    signature: [u8; SIGNATURE_LEN],
}

/// Why bytes or a text are no signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not the text of one.
    #[error("it does not begin with {PREFIX}")]
    Prefix,
    /// Not base64url, or padded.
    #[error("it is not base64url after {PREFIX}")]
    Encoding,
    /// Cut short, or something was added.
    #[error("it has not the length of a signature")]
    Length,
    /// Of a later Wharf, or nonsense.
    #[error("it has the version {0}, and this Wharf knows only {VERSION}")]
    Version(u8),
    /// The key is none.
    #[error("its key is not one of Ed25519")]
    Key,
    /// Before 1970 or beyond the end of time.
    #[error("its time cannot be")]
    Time,
}

/// Why a signature does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It is of other bytes.
    #[error("the component is not the one that was signed: it was altered, or the signature is another file's")]
    Component,
    /// The key did not sign this.
    #[error("the signature is not its key's: it was altered")]
    Signature,
    /// From the future, so its age would mean nothing.
    #[error("the signature says it was made in the future, at {0}; is the clock of the machine that signs right?")]
    Future(Timestamp),
}

/// The digest that signatures sign: SHA-256 of a file without the signatures at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComponentDigest([u8; DIGEST_LEN]);

impl ComponentDigest {
    /// The digest of a component, which has no signatures at its end.
    pub fn of(component: &[u8]) -> Self {
        Self(Sha256::digest(component).into())
    }
}

impl Signature {
    /// Signs a component.
    pub fn sign(key: &PrivateKey, component: ComponentDigest, at: Timestamp) -> Self {
        // As it is read back: no fraction, and nothing before 1970.
        let at = Timestamp(at.as_secs().max(0).saturating_mul(1_000_000));
        let mut made = Self { key: key.public_key(), at, component: component.0, signature: [0; SIGNATURE_LEN] };
        made.signature = key.sign(&made.message());
        made
    }

    /// Checks that its key signed this component, and not in the future.
    ///
    /// # Errors
    /// Why it does not hold.
    pub fn check(&self, component: ComponentDigest, now: Timestamp) -> Result<(), Broken> {
        // First, because whoever has the wrong file should read so, whether or not the rest is right.
        if self.component != component.0 {
            return Err(Broken::Component);
        }
        if !self.key.verifies(&self.message(), &self.signature) {
            return Err(Broken::Signature);
        }
        if self.at > now.plus(SKEW) {
            return Err(Broken::Future(self.at));
        }
        Ok(())
    }

    /// Whether it claims to be of this component; true for every signature that holds.
    pub fn is_of(&self, component: ComponentDigest) -> bool {
        self.component == component.0
    }

    /// Reads signatures beside a file: one a line.
    ///
    /// # Errors
    /// The first line that is none, counted from one.
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

    fn to_bytes(&self) -> Vec<u8> {
        [self.statement().as_slice(), &self.signature].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        // Asked before the length, which another version may have otherwise.
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
        // The last second of the year 9999, beyond which no calendar of ours goes.
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
