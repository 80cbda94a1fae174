//! What the host's own process does with an uploaded file before anything else: how it begins, where its component ends and
//! its signatures begin, and who vouches for it. The input is the file.
//!
//! Holds: what is read is written again, byte for byte; the component has the same digest however many sign it; nobody is
//! believed who did not sign these very bytes.

use std::sync::OnceLock;

use bytes::Bytes;
use tokio::runtime::Runtime;
use wharf::clock::{Random, Timestamp};
use wharf::config::Plugins;
use wharf::plugin::artifact::Digest;
use wharf::plugin::fuzzing;
use wharf::plugin::signature::{ComponentDigest, MAX_SIGNATURES, PrivateKey, Signature, Signed};
use wharf::public_key::TrustedKey;

use crate::input::assert_refusal;

/// The moment at which everything happens.
const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

/// Keys that depend on nothing, so that a seed can hold their signatures.
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

fn vouched(required: bool, file: &[u8], beside: &[Signature]) -> wharf::error::Result<Vec<String>> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| tokio::runtime::Builder::new_current_thread().build().unwrap());
    let file = Bytes::copy_from_slice(file);
    let limits = policy(required);
    runtime.block_on(fuzzing::vouched(&limits, file, beside.to_vec(), NOW)).map(|(signed_by, _)| signed_by)
}

/// Checks one file.
pub fn check(data: &[u8]) {
    check_text(data);
    let header = fuzzing::header(data);
    if let Err(error) = &header {
        assert_refusal(error);
    }
    let lax = vouched(false, data, &[]);
    let strict = vouched(true, data, &[]);
    for error in [&lax, &strict].into_iter().filter_map(|verdict| verdict.as_ref().err()) {
        assert_refusal(error);
    }
    assert!(header.is_ok() || (lax.is_err() && strict.is_err()), "it passes without the header of a component");

    let Ok(signed) = Signed::read(data) else {
        assert!(strict.is_err(), "it passes unread");
        return;
    };
    assert_eq!(signed.write(), data, "what was read is not what is written");
    assert!(data.starts_with(signed.component) && signed.signatures.len() <= MAX_SIGNATURES);
    for (index, signature) in signed.signatures.iter().enumerate() {
        assert!(signed.signatures.iter().take(index).all(|other| other.key != signature.key), "a key signs twice");
    }
    let bare = Signed::read(signed.component).expect("a component without its signatures is readable");
    assert!(bare.component == signed.component && bare.signatures.is_empty());

    // The one rule again, said otherwise: whoever is believed signed this digest, and nothing that is broken passes.
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
fn check_signing(signed: &Signed<'_>, runs: bool) {
    let keys = Keys::get();
    let digest = ComponentDigest::of(signed.component);
    let signatures = [&keys.other, &keys.trusted].map(|key| Signature::sign(key, digest, NOW));
    let file = Signed { component: signed.component, signatures: signatures.to_vec() }.write();
    let again = Signed::read(&file).expect("what was signed is readable");
    assert!(again.component == signed.component && again.signatures == signatures);
    assert_eq!(ComponentDigest::of(again.component), digest, "signing changed what is signed");
    if !runs {
        return;
    }
    assert!(vouched(true, &file, &[]).is_ok(), "a trusted signature inside is not believed");
    assert!(vouched(true, signed.component, &signatures).is_ok(), "a trusted signature beside is not believed");

    // Which byte is altered depends on the component alone. Signatures of others may be altered: they say nothing.
    let file = Signed { component: signed.component, signatures: signatures[1..].to_vec() }.write();
    let sum = file.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let mut altered = file.clone();
    altered[sum % file.len()] ^= 1 << (sum / file.len() % 8);
    let verdict = vouched(true, &altered, &[]);
    assert!(verdict.is_err(), "byte {} was altered, and it passes", sum % file.len());
    let mut longer = file;
    longer.extend(b"\0\x03\x01xy");
    assert!(vouched(true, &longer, &[]).is_err(), "something was added, and it passes");
}

/// The texts of the same things: there is one way to write each.
fn check_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(signatures) = Signature::read_lines(text) {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let written: Vec<String> = signatures.iter().map(ToString::to_string).collect();
        assert_eq!(lines, written, "a signature has two texts");
    }
    if let Ok(key) = text.parse::<TrustedKey>() {
        assert_eq!(key.to_string().parse::<TrustedKey>().as_ref(), Ok(&key));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.as_str().parse::<Digest>().as_ref(), Ok(&digest));
    }
}
