//! The text of an API key: `wharf_`, the id, `_`, the secret and a checksum. Owns its form; knows neither the database
//! nor the permissions of a key.
//!
//! Id and secret are numbers in base 62 of fixed width. The checksum is the CRC-32 of all characters before it, also in
//! base 62, as in the tokens of GitHub. So a secret scanner recognizes a key without asking the host, and the host
//! refuses a text with a typing error without a query. The checksum protects nothing: anybody can compute it.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::config::Secret;
use crate::id::KeyId;

/// The first characters of every key. No access token begins with them.
pub(super) const PREFIX: &str = "wharf_";

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The number of digits of 128 bits.
const NUMBER_LEN: usize = 22;

/// The number of digits of 32 bits.
const CHECKSUM_LEN: usize = 6;

const LEN: usize = PREFIX.len() + NUMBER_LEN + 1 + 2 * NUMBER_LEN + CHECKSUM_LEN;

/// A key that has the right form and checksum. It may not exist.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ParsedKey {
    pub(super) id: KeyId,
    /// SHA-256 of the secret part.
    pub(super) secret_hash: [u8; 32],
}

/// Returns the text of a key and the hash of its secret.
pub(super) fn write(id: KeyId, secret: [[u8; 16]; 2]) -> (Secret, [u8; 32]) {
    let secret: String = secret.into_iter().map(|half| digits(u128::from_be_bytes(half), NUMBER_LEN)).collect();
    let body = format!("{}_{secret}", public_part(id));
    let checksum = checksum(&body);
    (Secret::new(body + &checksum), Sha256::digest(secret.as_bytes()).into())
}

/// Returns the part of a key that is no secret, by which people recognize it.
pub(super) fn public_part(id: KeyId) -> String {
    format!("{PREFIX}{}", digits(id.0.as_u128(), NUMBER_LEN))
}

/// Reads a key; `None` if the text is not one.
pub(super) fn parse(text: &str) -> Option<ParsedKey> {
    if text.len() != LEN {
        return None;
    }
    let (body, given) = text.split_at_checked(LEN - CHECKSUM_LEN)?;
    if checksum(body) != given {
        return None;
    }
    let (id, secret) = body.strip_prefix(PREFIX)?.split_once('_')?;
    if id.len() != NUMBER_LEN || !secret.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let id = KeyId(Uuid::from_u128(number(id)?));
    Some(ParsedKey { id, secret_hash: Sha256::digest(secret.as_bytes()).into() })
}

fn checksum(body: &str) -> String {
    digits(crc32fast::hash(body.as_bytes()).into(), CHECKSUM_LEN)
}

/// Returns a number in base 62 with leading zeros.
fn digits(mut number: u128, count: usize) -> String {
    let mut reversed = Vec::with_capacity(count);
    for _ in 0..count {
        let digit = usize::try_from(number % 62).unwrap_or_default();
        reversed.push(ALPHABET.get(digit).map_or('0', |byte| char::from(*byte)));
        number /= 62;
    }
    reversed.into_iter().rev().collect()
}

/// Returns the number that digits in base 62 stand for; `None` if one is not a digit or the number is too large.
fn number(digits: &str) -> Option<u128> {
    digits.bytes().try_fold(0_u128, |number, byte| {
        let digit = ALPHABET.iter().position(|known| *known == byte)?;
        number.checked_mul(62)?.checked_add(u128::try_from(digit).ok()?)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A key as OPERATING.md describes it. Released keys must stay valid, so the text must never change.
    #[test]
    fn the_text_of_a_key_is_stable() {
        let id = KeyId(Uuid::from_u128(0x0123_4567_89ab_4def_8123_4567_89ab_cdef));
        let (key, hash) = write(id, [[0; 16], [255; 16]]);
        let text = key.expose();
        let expected = "wharf_0296tiiBY28CZrm8llzAZb_00000000000000000000007n42DGM5Tflk9n8mt7Fhc73PKNYM";
        assert_eq!((text, text.len()), (expected, LEN));
        assert_eq!(public_part(id), "wharf_0296tiiBY28CZrm8llzAZb");
        assert_eq!(parse(text), Some(ParsedKey { id, secret_hash: hash }));
    }

    #[test]
    fn a_text_that_differs_in_one_character_is_no_key() {
        let (key, _) = write(KeyId(Uuid::from_u128(7)), [[1; 16], [2; 16]]);
        let text = key.expose();
        for at in 0..text.len() {
            for other in ["0", "z", "_", " "] {
                let mut changed = text.to_owned();
                changed.replace_range(at..=at, other);
                assert!(changed == text || parse(&changed).is_none(), "{changed}");
            }
        }
        let shorter = text.get(1..).unwrap();
        for other in ["", "wharf_", shorter, &format!("{text}0"), &format!("{text}\n"), &text.to_uppercase()] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn an_id_beyond_128_bits_is_refused() {
        let body = format!("wharf_{}_{}", "z".repeat(NUMBER_LEN), "0".repeat(2 * NUMBER_LEN));
        let checksum = checksum(&body);
        assert_eq!(parse(&(body + &checksum)), None);
    }

    proptest! {
        #[test]
        fn a_key_survives_writing_and_parsing(id: u128, secret: [[u8; 16]; 2]) {
            let id = KeyId(Uuid::from_u128(id));
            let (key, secret_hash) = write(id, secret);
            prop_assert_eq!(parse(key.expose()), Some(ParsedKey { id, secret_hash }));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,100}", tail in "[0-9A-Za-z_ü]{60,80}") {
            prop_assert_eq!(parse(&text), None);
            let _ = parse(&format!("{PREFIX}{tail}"));
        }
    }
}
