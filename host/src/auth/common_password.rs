//! Common passwords: recognizes a new password that attackers try first. Owns the rule; the lists are those of the
//! crate `zxcvbn`: 30,000 passwords of leaks by frequency, words, names, and patterns of the keyboard. Knows no
//! account.

use zxcvbn::matching::patterns::MatchPattern;
use zxcvbn::zxcvbn;

/// A password is common if it is found with fewer guesses.
const MIN_GUESSES: u64 = 1_000_000;

/// Returns whether the whole password is one common password, word, name, sequence, repetition or run of keys, perhaps
/// with capitals or digits in place of letters. Any password of two such parts is allowed. The lists are in ASCII, and
/// so the rule speaks of no other passwords; blanks are no word.
pub(super) fn is_common(password: &str) -> bool {
    if !password.is_ascii() || password.trim().is_empty() {
        return false;
    }
    let estimate = zxcvbn(password, &[]);
    match estimate.sequence() {
        [whole] => estimate.guesses() < MIN_GUESSES && !matches!(whole.pattern, MatchPattern::BruteForce),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_that_attackers_try_first_are_common() {
        for common in [
            "12345678",
            "password",
            "Password",
            "password1",
            "P@ssword",
            "passw0rd",
            "qwertyuiop",
            "iloveyou",
            "trustno1",
            "11111111",
            "aaaaaaaa",
            "abcdefgh",
            "changeme",
            "sunshine",
            "abcabcabc",
            "asdfghjkl",
            "christopher",
        ] {
            assert!(is_common(common), "{common}");
        }
    }

    #[test]
    fn other_passwords_are_allowed() {
        for allowed in [
            "changethis",
            "changethat",
            "correct horse",
            "battery staple",
            "a first password",
            "another password",
            "        ",
            "pässwörd",
            "🔑🔑🔑🔑🔑🔑🔑🔑",
            "xK3pQ9sLw2",
            "0d9v-kq2m-77ab-zzx1",
        ] {
            assert!(!is_common(allowed), "{allowed}");
        }
    }
}
