//! Common passwords: recognizes a new password that attackers try first. Owns the rule; the lists are those of the
//! crate `zxcvbn`: 30,000 passwords of leaks by frequency, words, names, and patterns of the keyboard. Words about the
//! account, such as its address, are added to them. Never reads an account.

use zxcvbn::matching::patterns::MatchPattern;
use zxcvbn::zxcvbn;

/// A password is common if it is found with fewer guesses.
const MIN_GUESSES: u64 = 1_000_000;

/// The name of the product, which is known to everybody who sees a page of the host.
const PRODUCT: &str = "wharf";

/// The most words of a display name.
const MAX_NAME_WORDS: usize = 8;

/// Returns the words that somebody who knows an account tries first: its address, the parts of the address, its display
/// name, and the name of the product.
pub(super) fn words_about(address: &str, full_name: Option<&str>) -> Vec<String> {
    let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
    let parts = domain.split('.');
    let name = full_name.unwrap_or_default();
    let names = name.split_whitespace().take(MAX_NAME_WORDS);
    let words = [PRODUCT, address, local, domain, name].into_iter().chain(parts).chain(names);
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Returns whether the whole password is one common password, word, name, sequence, repetition or run of keys, or one of
/// the given words about the account, perhaps with capitals or digits in place of letters. Any password of two such parts
/// is allowed. The lists are in ASCII, and so the rule speaks of no other passwords; blanks are no word.
pub(super) fn is_common(password: &str, words: &[String]) -> bool {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // A word about the account must not make two parts of a password that is common as a whole.
    is_one_part(password, &[]) || is_one_part(password, &words)
}

fn is_one_part(password: &str, words: &[&str]) -> bool {
    if !password.is_ascii() || password.trim().is_empty() {
        return false;
    }
    let estimate = zxcvbn(password, words);
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
            assert!(is_common(common, &[]), "{common}");
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
            assert!(!is_common(allowed, &[]), "{allowed}");
        }
    }

    #[test]
    fn the_address_and_the_name_of_an_account_are_common_for_this_account() {
        let words = words_about("Kowalczyk.Zofia@skarbiec.example", Some("Zofia Kowalczykowska"));
        for common in [
            "kowalczyk.zofia@skarbiec.example",
            "Kowalczyk.Zofia",
            "SKARBIEC",
            "skarbiec.example",
            "kowalczykowska",
            "K0walczyk0wska",
            "Zofia Kowalczykowska",
            "password1",
        ] {
            assert!(is_common(common, &words), "{common}");
        }
        assert!(!is_common("kowalczykowska", &[]));
        assert!(!is_common("skarbiec-mostek", &words) && !is_common("xK3pQ9sLw2", &words));
        let words = words_about("password@example.com", None);
        assert!(is_common("password1", &words), "not two parts, of which one is the address");
    }
}
