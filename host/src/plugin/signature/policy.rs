//! The signature policy of a host, applied before anything else is done with a file. Hashing and checking take
//! milliseconds and run no code of the file, so where signatures are required the compiler never sees an untrusted
//! file.
//!
//! A signature of a trusted key must be valid even where none is required: an invalid one shows that the file was
//! altered. A signature of any other key proves nothing and is not checked. One valid signature of a trusted key is
//! enough.

use std::time::Duration;

use bytes::Bytes;

use super::format::{ComponentDigest, InvalidSignature, Signature};
use super::section::{SignedFile, Unreadable};
use crate::clock::Timestamp;
use crate::config;
use crate::error::{Error, Kind, Result, code};
use crate::plugin::artifact::{check_header, invalid};
use crate::public_key::TrustedKey;

/// The result of the check of a file's signatures.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::plugin) struct VerifiedSignatures {
    /// The trusted keys with valid signatures, as they are configured.
    pub(in crate::plugin) signed_by: Vec<String>,
    /// Remarks for the operator.
    pub(in crate::plugin) notes: Vec<String>,
}

/// The operator's requirements.
struct Policy {
    trusted: Vec<TrustedKey>,
    required: bool,
    max_age: Option<Duration>,
}

impl VerifiedSignatures {
    /// Checks the signatures in a file and the detached ones. `live` tells that the same file is live now: its age does
    /// not matter then, because the age limit is there to keep old files from coming back.
    ///
    /// # Errors
    /// The file is not signed as the operator requires.
    pub(in crate::plugin) async fn check(
        config: &config::Plugins,
        file: Bytes,
        detached: Vec<Signature>,
        live: bool,
        now: Timestamp,
    ) -> Result<Self> {
        let policy = Policy {
            trusted: config.trusted_keys.clone(),
            required: config.require_signed,
            max_age: config.signature_max_age.filter(|_| !live),
        };
        let checked = tokio::task::spawn_blocking(move || policy.check(&file, &detached, now));
        checked.await.map_err(|error| Error::internal("the check of signatures panicked").with_source(error))?
    }
}

impl Policy {
    fn check(&self, file: &[u8], detached: &[Signature], now: Timestamp) -> Result<VerifiedSignatures> {
        check_header(file)?;
        let signed = match SignedFile::read(file) {
            Ok(signed) => signed,
            // A file that is not a component has no signatures. Where none is required, the compiler reports the error
            // better.
            Err(Unreadable::Preamble | Unreadable::Cut(_)) if !self.required && detached.is_empty() => {
                return Ok(VerifiedSignatures::default());
            }
            Err(error @ (Unreadable::Preamble | Unreadable::Cut(_))) => return Err(invalid(error)),
            Err(error) => return Err(altered(&format!("The file cannot be deployed: {error}"))),
        };
        let mut verified = VerifiedSignatures::default();
        let mut untrusted = Vec::new();
        let mut expired = None;
        let mut component = None;
        for signature in signed.signatures.iter().chain(detached) {
            let Some(trusted) = self.trusted.iter().find(|trusted| trusted.key == signature.key) else {
                add(&mut untrusted, signature.key.to_string());
                continue;
            };
            let component = *component.get_or_insert_with(|| ComponentDigest::of(signed.component));
            signature.check(component, now).map_err(|error| refused(trusted, error))?;
            match self.max_age {
                Some(max_age) if signature.at < now.minus(max_age) => {
                    expired.get_or_insert_with(|| too_old(trusted, signature, max_age));
                }
                _ => add(&mut verified.signed_by, trusted.to_string()),
            }
        }
        if !verified.signed_by.is_empty() {
            return Ok(verified);
        }
        if let Some(text) = expired {
            return Err(Error::forbidden(code::SIGNATURE_EXPIRED, text));
        }
        match (self.required, untrusted.is_empty()) {
            (true, true) => Err(Error::forbidden(
                code::SIGNATURE_MISSING,
                "The file is not signed, and this host accepts only files that a trusted key signed. Sign it with `wharf \
                 plugin sign FILE --key KEYFILE`, or give its signature with --signature FILE.sig",
            )),
            (true, false) => Err(Error::forbidden(
                code::SIGNATURE_UNTRUSTED,
                format!(
                    "The file is signed only by keys that this host does not trust: {}. Have it signed with a trusted \
                     key, or add its key to plugins.trusted_keys (WHARF_PLUGIN_TRUSTED_KEYS)",
                    untrusted.join(", ")
                ),
            )),
            (false, _) => {
                let note = |key| format!("signed by {key}, which is not trusted here; the signature was not checked");
                verified.notes.extend(untrusted.into_iter().map(note));
                Ok(verified)
            }
        }
    }
}

/// Adds a key once; a key may have signed both in the file and detached.
fn add(keys: &mut Vec<String>, key: String) {
    if !keys.contains(&key) {
        keys.push(key);
    }
}

fn altered(text: &str) -> Error {
    let text = format!("{text}. Deploy the file as it was signed, or have it built and signed again");
    Error::new(Kind::Invalid(Vec::new()), code::SIGNATURE_INVALID, text)
}

fn refused(trusted: &TrustedKey, error: InvalidSignature) -> Error {
    let text = format!("The signature of {trusted} is not valid: {error}");
    match error {
        InvalidSignature::Future(_) => Error::forbidden(code::SIGNATURE_EXPIRED, text),
        InvalidSignature::Component | InvalidSignature::Signature => altered(&text),
    }
}

fn too_old(trusted: &TrustedKey, signature: &Signature, max_age: Duration) -> String {
    format!(
        "The signature of {trusted} is from {}, which is longer ago than plugins.signature_max_age allows ({}). Sign \
         the file again with `wharf plugin sign FILE --key KEYFILE`",
        signature.at,
        humantime::format_duration(max_age)
    )
}

#[cfg(test)]
mod tests {
    use super::super::private_key::PrivateKey;
    use super::*;
    use crate::clock::Random;

    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0\0\x03\x01xy";
    const NOW: Timestamp = Timestamp(1_800_000_000_123_456);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn key() -> PrivateKey {
        PrivateKey::generate(&Random::System).unwrap()
    }

    fn signed(key: &PrivateKey, at: Timestamp) -> Signature {
        Signature::sign(key, ComponentDigest::of(COMPONENT), at)
    }

    fn file(signatures: &[Signature]) -> Vec<u8> {
        SignedFile { component: COMPONENT, signatures: signatures.to_vec() }.write()
    }

    fn policy(trusted: &[&PrivateKey], required: bool) -> Policy {
        let trust = |key: &&PrivateKey| TrustedKey { name: Some("release".to_owned()), key: key.public_key() };
        Policy { trusted: trusted.iter().map(trust).collect(), required, max_age: None }
    }

    #[track_caller]
    fn refusal(checked: Result<VerifiedSignatures>) -> String {
        checked.unwrap_err().code().to_string()
    }

    #[test]
    fn one_valid_signature_of_a_trusted_key_is_enough() {
        let (ours, theirs) = (key(), key());
        let policy = policy(&[&ours], true);
        for (file, detached) in [
            (file(&[signed(&theirs, NOW), signed(&ours, NOW)]), vec![]),
            (file(&[signed(&theirs, NOW)]), vec![signed(&ours, NOW)]),
            (file(&[]), vec![signed(&ours, NOW)]),
            (file(&[signed(&ours, NOW)]), vec![signed(&ours, NOW)]),
        ] {
            let verified = policy.check(&file, &detached, NOW).unwrap();
            assert_eq!(verified.signed_by, [format!("release={}", ours.public_key())]);
        }
        assert_eq!(refusal(policy.check(&file(&[]), &[], NOW)), "signature_missing");
        assert_eq!(refusal(policy.check(&file(&[signed(&theirs, NOW)]), &[], NOW)), "signature_untrusted");
    }

    #[test]
    fn an_invalid_signature_of_a_trusted_key_is_refused_even_next_to_a_valid_one() {
        let (ours, other) = (key(), key());
        let broken = Signature::sign(&ours, ComponentDigest::of(b"another file"), NOW);
        for required in [false, true] {
            let policy = policy(&[&ours, &other], required);
            let file = file(&[broken.clone(), signed(&other, NOW)]);
            assert_eq!(refusal(policy.check(&file, &[], NOW)), "signature_invalid");
            let future = signed(&ours, NOW.plus(DAY));
            assert_eq!(refusal(policy.check(COMPONENT, &[future], NOW)), "signature_expired");
        }
    }

    #[test]
    fn an_old_signature_is_refused_unless_a_fresh_one_is_there() {
        let (old, fresh) = (key(), key());
        let mut policy = policy(&[&old, &fresh], false);
        let old = signed(&old, NOW.minus(2 * DAY));
        assert!(policy.check(&file(std::slice::from_ref(&old)), &[], NOW).is_ok());
        policy.max_age = Some(DAY);
        assert_eq!(refusal(policy.check(&file(std::slice::from_ref(&old)), &[], NOW)), "signature_expired");
        let verified = policy.check(&file(&[old, signed(&fresh, NOW)]), &[], NOW).unwrap();
        assert_eq!(verified.signed_by.len(), 1);
    }

    #[test]
    fn a_signature_of_an_unknown_key_is_a_note_where_none_is_required() {
        let policy = policy(&[&key()], false);
        assert_eq!(policy.check(COMPONENT, &[], NOW).unwrap(), VerifiedSignatures::default());
        let stranger = key();
        let verified = policy.check(&file(&[signed(&stranger, NOW)]), &[], NOW).unwrap();
        assert_eq!(verified.signed_by, [""; 0]);
        assert!(verified.notes[0].contains(&stranger.public_key().to_string()), "{:?}", verified.notes);
    }

    #[test]
    fn a_file_without_sections_reaches_the_compiler_only_where_no_signature_is_required() {
        let ours = key();
        let cut = &COMPONENT[..10];
        assert!(policy(&[&ours], false).check(cut, &[], NOW).is_ok());
        assert_eq!(refusal(policy(&[&ours], false).check(cut, &[signed(&ours, NOW)], NOW)), "invalid_component");
        assert_eq!(refusal(policy(&[&ours], true).check(cut, &[], NOW)), "invalid_component");
        assert_eq!(refusal(policy(&[&ours], true).check(b"#!/bin/sh", &[], NOW)), "invalid_component");
    }
}
