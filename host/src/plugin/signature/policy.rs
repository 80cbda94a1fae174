//! What a host makes of a file's signatures before anything else is done with the file: hashing and checking cost
//! milliseconds and run no code of the file, so where signatures are required the compiler never sees an untrusted one.
//!
//! A trusted key's signature must hold, also where none is required: one that does not says that the file was altered. A
//! signature of any other key says nothing and is not checked. One good signature of a trusted key is enough.

use std::time::Duration;

use super::{Broken, ComponentDigest, Signature, Signed, Unreadable};
use crate::clock::Timestamp;
use crate::config;
use crate::error::{Error, Kind, Result, code};
use crate::plugin::artifact::{Digest, check_header, invalid};
use crate::plugin::deploy::Upload;
use crate::public_key::TrustedKey;

/// Who vouches for a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::plugin) struct Vouched {
    /// The trusted keys whose signatures hold, as in the configuration.
    pub(in crate::plugin) signed_by: Vec<String>,
    /// What the operator may want to know.
    pub(in crate::plugin) notes: Vec<String>,
}

/// What the operator wants of signatures.
struct Policy {
    trusted: Vec<TrustedKey>,
    required: bool,
    max_age: Option<Duration>,
}

impl Vouched {
    /// Checks the digest of the file against the one that was pinned, and the signatures, in the file and beside it. `live` are the files that are
    /// served now: what is live is not too old to be deployed again, for the age is there to keep old files from coming
    /// back.
    ///
    /// # Errors
    /// The file is another one than was pinned, or is not signed as the operator wants it.
    pub(in crate::plugin) async fn check(
        config: &config::Plugins,
        upload: &Upload,
        digest: &Digest,
        live: &[Digest],
        now: Timestamp,
    ) -> Result<Self> {
        let policy = Policy {
            trusted: config.trusted_keys.clone(),
            required: config.require_signed,
            max_age: config.signature_max_age,
        };
        if let Some(pinned) = upload.digest.as_ref().filter(|pinned| *pinned != digest) {
            let text = format!(
                "The file has the digest {digest}, and {pinned} was pinned. Deploy the file that was pinned, or pin this \
                 one once you know where it is from"
            );
            return Err(Error::new(Kind::Invalid(Vec::new()), code::DIGEST_MISMATCH, text));
        }
        let policy = if live.contains(digest) { Policy { max_age: None, ..policy } } else { policy };
        let (file, beside) = (upload.component.clone(), upload.signatures.clone());
        let checked = tokio::task::spawn_blocking(move || policy.check(&file, &beside, now));
        checked.await.map_err(|error| Error::internal("the check of signatures panicked").with_source(error))?
    }
}

impl Policy {
    fn check(&self, file: &[u8], beside: &[Signature], now: Timestamp) -> Result<Vouched> {
        check_header(file)?;
        let signed = match Signed::read(file) {
            Ok(signed) => signed,
            // What is no component has no signatures; where none is needed, the compiler says better what is wrong.
            Err(Unreadable::Preamble | Unreadable::Cut(_)) if !self.required && beside.is_empty() => {
                return Ok(Vouched::default());
            }
            Err(error @ (Unreadable::Preamble | Unreadable::Cut(_))) => return Err(invalid(error)),
            Err(error) => return Err(broken(&format!("The file cannot be deployed: {error}"))),
        };
        let mut vouched = Vouched::default();
        let mut untrusted = Vec::new();
        let mut expired = None;
        let mut component = None;
        for signature in signed.signatures.iter().chain(beside) {
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
                _ => add(&mut vouched.signed_by, trusted.to_string()),
            }
        }
        if !vouched.signed_by.is_empty() {
            return Ok(vouched);
        }
        if let Some(text) = expired {
            return Err(Error::forbidden(code::SIGNATURE_EXPIRED, text));
        }
        match (self.required, untrusted.is_empty()) {
            (true, true) => Err(Error::forbidden(
                code::SIGNATURE_MISSING,
                "The file is not signed, and this host takes only what a trusted key signed. Sign it with `wharf plugin \
                 sign FILE --key KEYFILE`, or give its signature with --signature FILE.sig",
            )),
            (true, false) => Err(Error::forbidden(
                code::SIGNATURE_UNTRUSTED,
                format!(
                    "The file is signed by nobody whom this host trusts, only by {}. Have it signed with a trusted key, \
                     or add its key to plugins.trusted_keys (WHARF_PLUGIN_TRUSTED_KEYS)",
                    untrusted.join(", ")
                ),
            )),
            (false, _) => {
                let note = |key| format!("signed by {key}, which is not trusted here; the signature was not checked");
                vouched.notes.extend(untrusted.into_iter().map(note));
                Ok(vouched)
            }
        }
    }
}

/// A key may have signed in the file and beside it.
fn add(keys: &mut Vec<String>, key: String) {
    if !keys.contains(&key) {
        keys.push(key);
    }
}

fn broken(text: &str) -> Error {
    let text = format!("{text}. Deploy the file as it was signed, or have it built and signed again");
    Error::new(Kind::Invalid(Vec::new()), code::SIGNATURE_INVALID, text)
}

fn refused(trusted: &TrustedKey, error: Broken) -> Error {
    let text = format!("The signature of {trusted} does not hold: {error}");
    match error {
        Broken::Future(_) => Error::forbidden(code::SIGNATURE_EXPIRED, text),
        Broken::Component | Broken::Signature => broken(&text),
    }
}

fn too_old(trusted: &TrustedKey, signature: &Signature, max_age: Duration) -> String {
    format!(
        "The signature of {trusted} is from {}, longer ago than the {} that plugins.signature_max_age allows. Sign the \
         file again with `wharf plugin sign FILE --key KEYFILE`",
        signature.at,
        humantime::format_duration(max_age)
    )
}

#[cfg(test)]
mod tests {
    use super::super::PrivateKey;
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
        Signed { component: COMPONENT, signatures: signatures.to_vec() }.write()
    }

    fn policy(trusted: &[&PrivateKey], required: bool) -> Policy {
        let trust = |key: &&PrivateKey| TrustedKey { name: Some("release".to_owned()), key: key.public_key() };
        Policy { trusted: trusted.iter().map(trust).collect(), required, max_age: None }
    }

    #[track_caller]
    fn refusal(checked: Result<Vouched>) -> String {
        checked.unwrap_err().code().to_string()
    }

    #[test]
    fn one_good_signature_of_a_trusted_key_is_enough() {
        let (ours, theirs) = (key(), key());
        let policy = policy(&[&ours], true);
        for (file, beside) in [
            (file(&[signed(&theirs, NOW), signed(&ours, NOW)]), vec![]),
            (file(&[signed(&theirs, NOW)]), vec![signed(&ours, NOW)]),
            (file(&[]), vec![signed(&ours, NOW)]),
            (file(&[signed(&ours, NOW)]), vec![signed(&ours, NOW)]),
        ] {
            let vouched = policy.check(&file, &beside, NOW).unwrap();
            assert_eq!(vouched.signed_by, [format!("release={}", ours.public_key())]);
        }
        assert_eq!(refusal(policy.check(&file(&[]), &[], NOW)), "signature_missing");
        assert_eq!(refusal(policy.check(&file(&[signed(&theirs, NOW)]), &[], NOW)), "signature_untrusted");
    }

    #[test]
    fn a_broken_signature_of_a_trusted_key_is_refused_whatever_else_there_is() {
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
    fn age_counts_where_it_is_limited_and_a_fresh_signature_makes_up_for_an_old_one() {
        let (old, fresh) = (key(), key());
        let mut policy = policy(&[&old, &fresh], false);
        let old = signed(&old, NOW.minus(2 * DAY));
        assert!(policy.check(&file(std::slice::from_ref(&old)), &[], NOW).is_ok());
        policy.max_age = Some(DAY);
        assert_eq!(refusal(policy.check(&file(std::slice::from_ref(&old)), &[], NOW)), "signature_expired");
        let vouched = policy.check(&file(&[old, signed(&fresh, NOW)]), &[], NOW).unwrap();
        assert_eq!(vouched.signed_by.len(), 1);
    }

    #[test]
    fn where_none_is_required_a_stranger_is_a_note() {
        let policy = policy(&[&key()], false);
        assert_eq!(policy.check(COMPONENT, &[], NOW).unwrap(), Vouched::default());
        let stranger = key();
        let vouched = policy.check(&file(&[signed(&stranger, NOW)]), &[], NOW).unwrap();
        assert_eq!(vouched.signed_by, [""; 0]);
        assert!(vouched.notes[0].contains(&stranger.public_key().to_string()), "{:?}", vouched.notes);
    }

    #[test]
    fn what_has_no_sections_reaches_the_compiler_only_where_no_signature_is_required() {
        let ours = key();
        let cut = &COMPONENT[..10];
        assert!(policy(&[&ours], false).check(cut, &[], NOW).is_ok());
        assert_eq!(refusal(policy(&[&ours], false).check(cut, &[signed(&ours, NOW)], NOW)), "invalid_component");
        assert_eq!(refusal(policy(&[&ours], true).check(cut, &[], NOW)), "invalid_component");
        assert_eq!(refusal(policy(&[&ours], true).check(b"#!/bin/sh", &[], NOW)), "invalid_component");
    }
}
