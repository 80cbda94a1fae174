//! Recovery codes, which replace a second factor that was lost. Owns their format: 24 letters and digits of Crockford's
//! base 32 in four groups, 120 random bits. A code of this strength is not guessable, so SHA-256 is enough to store it
//! (OWASP ASVS 5.0, 6.5.2).

use sha2::{Digest as _, Sha256};

use crate::clock::Random;
use crate::config::Secret;
use crate::error::Result;

/// The number of codes of an account.
pub(super) const COUNT: usize = 10;

const LEN: usize = 24;
const GROUP: usize = 6;

/// 32 letters and digits that are hard to confuse (Crockford's base 32). Each encodes five bits.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The hash of a code, which is stored.
pub(crate) type CodeHash = [u8; 32];

/// Generates the codes of an account.
pub(super) fn generate(random: &Random) -> Result<Vec<Secret>> {
    (0..COUNT).map(|_| one(random)).collect()
}

fn one(random: &Random) -> Result<Secret> {
    let bytes: [u8; LEN] = random.bytes()?;
    let mut text = String::with_capacity(LEN.saturating_add(LEN / GROUP));
    for (index, byte) in bytes.iter().enumerate() {
        if index > 0 && index % GROUP == 0 {
            text.push('-');
        }
        text.extend(ALPHABET.get(usize::from(byte % 32)).map(|letter| char::from(*letter)));
    }
    Ok(Secret::new(text))
}

/// Returns the stored form of generated codes.
pub(super) fn hashes(codes: &[Secret]) -> Vec<CodeHash> {
    codes.iter().filter_map(|code| hash(code.expose())).collect()
}

/// Returns the hash of a code, in whatever way a person typed it. `None` means that the text is no code.
pub(super) fn hash(text: &str) -> Option<CodeHash> {
    let mut code = String::with_capacity(LEN);
    for letter in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
        // Crockford's rules for letters that people confuse.
        code.push(match letter.to_ascii_lowercase() {
            'o' => '0',
            'i' | 'l' => '1',
            other => other,
        });
        if code.len() > LEN {
            return None;
        }
    }
    (code.len() == LEN).then(|| Sha256::digest(code.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_differ_and_have_one_form() {
        let codes = generate(&Random::System).unwrap();
        let distinct: std::collections::BTreeSet<&str> = codes.iter().map(|code| code.expose()).collect();
        assert_eq!(distinct.len(), COUNT);
        for code in distinct {
            let groups: Vec<&str> = code.split('-').collect();
            assert!(groups.len() == 4 && groups.iter().all(|group| group.len() == GROUP), "{code}");
            assert!(hash(code).is_some());
        }
    }

    #[test]
    fn a_code_is_the_same_in_every_way_of_typing_it() {
        let code = "0123456789abcdefghjkmnpq";
        let typed = [" 012345-6789ab-CDEFGH-JKMNPQ\n", "o1234S6789abcdefghjkmnpq", "0l2345 6789abcdefghjkmnpq"];
        assert_eq!(hash(code), hash(typed[0]));
        assert_ne!(hash(code), hash(typed[1]), "s is not 5");
        assert_eq!(hash(code), hash(typed[2]));
        for bad in ["", code.get(1..).unwrap(), &format!("{code}0"), &"0".repeat(1_000_000)] {
            assert_eq!(hash(bad), None);
        }
    }
}
