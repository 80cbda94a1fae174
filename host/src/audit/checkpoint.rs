//! A signed checkpoint: the last entry of a chain that was pruned. Owns the signed text. The rest of the chain is
//! verified from there. The signature only shows that a holder of the named key pruned the chain. It proves nothing
//! about that key: `audit` compares it with the keys of the host, and `wharf audit verify --key` with one that the
//! operator kept elsewhere.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::db::audit::link::Position;

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Checkpoint {
    /// The chain.
    pub chain: String,
    /// The place of the last entry that was pruned.
    pub sequence: i64,
    /// The hash of that entry.
    pub hash: String,
    /// The time of the pruning.
    pub at: Timestamp,
    /// The public key of the host that signed it (Ed25519, base64url), as the member `x` of its JWK.
    pub public_key: String,
    /// The signature (Ed25519, base64url).
    pub signature: String,
}

/// A checkpoint whose signature does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature of the checkpoint is not valid")]
pub struct InvalidCheckpoint;

impl Checkpoint {
    /// Signs a checkpoint at `position`.
    pub fn sign(chain: &str, position: &Position, at: Timestamp, key: &SigningKey) -> Self {
        let mut checkpoint = Self {
            chain: chain.to_owned(),
            sequence: position.sequence,
            hash: position.hash.clone(),
            at,
            public_key: URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes()),
            signature: String::new(),
        };
        checkpoint.signature = URL_SAFE_NO_PAD.encode(key.sign(checkpoint.text().as_bytes()).to_bytes());
        checkpoint
    }

    /// Checks that the named key signed the checkpoint and that the checkpoint belongs to `chain`. Returns the position
    /// from which the chain goes on. The caller checks the key itself.
    ///
    /// # Errors
    /// The checkpoint was changed, or belongs to another chain.
    pub fn verify(&self, chain: &str) -> Result<Position, InvalidCheckpoint> {
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCheckpoint);
        let key: [u8; 32] = decode(&self.public_key)?.try_into().map_err(|_| InvalidCheckpoint)?;
        let key = VerifyingKey::from_bytes(&key).map_err(|_| InvalidCheckpoint)?;
        let signature = Signature::from_slice(&decode(&self.signature)?).map_err(|_| InvalidCheckpoint)?;
        key.verify_strict(self.text().as_bytes(), &signature).map_err(|_| InvalidCheckpoint)?;
        if self.chain != chain {
            return Err(InvalidCheckpoint);
        }
        Ok(Position { sequence: self.sequence, hash: self.hash.clone() })
    }

    /// Returns the signed text. It begins like no token, so that the same key can sign both. No member has a line feed
    /// that could move text to another line: a chain has the name of a plugin, and the other members have fixed forms.
    fn text(&self) -> String {
        let Self { chain, sequence, hash, at, .. } = self;
        format!("wharf audit checkpoint\nchain {chain}\nsequence {sequence}\nhash {hash}\nat {at}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_signed_checkpoint_is_accepted() {
        let position = Position { sequence: 7, hash: "a".repeat(64) };
        let key = SigningKey::from_bytes(&[7; 32]);
        let signed = Checkpoint::sign("host", &position, Timestamp(1_800_000_000_000_000), &key);
        assert_eq!(signed.verify("host"), Ok(position));
        assert_eq!(signed.verify("plugin:items"), Err(InvalidCheckpoint));
        let other = SigningKey::from_bytes(&[8; 32]);
        let changes: [fn(&mut Checkpoint); 5] = [
            |checkpoint| checkpoint.sequence += 1,
            |checkpoint| checkpoint.hash = "b".repeat(64),
            |checkpoint| checkpoint.at = Timestamp(0),
            |checkpoint| checkpoint.signature.clear(),
            |checkpoint| checkpoint.public_key.push('!'),
        ];
        for change in changes {
            let mut changed = signed.clone();
            change(&mut changed);
            assert_eq!(changed.verify("host"), Err(InvalidCheckpoint), "{changed:?}");
        }
        let public_key = URL_SAFE_NO_PAD.encode(other.verifying_key().as_bytes());
        assert!(Checkpoint { public_key, ..signed }.verify("host").is_err(), "another key signed it");
    }
}
