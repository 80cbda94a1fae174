//! Stored hashes: the formats in which accounts keep their passwords, the host's own and those of other systems. Owns
//! how a format is read and compared, and the cost that a hash from outside may have. Makes no hash.
//!
//! | format | used by |
//! |---|---|
//! | `$argon2id$…`, `$argon2i$…`, `$argon2d$…` | Wharf, the FastAPI template, Directus, TrailBase, Supabase |
//! | `$2a$…`, `$2b$…`, `$2x$…`, `$2y$…` | PocketBase, Supabase, the FastAPI template (bcrypt) |
//! | `$pbkdf2-sha256$…`, `$pbkdf2-sha512$…`, `$scrypt$…` | passlib (FastAPI), and the PHC string format |
//! | `pbkdf2_sha256$…`, `scrypt$…`, `argon2$…`, `bcrypt$…`, `bcrypt_sha256$…` | Django |

use argon2::password_hash::PasswordVerifier as _;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha2::{Digest as _, Sha256, Sha512};
use subtle::ConstantTimeEq as _;

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The longest hash that is read, in bytes. No format needs half of it.
const MAX_BYTES: usize = 512;
/// The longest output of a hash, in bytes.
const MAX_OUTPUT: usize = 64;

/// The memory that a hash from outside may need, in KiB.
const MAX_MEMORY_KIB: u64 = 256 * 1024;
/// The passes over the memory that argon2 and scrypt may make. With the memory, it bounds the time to some seconds.
const MAX_PASSES: u32 = 16;
/// The rounds that PBKDF2 may make. Django 6 makes 1.2 million.
const MAX_ROUNDS: u32 = 5_000_000;
/// The cost that bcrypt may have, as the logarithm of its rounds.
const MAX_BCRYPT_COST: u32 = 15;

/// A hash that was read.
#[derive(Debug)]
pub(super) enum StoredHash<'a> {
    /// Argon2, with its parameters.
    Argon2(Box<PasswordHash>, Params),
    /// bcrypt, of the password itself or of its SHA-256 in hexadecimal.
    Bcrypt {
        /// The hash, beginning with `$2`.
        text: &'a str,
        prehashed: bool,
    },
    /// PBKDF2.
    Pbkdf2 { prf: Prf, rounds: u32, salt: Vec<u8>, output: Vec<u8> },
    /// scrypt.
    Scrypt { params: scrypt::Params, salt: Vec<u8>, output: Vec<u8> },
}

/// The hash function of PBKDF2.
#[derive(Debug, Clone, Copy)]
pub(super) enum Prf {
    Sha256,
    Sha512,
}

impl<'a> StoredHash<'a> {
    /// Reads a hash. Returns `None` if the format is unknown, or if the text does not fit it.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let fields: Vec<&str> = text.split('$').collect();
        match *fields.as_slice() {
            ["", "argon2id" | "argon2i" | "argon2d", ..] => argon2(text),
            ["argon2", "argon2id" | "argon2i" | "argon2d", ..] => argon2(text.strip_prefix("argon2")?),
            ["", "2a" | "2b" | "2x" | "2y", ..] => bcrypt(text, false),
            ["bcrypt", "", ..] => bcrypt(text.strip_prefix("bcrypt$")?, false),
            ["bcrypt_sha256", "", ..] => bcrypt(text.strip_prefix("bcrypt_sha256$")?, true),
            ["", "pbkdf2-sha256", rounds, salt, output] => pbkdf2(Prf::Sha256, rounds, decode(salt)?, output),
            ["", "pbkdf2-sha512", rounds, salt, output] => pbkdf2(Prf::Sha512, rounds, decode(salt)?, output),
            ["pbkdf2_sha256", rounds, salt, output] => pbkdf2(Prf::Sha256, rounds, salt.as_bytes().to_vec(), output),
            ["", "scrypt", params, salt, output] => {
                let (log_n, r, p) = scrypt_params(params)?;
                scrypt(log_n, r, p, decode(salt)?, output)
            }
            ["scrypt", n, salt, r, p, output] => {
                let n: u64 = n.parse().ok().filter(|n: &u64| n.is_power_of_two())?;
                let log_n = u8::try_from(n.trailing_zeros()).ok()?;
                scrypt(log_n, r.parse().ok()?, p.parse().ok()?, salt.as_bytes().to_vec(), output)
            }
            _ => None,
        }
    }

    /// Returns whether the password has this hash. Outputs are compared in constant time.
    pub(super) fn matches(&self, password: &str) -> bool {
        match self {
            Self::Argon2(hash, params) => {
                // The hash contains its parameters. `phc::Output` compares outputs in constant time.
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
                argon2.verify_password(password.as_bytes(), &**hash).is_ok()
            }
            Self::Bcrypt { text, prehashed: false } => bcrypt::verify(password, text).unwrap_or(false),
            Self::Bcrypt { text, prehashed: true } => {
                let digest: String = Sha256::digest(password).iter().map(|byte| format!("{byte:02x}")).collect();
                bcrypt::verify(digest, text).unwrap_or(false)
            }
            Self::Pbkdf2 { prf, rounds, salt, output } => {
                let mut computed = vec![0; output.len()];
                let password = password.as_bytes();
                match prf {
                    Prf::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, *rounds, &mut computed),
                    Prf::Sha512 => pbkdf2::pbkdf2_hmac::<Sha512>(password, salt, *rounds, &mut computed),
                }
                computed.ct_eq(output).into()
            }
            Self::Scrypt { params, salt, output } => {
                let mut computed = vec![0; output.len()];
                let done = scrypt::scrypt(password.as_bytes(), salt, params, &mut computed);
                done.is_ok() && bool::from(computed.ct_eq(output))
            }
        }
    }

    /// Returns whether the hash has the format and the cost of one that is made with the given parameters.
    pub(super) fn is_current(&self, params: &Params) -> bool {
        let Self::Argon2(hash, own) = self else { return false };
        hash.algorithm.as_str() == "argon2id"
            && own.m_cost() == params.m_cost()
            && own.t_cost() == params.t_cost()
            && own.p_cost() == params.p_cost()
    }

    /// Returns the reason why a hash from outside costs too much to check.
    pub(super) fn excess(&self) -> Option<&'static str> {
        let within = match self {
            Self::Argon2(_, params) => {
                u64::from(params.m_cost()) <= MAX_MEMORY_KIB
                    && params.t_cost() <= MAX_PASSES
                    && params.p_cost() <= MAX_PASSES
            }
            Self::Bcrypt { text, .. } => bcrypt_cost(text).is_some_and(|cost| cost <= MAX_BCRYPT_COST),
            Self::Pbkdf2 { rounds, .. } => *rounds <= MAX_ROUNDS,
            Self::Scrypt { params, .. } => {
                let kib = params.n().saturating_mul(u64::from(params.r())) / 8;
                kib <= MAX_MEMORY_KIB && params.p() <= MAX_PASSES
            }
        };
        (!within).then_some("needs more memory or time than a hash may")
    }
}

fn argon2(text: &str) -> Option<StoredHash<'_>> {
    let hash = PasswordHash::new(text).ok().filter(|hash| hash.hash.is_some() && hash.salt.is_some())?;
    let params = Params::try_from(&hash).ok()?;
    Some(StoredHash::Argon2(Box::new(hash), params))
}

fn bcrypt(text: &str, prehashed: bool) -> Option<StoredHash<'_>> {
    // `$2b$12$`, and 22 and 31 characters.
    let rest = text.get(7..)?;
    let valid = rest.len() == 53 && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'/');
    (valid && bcrypt_cost(text).is_some()).then_some(StoredHash::Bcrypt { text, prehashed })
}

fn bcrypt_cost(text: &str) -> Option<u32> {
    text.split('$').nth(2)?.parse().ok().filter(|cost| (4..=31).contains(cost))
}

fn pbkdf2<'a>(prf: Prf, rounds: &str, salt: Vec<u8>, output: &str) -> Option<StoredHash<'a>> {
    // `29000` of passlib and Django, `i=29000` or `i=29000,l=32` of the PHC string format.
    let rounds = rounds.split(',').next()?;
    let rounds: u32 = rounds.strip_prefix("i=").unwrap_or(rounds).parse().ok().filter(|rounds| *rounds > 0)?;
    Some(StoredHash::Pbkdf2 { prf, rounds, salt, output: decode_output(output)? })
}

/// Reads `ln=16,r=8,p=1`.
fn scrypt_params(text: &str) -> Option<(u8, u32, u32)> {
    let mut parts = text.split(',');
    let log_n = parts.next()?.strip_prefix("ln=")?.parse().ok()?;
    let r = parts.next()?.strip_prefix("r=")?.parse().ok()?;
    let p = parts.next()?.strip_prefix("p=")?.parse().ok()?;
    Some((log_n, r, p))
}

fn scrypt<'a>(log_n: u8, r: u32, p: u32, salt: Vec<u8>, output: &str) -> Option<StoredHash<'a>> {
    let params = scrypt::Params::new(log_n, r, p).ok()?;
    Some(StoredHash::Scrypt { params, salt, output: decode_output(output)? })
}

/// Decodes base64, also in the alphabet of passlib, which has a dot in place of the plus sign.
fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text.replace('.', "+")).ok()
}

fn decode_output(text: &str) -> Option<Vec<u8>> {
    decode(text).filter(|output| (16..=MAX_OUTPUT).contains(&output.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by Python's hashlib in the formats of Django and passlib.
    const FOREIGN: &[&str] = &[
        "pbkdf2_sha256$1000$Xk3pQ9sLw2Zb$5KPEaZFGhf9DOLr0jLyjuoiST1HyU3Su7smJRWwpySk=",
        "$pbkdf2-sha256$1000$AAECAwQFBgcICQoLDA0ODw$yRTMTwbMbo9G0VfjobWqerzuuxe7BETNTErBbKKumGQ",
        "$pbkdf2-sha512$1000$AAECAwQFBgcICQoLDA0ODw$Xpx07WjVx4vCIvrmBRj8uOoVVtGqJqtUv2J5bhizSQs7osCteF7W4A61dZDqSIqQjO.dxO6p5FT/Uy7QRBXSXA",
        "$pbkdf2-sha256$i=1000,l=32$AAECAwQFBgcICQoLDA0ODw$yRTMTwbMbo9G0VfjobWqerzuuxe7BETNTErBbKKumGQ",
        "scrypt$1024$Xk3pQ9sLw2Zb$8$5$tpSIaVuFS7wipgZpXEE83/AMrpat/VbP5E/tlvq828VbD9MdmBkc6DKJu8wBMmK2j0b3IgjoVvTLe62Q9d15xQ==",
        "$scrypt$ln=10,r=8,p=1$AAECAwQFBgcICQoLDA0ODw$nfkj3u1fRTHCea+fVr03sWV770kp5wLOLoEakziKhqE",
    ];

    #[test]
    fn hashes_of_other_systems_match_their_password_only() {
        let bcrypt = bcrypt::hash("correct horse", 4).unwrap();
        let digest: String = Sha256::digest("correct horse").iter().map(|byte| format!("{byte:02x}")).collect();
        let django = format!("bcrypt_sha256${}", bcrypt::hash(digest, 4).unwrap());
        let plain = format!("bcrypt${bcrypt}");
        for text in FOREIGN.iter().copied().chain([bcrypt.as_str(), &django, &plain]) {
            let hash = StoredHash::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert!(hash.matches("correct horse"), "{text}");
            assert!(!hash.matches("correct horsf") && !hash.matches(""), "{text}");
            assert!(hash.excess().is_none() && !hash.is_current(&Params::default()), "{text}");
        }
    }

    #[test]
    fn argon2_of_django_is_read() {
        const PHC: &str =
            "$argon2id$v=19$m=102400,t=2,p=8$c29tZXNhbHRzb21l$Tm90IGEgaGFzaCBvZiBhbnl0aGluZyBhdCBhbGwuLi4";
        for text in [PHC, &format!("argon2{PHC}")] {
            let hash = StoredHash::parse(text).unwrap();
            assert!(hash.excess().is_none());
            assert!(hash.is_current(&Params::new(102_400, 2, 8, None).unwrap()));
            assert!(!hash.is_current(&Params::new(65_536, 3, 4, None).unwrap()));
        }
    }

    #[test]
    fn a_hash_that_costs_too_much_is_recognized() {
        const OUTPUT: &str = "Tm90IGEgaGFzaCBvZiBhbnl0aGluZyBhdCBhbGwuLi4";
        for text in [
            &format!("$argon2id$v=19$m=4194304,t=3,p=4$c29tZXNhbHRzb21l${OUTPUT}"),
            &format!("$argon2id$v=19$m=65536,t=1000,p=4$c29tZXNhbHRzb21l${OUTPUT}"),
            &format!("pbkdf2_sha256$2000000000$salt${OUTPUT}"),
            &format!("$scrypt$ln=30,r=8,p=1$c29tZXNhbHRzb21l${OUTPUT}"),
            &format!("scrypt$16384$salt$8$5000${OUTPUT}"),
            &format!("$2b$31${}", "a".repeat(53)),
        ] {
            assert!(StoredHash::parse(text).unwrap().excess().is_some(), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_hash_is_refused() {
        for text in [
            "",
            "$",
            "changethis",
            "$2b$nonsense",
            "$2b$12$short",
            "$2b$12$abcdefghijklmnopqrstuumLLrchw8C2TL6aZwB/A9.xdAmKsKk€",
            "$argon2id$v=19$m=8,t=1,p=1$",
            "md5$salt$5f4dcc3b5aa765d61d8327deb882cf99",
            "pbkdf2_sha256$0$salt$5KPEaZFGhf9DOLr0jLyjuoiST1HyU3Su7smJRWwpySk=",
            "pbkdf2_sha256$1000$salt$AAAA",
            "scrypt$1000$salt$8$5$5KPEaZFGhf9DOLr0jLyjuoiST1HyU3Su7smJRWwpySk=",
            &"$".repeat(10_000),
        ] {
            assert!(StoredHash::parse(text).is_none(), "{text}");
        }
    }
}
