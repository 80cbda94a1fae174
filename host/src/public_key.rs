//! Public keys of Ed25519 and their text form, `wharf-ed25519:` and 32 bytes in base64url. Owns parsing, writing and
//! verification; knows neither the content that is signed nor the keys that are trusted.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, VerifyingKey};

/// The prefix of every public key's text. It names the algorithm, so that another one can be added.
const PREFIX: &str = "wharf-ed25519:";

/// Bytes of a public key.
pub const PUBLIC_KEY_LEN: usize = 32;

/// Bytes of a signature.
pub const SIGNATURE_LEN: usize = 64;

/// The longest name of a key.
const MAX_NAME: usize = 64;

/// A public key, as bytes that are checked to be one. The curve point that they encode would take six times as many.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; PUBLIC_KEY_LEN]);

/// The reason why a text or bytes are no public key. Its text continues a sentence that begins with the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPublicKey {
    /// Without the prefix.
    #[error("does not begin with {PREFIX}")]
    Prefix,
    /// Not base64url, or padded.
    #[error("is not base64url after {PREFIX}")]
    Encoding,
    /// Too few or too many bytes.
    #[error("does not have the length of a key; was all of it copied?")]
    Length,
    /// Not a point of the curve, or one of the few weak ones, for which anybody can forge signatures.
    #[error("is not a key of Ed25519")]
    Point,
    /// A malformed name before `=`.
    #[error("has a name that is not 1 to {MAX_NAME} letters, digits, '.', '_', '-' or '@'")]
    Name,
}

impl PublicKey {
    /// Reads a key from its bytes.
    ///
    /// # Errors
    /// The bytes are no key, or a weak key, whose signatures anybody can forge.
    pub fn from_bytes(bytes: &[u8; PUBLIC_KEY_LEN]) -> Result<Self, InvalidPublicKey> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| InvalidPublicKey::Point)?;
        if key.is_weak() { Err(InvalidPublicKey::Point) } else { Ok(Self(*bytes)) }
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8; PUBLIC_KEY_LEN] {
        &self.0
    }

    /// Returns whether this key signed `message`. The check is strict: it refuses malleable signatures and small-order
    /// points, so that all verifiers agree.
    pub fn verifies(&self, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        let signature = Signature::from_bytes(signature);
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
    }
}

impl From<VerifyingKey> for PublicKey {
    fn from(key: VerifyingKey) -> Self {
        Self(key.to_bytes())
    }
}

impl FromStr for PublicKey {
    type Err = InvalidPublicKey;

    fn from_str(text: &str) -> Result<Self, InvalidPublicKey> {
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidPublicKey::Prefix)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|error| match error {
            base64::DecodeError::InvalidLength(_) => InvalidPublicKey::Length,
            _ => InvalidPublicKey::Encoding,
        })?;
        Self::from_bytes(&bytes.try_into().map_err(|_| InvalidPublicKey::Length)?)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A trusted public key with an optional name: `wharf-ed25519:…` or `name=wharf-ed25519:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    /// A name for people. `None` means that the key itself is shown.
    pub name: Option<String>,
    /// The key.
    pub key: PublicKey,
}

impl FromStr for TrustedKey {
    type Err = InvalidPublicKey;

    fn from_str(text: &str) -> Result<Self, InvalidPublicKey> {
        let (name, key) = match text.split_once('=') {
            Some((name, key)) => (Some(name.trim()), key.trim()),
            None => (None, text.trim()),
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
        if name.is_some_and(|name| name.is_empty() || name.len() > MAX_NAME || !name.chars().all(fits)) {
            return Err(InvalidPublicKey::Name);
        }
        Ok(Self { name: name.map(ToOwned::to_owned), key: key.parse()? })
    }
}

impl fmt::Display for TrustedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}={}", self.key),
            None => self.key.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "wharf-ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    #[test]
    fn a_key_survives_writing_and_reading() {
        let key: PublicKey = KEY.parse().unwrap();
        assert_eq!(key.to_string(), KEY);
        let named: TrustedKey = format!("release@shop = {KEY}").parse().unwrap();
        assert_eq!((named.name.as_deref(), named.key), (Some("release@shop"), key));
        assert_eq!(named.to_string(), format!("release@shop={KEY}"));
    }

    #[test]
    fn a_text_that_is_no_key_is_refused_with_the_reason() {
        let weak = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode([0; 32]));
        for (text, error) in [
            ("", InvalidPublicKey::Prefix),
            ("ssh-ed25519 AAAA", InvalidPublicKey::Prefix),
            ("wharf-ed25519:", InvalidPublicKey::Length),
            ("wharf-ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHU", InvalidPublicKey::Length),
            ("wharf-ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo", InvalidPublicKey::Encoding),
            ("wharf-ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=", InvalidPublicKey::Encoding),
            (weak.as_str(), InvalidPublicKey::Point),
        ] {
            assert_eq!(text.parse::<PublicKey>(), Err(error), "{text}");
        }
        for name in ["", "two words", "ö", &"x".repeat(65)] {
            assert_eq!(format!("{name}={KEY}").parse::<TrustedKey>(), Err(InvalidPublicKey::Name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*", encoded in "[A-Za-z0-9_-]{0,60}=?") {
            let _ = text.parse::<TrustedKey>();
            let _ = format!("{PREFIX}{encoded}").parse::<TrustedKey>();
        }
    }
}
