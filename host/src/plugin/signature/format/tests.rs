use proptest::prelude::*;

use super::*;
use crate::clock::Random;

const COMPONENT: &[u8] = b"a component";
const NOW: Timestamp = Timestamp(1_800_000_000_123_456);

fn key() -> PrivateKey {
    PrivateKey::generate(&Random::System).unwrap()
}

fn signed(key: &PrivateKey) -> Signature {
    Signature::sign(key, ComponentDigest::of(COMPONENT), NOW)
}

#[test]
fn a_signature_is_valid_for_its_component_only() {
    let signature = signed(&key());
    assert_eq!(signature.check(ComponentDigest::of(COMPONENT), NOW), Ok(()));
    assert_eq!(signature.check(ComponentDigest::of(b"another"), NOW), Err(InvalidSignature::Component));
    assert_eq!(signature.at, Timestamp(1_800_000_000_000_000), "whole seconds");
}

#[test]
fn every_field_of_a_signature_is_signed() {
    let signature = signed(&key());
    let broken = |change: fn(&mut Signature)| {
        let mut changed = signature.clone();
        change(&mut changed);
        changed.check(ComponentDigest::of(COMPONENT), NOW)
    };
    assert_eq!(broken(|s| s.at = s.at.minus(Duration::from_secs(1))), Err(InvalidSignature::Signature));
    assert_eq!(broken(|s| s.key = key().public_key()), Err(InvalidSignature::Signature));
    assert_eq!(broken(|s| s.signature[3] ^= 1), Err(InvalidSignature::Signature));
    assert_eq!(broken(|s| s.component[3] ^= 1), Err(InvalidSignature::Component));
}

#[test]
fn a_signature_for_another_purpose_is_not_valid() {
    let key = key();
    let mut signature = signed(&key);
    signature.signature = key.sign(&signature.statement());
    assert_eq!(signature.check(ComponentDigest::of(COMPONENT), NOW), Err(InvalidSignature::Signature));
    signature.signature = key.sign(&[b"wharf something else\0", signature.statement().as_slice()].concat());
    assert_eq!(signature.check(ComponentDigest::of(COMPONENT), NOW), Err(InvalidSignature::Signature));
}

#[test]
fn a_time_in_the_future_beyond_the_skew_is_refused() {
    let signature = signed(&key());
    let at = |now: Timestamp| signature.check(ComponentDigest::of(COMPONENT), now);
    assert_eq!(at(signature.at.minus(SKEW)), Ok(()));
    let before = signature.at.minus(SKEW).minus(Duration::from_secs(1));
    assert_eq!(at(before), Err(InvalidSignature::Future(signature.at)));
}

#[test]
fn a_key_is_written_as_pem_and_openssl_keys_are_read() {
    let key = key();
    let pem = key.to_pem().unwrap();
    assert!(pem.expose().starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert_eq!(PrivateKey::from_pem(pem.expose()).unwrap().public_key(), key.public_key());
    // RFC 8410, section 10.3: the form without the public key, as OpenSSL writes it.
    let openssl = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END \
                   PRIVATE KEY-----\n";
    assert_eq!(PrivateKey::from_pem(openssl).unwrap().to_pem().unwrap().expose(), openssl);
    let public = PrivateKey::from_pem(openssl).unwrap().public_key();
    assert_eq!(public.to_string(), "wharf-ed25519:Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE");
    assert!(!format!("{:?}", PrivateKey::from_pem(openssl)).contains("1O5y"));
    assert!(PrivateKey::from_pem("wharf-ed25519:Gb9E").is_err());
}

/// The format of version 1. If these numbers changed, released files and hosts would be incompatible.
#[test]
fn the_format_is_frozen() {
    let openssl = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END \
                   PRIVATE KEY-----\n";
    let signature = signed(&PrivateKey::from_pem(openssl).unwrap());
    let digest = Sha256::digest(COMPONENT);
    let mut message = b"wharf plugin component signature\0\x01".to_vec();
    message.extend(signature.key.as_bytes());
    message.extend(1_800_000_000_u64.to_be_bytes());
    message.extend(digest);
    assert_eq!(signature.message(), message);
    assert_eq!(signature.to_bytes().len(), 137);
    let again: Signature = signature.to_string().parse().unwrap();
    assert_eq!(again, signature);
}

#[test]
fn detached_signatures_are_read_line_by_line() {
    let (one, two) = (signed(&key()), signed(&key()));
    let text = format!("{one}\r\n\n  {two}\n");
    assert_eq!(Signature::read_lines(&text).unwrap(), [one.clone(), two]);
    assert_eq!(Signature::read_lines(""), Ok(Vec::new()));
    assert_eq!(Signature::read_lines(&format!("{one}\nhello")), Err((2, Malformed::Prefix)));
    assert_eq!(Signature::read_lines(&format!("{one}=")), Err((1, Malformed::Encoding)));
    assert_eq!(Signature::read_lines(&format!("{one}AAAA")), Err((1, Malformed::Length)));
    assert_eq!(Signature::read_lines("wharf-signature:"), Err((1, Malformed::Length)));
    assert_eq!(Signature::read_lines("wharf-signature:Aw"), Err((1, Malformed::Version(3))));
}

#[test]
fn a_time_after_the_year_9999_is_refused() {
    let mut bytes = signed(&key()).to_bytes();
    for time in [u64::MAX, i64::MAX.unsigned_abs(), 253_402_300_800] {
        bytes[33..41].copy_from_slice(&time.to_be_bytes());
        assert_eq!(Signature::from_bytes(&bytes), Err(Malformed::Time));
    }
    bytes[33..41].copy_from_slice(&253_402_300_799_u64.to_be_bytes());
    assert_eq!(Signature::from_bytes(&bytes).unwrap().at.to_string(), "9999-12-31T23:59:59Z");
}

proptest! {
    #[test]
    fn no_bytes_cause_a_panic_and_a_read_signature_is_written_back(mut bytes in prop::collection::vec(any::<u8>(), 130..140), ours: bool) {
        if ours {
            bytes[0] = VERSION;
            // A valid key and a valid time.
            bytes[1..33].copy_from_slice(key().public_key().as_bytes());
            bytes[33..37].fill(0);
        }
        if let Ok(signature) = Signature::from_bytes(&bytes) {
            prop_assert_eq!(signature.to_bytes(), bytes);
            prop_assert_eq!(signature.to_string().parse::<Signature>().unwrap(), signature.clone());
            prop_assert!(signature.check(ComponentDigest::of(COMPONENT), NOW).is_err());
            let _ = format!("{signature:?}");
        }
    }

    #[test]
    fn no_text_causes_a_panic(text in "\\PC*", encoded in "[A-Za-z0-9_=-]{0,200}") {
        let _ = Signature::read_lines(&text);
        let _ = format!("{PREFIX}{encoded}").parse::<Signature>();
    }
}
