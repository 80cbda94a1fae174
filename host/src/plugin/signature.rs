//! Signatures of component files: which key signed these bytes, and when. Owns the format of a signature
//! (`format`), its place in a file (`section`), the private keys (`private_key`) and the signature policy of a host
//! (`policy`); does not know where a file came from.
//!
//! Inside a file each signature is a custom section of its own (`section`). A detached signature, in `FILE.sig` and in
//! the operator API, is a line: `wharf-signature:` and the same bytes in base64url.

mod format;
mod policy;
mod private_key;
mod section;

pub use self::format::{ComponentDigest, InvalidSignature, MAX_SIGNATURES, Malformed, SKEW, Signature};
pub(super) use self::policy::VerifiedSignatures;
pub use self::private_key::{PrivateKey, UnusablePrivateKey};
pub use self::section::{SignedFile, Unreadable};
