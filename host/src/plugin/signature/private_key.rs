//! Private keys: PKCS#8 in PEM, as `openssl genpkey -algorithm ed25519` writes them. Only people who sign files have
//! one; a host never reads it.

use std::fmt;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes};
use ed25519_dalek::{Signer as _, SigningKey};

use crate::clock::Random;
use crate::config::Secret;
use crate::error::{Error, Result};
use crate::public_key::{PublicKey, SIGNATURE_LEN};

/// A key that signs. Wiped from memory when dropped.
pub struct PrivateKey(SigningKey);

/// The text is not a private key of Ed25519.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a private key of Ed25519 in PEM (PKCS#8)")]
pub struct UnusablePrivateKey;

impl PrivateKey {
    /// Generates a key.
    ///
    /// # Errors
    /// The operating system provides no randomness.
    pub fn generate(random: &Random) -> Result<Self> {
        Ok(Self(SigningKey::from_bytes(&random.bytes()?)))
    }

    /// Parses the text of a key file.
    ///
    /// # Errors
    /// It is not a key. The error contains nothing of the text.
    pub fn from_pem(text: &str) -> Result<Self, UnusablePrivateKey> {
        SigningKey::from_pkcs8_pem(text).map(Self).map_err(|_| UnusablePrivateKey)
    }

    /// Returns the text of a key file.
    ///
    /// # Errors
    /// A defect of the host: every key has this form.
    pub fn to_pem(&self) -> Result<Secret> {
        // Without the public key, which OpenSSL does not read in this format.
        let key = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        let pem = key.to_pkcs8_pem(LineEnding::LF);
        let pem = pem.map_err(|error| Error::internal("a private key cannot be encoded as PEM").with_source(error))?;
        Ok(Secret::new(pem.as_str()))
    }

    /// Returns its public key.
    pub fn public_key(&self) -> PublicKey {
        self.0.verifying_key().into()
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey of {}", self.public_key())
    }
}
