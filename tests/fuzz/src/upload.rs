//! The first steps that the host's own process takes with an uploaded file: its header, the boundary between component
//! and signatures, and the verification of signatures. The input is the file.
//!
//! Properties: a parsed file is written again byte for byte; the digest of a component does not depend on its
//! signatures; a signature is accepted only for the bytes that were signed.

use std::sync::OnceLock;

use bytes::Bytes;
use tokio::runtime::Runtime;
use wharf::clock::{Random, Timestamp};
use wharf::config::Plugins;
use wharf::plugin::artifact::Digest;
use wharf::plugin::fuzzing;
use wharf::plugin::signature::{ComponentDigest, MAX_SIGNATURES, PrivateKey, Signature, SignedFile};
use wharf::public_key::TrustedKey;

use crate::input::assert_refusal;

/// The time of all checks.
const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

/// Deterministic keys, so that a seed can contain their signatures.
struct Keys {
    trusted: PrivateKey,
    other: PrivateKey,
}

impl Keys {
    fn get() -> &'static Self {
        static KEYS: OnceLock<Keys> = OnceLock::new();
        KEYS.get_or_init(|| {
            let random = Random::Sequence(std::sync::Arc::default());
            Self { trusted: PrivateKey::generate(&random).unwrap(), other: PrivateKey::generate(&random).unwrap() }
        })
    }
}

fn policy(required: bool) -> Plugins {
    let key = TrustedKey { name: Some("trusted".to_owned()), key: Keys::get().trusted.public_key() };
    Plugins { trusted_keys: vec![key], require_signed: required, ..Plugins::default() }
}

fn verified(required: bool, file: &[u8], detached: &[Signature]) -> wharf::error::Result<Vec<String>> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| tokio::runtime::Builder::new_current_thread().build().unwrap());
    let file = Bytes::copy_from_slice(file);
    let limits = policy(required);
    runtime.block_on(fuzzing::signatures(&limits, file, detached.to_vec(), NOW)).map(|(signed_by, _)| signed_by)
}

/// Checks one file.
pub fn check(data: &[u8]) {
    check_text(data);
    let header = fuzzing::header(data);
    if let Err(error) = &header {
        assert_refusal(error);
    }
    let lax = verified(false, data, &[]);
    let strict = verified(true, data, &[]);
    for error in [&lax, &strict].into_iter().filter_map(|verdict| verdict.as_ref().err()) {
        assert_refusal(error);
    }
    assert!(header.is_ok() || (lax.is_err() && strict.is_err()), "it was accepted without the header of a component");

    let Ok(signed) = SignedFile::read(data) else {
        assert!(strict.is_err(), "it was accepted unparsed");
        return;
    };
    assert_eq!(signed.write(), data, "writing changed the file");
    assert!(data.starts_with(signed.component) && signed.signatures.len() <= MAX_SIGNATURES);
    for (index, signature) in signed.signatures.iter().enumerate() {
        assert!(signed.signatures.iter().take(index).all(|other| other.key != signature.key), "a key signs twice");
    }
    let bare = SignedFile::read(signed.component).expect("a component without its signatures is readable");
    assert!(bare.component == signed.component && bare.signatures.is_empty());

    // An independent statement of the rule: an accepted key signed this digest, and no broken signature is accepted.
    let digest = ComponentDigest::of(signed.component);
    let trusted = Keys::get().trusted.public_key();
    let of_trusted = signed.signatures.iter().find(|signature| signature.key == trusted);
    let holds = of_trusted.map(|signature| signature.check(digest, NOW).is_ok());
    assert_eq!(strict.is_ok(), header.is_ok() && holds == Some(true), "{strict:?}");
    if header.is_ok() {
        assert_eq!(lax.is_ok(), holds != Some(false), "{lax:?}");
    }
    check_signing(&signed, header.is_ok());
}

/// Signs a component, and alters it afterwards.
fn check_signing(signed: &SignedFile<'_>, runs: bool) {
    let keys = Keys::get();
    let digest = ComponentDigest::of(signed.component);
    let signatures = [&keys.other, &keys.trusted].map(|key| Signature::sign(key, digest, NOW));
    let file = SignedFile { component: signed.component, signatures: signatures.to_vec() }.write();
    let again = SignedFile::read(&file).expect("the signed file is readable");
    assert!(again.component == signed.component && again.signatures == signatures);
    assert_eq!(ComponentDigest::of(again.component), digest, "signing changed the signed component");
    if !runs {
        return;
    }
    assert!(verified(true, &file, &[]).is_ok(), "a trusted embedded signature was rejected");
    assert!(verified(true, signed.component, &signatures).is_ok(), "a trusted detached signature was rejected");

    // The altered byte depends on the component alone. Signatures of untrusted keys may be altered, because they are
    // not checked.
    let file = SignedFile { component: signed.component, signatures: signatures[1..].to_vec() }.write();
    let sum = file.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let mut altered = file.clone();
    altered[sum % file.len()] ^= 1 << (sum / file.len() % 8);
    let verdict = verified(true, &altered, &[]);
    assert!(verdict.is_err(), "byte {} was altered, and it was accepted", sum % file.len());
    let mut longer = file;
    longer.extend(b"\0\x03\x01xy");
    assert!(verified(true, &longer, &[]).is_err(), "bytes were added, and it was accepted");
}

/// Checks that signatures, keys and digests have one text form each.
fn check_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(signatures) = Signature::read_lines(text) {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let written: Vec<String> = signatures.iter().map(ToString::to_string).collect();
        assert_eq!(lines, written, "a signature has two text forms");
    }
    if let Ok(key) = text.parse::<TrustedKey>() {
        assert_eq!(key.to_string().parse::<TrustedKey>().as_ref(), Ok(&key));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.as_str().parse::<Digest>().as_ref(), Ok(&digest));
    }
}
