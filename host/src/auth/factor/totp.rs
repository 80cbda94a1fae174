//! Time-based one-time passwords (RFC 6238) with the parameters that every authenticator app supports: HMAC-SHA-1, six
//! digits, steps of 30 seconds. Owns the algorithm and the URI for apps (`otpauth:`). Never stores anything and never
//! decides whether a step was used before: it returns the step of a code, and `db::factor` accepts each step once.

use data_encoding::BASE32_NOPAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sha1::Sha1;
use subtle::ConstantTimeEq as _;

use crate::clock::Timestamp;
use crate::config::Secret;

/// The length of a key in bytes, as RFC 4226 recommends.
pub(super) const KEY_LEN: usize = 20;

/// The duration of a step in seconds.
const STEP_SECONDS: i64 = 30;

/// The number of steps before and after the current one whose codes are accepted, for clocks that differ.
const TOLERANCE: i64 = 1;

const DIGITS: usize = 6;
const MODULUS: u32 = 1_000_000;

/// Returns the step of a code. `None` means that it is not the code of a current step.
pub(super) fn step_of(key: &[u8], code: &str, now: Timestamp) -> Option<i64> {
    // Apps show the digits in groups.
    let code: String = code.chars().filter(|c| !c.is_whitespace()).take(DIGITS.saturating_add(1)).collect();
    let current = now.as_secs().div_euclid(STEP_SECONDS);
    let mut found = None;
    for step in current.saturating_sub(TOLERANCE)..=current.saturating_add(TOLERANCE) {
        if code_of(key, step).as_bytes().ct_eq(code.as_bytes()).into() {
            found = Some(step);
        }
    }
    found
}

/// Returns the code of a step (RFC 4226, section 5.3).
fn code_of(key: &[u8], step: i64) -> String {
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(key) else { return String::new() };
    mac.update(&step.to_be_bytes());
    let digest = mac.finalize().into_bytes();
    let offset = digest.last().map_or(0, |last| usize::from(last & 0x0f));
    let word = digest.iter().skip(offset).take(4).fold(0_u32, |word, byte| (word << 8) | u32::from(*byte));
    format!("{:0width$}", (word & 0x7fff_ffff) % MODULUS, width = DIGITS)
}

/// Returns a key as people type it into an app.
pub(super) fn key_text(key: &[u8]) -> Secret {
    Secret::new(BASE32_NOPAD.encode(key))
}

/// Returns the URI that an app reads from a QR code. `issuer` is the name of the installation.
pub(super) fn uri(key: &[u8], issuer: &str, account: &str) -> Secret {
    // A colon separates the issuer from the account.
    let issuer = issuer.replace(':', " ");
    let issuer = utf8_percent_encode(&issuer, NON_ALPHANUMERIC);
    let account = utf8_percent_encode(account, NON_ALPHANUMERIC);
    let secret = BASE32_NOPAD.encode(key);
    Secret::new(format!(
        "otpauth://totp/{issuer}:{account}?secret={secret}&issuer={issuer}&algorithm=SHA1&digits=6&period=30"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of RFC 6238, appendix B, for SHA-1.
    const KEY: &[u8] = b"12345678901234567890";

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    #[test]
    fn codes_are_those_of_the_standard() {
        // The table has eight digits; six digits are the end of them.
        for (seconds, code) in [
            (59, "94287082"),
            (1_111_111_109, "07081804"),
            (1_111_111_111, "14050471"),
            (1_234_567_890, "89005924"),
            (2_000_000_000, "69279037"),
            (20_000_000_000, "65353130"),
        ] {
            assert_eq!(step_of(KEY, code.get(2..).unwrap(), at(seconds)), Some(seconds / 30), "{seconds}");
        }
    }

    #[test]
    fn a_code_is_accepted_one_step_early_or_late() {
        let code = code_of(KEY, 100);
        for (step, accepted) in [(98, false), (99, true), (100, true), (101, true), (102, false)] {
            assert_eq!(step_of(KEY, &code, at(step * 30)), accepted.then_some(100), "{step}");
            assert_eq!(step_of(KEY, &code, at(step * 30 + 29)), accepted.then_some(100), "{step}");
        }
    }

    #[test]
    fn other_texts_are_no_codes() {
        let code = code_of(KEY, 100);
        let spaced = format!(" {} {} ", code.get(..3).unwrap(), code.get(3..).unwrap());
        assert_eq!(step_of(KEY, &spaced, at(3000)), Some(100));
        for bad in [
            "",
            "0",
            code.get(1..).unwrap(),
            &format!("{code}0"),
            &format!("{code}{code}"),
            "١٢٣٤٥٦",
            &"1".repeat(100_000),
        ] {
            assert_eq!(step_of(KEY, bad, at(3000)), None, "{bad}");
        }
    }

    #[test]
    fn the_uri_cannot_be_changed_by_the_names_in_it() {
        let uri = uri(KEY, "A & B: c", "jane+x@example.com?secret=A");
        assert_eq!(
            uri.expose(),
            "otpauth://totp/A%20%26%20B%20%20c:jane%2Bx%40example%2Ecom%3Fsecret%3DA\
             ?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=A%20%26%20B%20%20c&algorithm=SHA1&digits=6&period=30"
        );
    }
}
