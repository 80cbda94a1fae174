//! Password hashing. Hashes and checks passwords, and limits how many are hashed at the same time: each hash needs memory
//! (`auth.hash_memory_bytes`) and a core, so a flood of logins must wait instead of exhausting the machine. One core is
//! left to other requests. Refuses common passwords. Never decides whether a user may sign in, and stores nothing.
//! `stored_hash` owns the formats of stored hashes.
//!
//! Keyboards write one password in several forms: composed or decomposed letters, special spaces. The hash is that of
//! the form of RFC 8265 (OpaqueString), so that each of them is right. Earlier versions hashed the bytes as they were
//! sent; such a hash still matches these bytes and is outdated.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::PasswordHasher as _;
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;
use unicode_normalization::UnicodeNormalization as _;

use super::common_password::is_common;
use super::stored_hash::StoredHash;
use crate::clock::Random;
use crate::config;
use crate::error::{Error, Kind, Result, code};

/// The minimum number of code points of a new password, as it is sent.
pub const MIN_CHARS: u32 = 8;
/// The maximum number of code points of a new password, as it is sent.
pub const MAX_CHARS: u32 = 128;

/// A longer password is not normalized: no account has it.
const MAX_NORMALIZED_BYTES: usize = 8 * 1024;

/// How long a request waits before it is hashed.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// The lanes of a new hash. More of them help only if each has a core, and concurrent sign-ins use the cores already.
const LANES: u32 = 1;

/// Salt and output of a hash that no password matches.
const DUMMY_SALT: &str = "V2hhcmZOb2JvZHlTYWx0IQ";
const DUMMY_OUTPUT: &str = "Tm90IGEgaGFzaCBvZiBhbnl0aGluZyBhdCBhbGwuLi4";

/// The stored hash of an account without a password. No password matches it.
pub(super) const NO_PASSWORD: &str = "!";

/// The cost of hashing a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HashCost {
    /// That of the settings `auth.hash_memory_bytes` and `auth.hash_passes`. Their defaults are the recommendation of OWASP's
    /// Password Storage Cheat Sheet for Argon2id: 19 MiB, two passes, one lane.
    #[default]
    Configured,
    /// The lowest cost, for tests of other features.
    Minimal,
}

impl HashCost {
    fn params(self, settings: &config::Auth) -> Result<Params> {
        let (memory_bytes, passes) = match self {
            Self::Configured => (settings.hash_memory_bytes, settings.hash_passes),
            Self::Minimal => (64 * 1024, 1),
        };
        let memory_kib = u32::try_from(memory_bytes / 1024).map_err(unusable)?;
        Params::new(memory_kib, passes, LANES, None).map_err(unusable)
    }
}

/// The parameters of new hashes.
struct Current {
    params: Params,
    /// A hash with these parameters that no password matches, so a check against it takes the same time.
    dummy: String,
}

impl Current {
    fn new(params: Params) -> Self {
        let (memory_kib, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
        let dummy = format!("$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${DUMMY_SALT}${DUMMY_OUTPUT}");
        Self { params, dummy }
    }
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PasswordMatch {
    /// The password is right.
    Right,
    /// The password is right, and its hash has another format or another cost than new hashes.
    Outdated,
    /// The password is wrong, or there is no account.
    Wrong,
}

/// Hashes and checks passwords: at the same time one fewer than there are cores, but at least one. Cheap to clone.
#[derive(Clone)]
pub(super) struct PasswordHasher {
    current: Arc<Current>,
    permits: Arc<Semaphore>,
    random: Random,
}

impl PasswordHasher {
    /// Creates a hasher whose new hashes have the given cost.
    pub(super) fn new(random: Random, cost: HashCost, settings: &config::Auth) -> Result<Self> {
        let current = Arc::new(Current::new(cost.params(settings)?));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let at_once = cores.saturating_sub(1).max(1);
        Ok(Self { current, permits: Arc::new(Semaphore::new(at_once)), random })
    }

    /// Returns the PHC string of a password that a person chose. `words` are those about the account
    /// (`common_password::words_about`).
    ///
    /// # Errors
    /// `common_password`; 429: the wait was too long.
    pub(super) async fn hash_new(&self, password: &str, words: Vec<String>) -> Result<String> {
        self.hash_if(password, move |password| match is_common(password, &words) {
            true => {
                let text = "The password is too common. Choose one that is harder to guess";
                Err(Error::bad_request(code::COMMON_PASSWORD, text))
            }
            false => Ok(()),
        })
        .await
    }

    /// Returns the PHC string of a password with a fresh salt.
    ///
    /// # Errors
    /// 429: the wait was too long.
    pub(super) async fn hash(&self, password: &str) -> Result<String> {
        self.hash_if(password, |_| Ok(())).await
    }

    /// Does the same if the check accepts the password. The check takes milliseconds, and so it waits in the same
    /// queue.
    async fn hash_if(&self, password: &str, check: impl FnOnce(&str) -> Result<()> + Send + 'static) -> Result<String> {
        let salt: [u8; 16] = self.random.bytes()?;
        let password = password.to_owned();
        let current = Arc::clone(&self.current);
        self.run(move || {
            check(&password)?;
            let password = normalized(&password);
            let hash =
                argon2(current.params.clone()).hash_password_with_salt(password.as_bytes(), &salt).map_err(unusable)?;
            Ok(hash.to_string())
        })
        .await
    }

    /// Checks a password. `hash` is `None` if there is no account: the check takes the same time and always fails, and so
    /// does that of an account without a password. A
    /// password that is not in its normal form costs a second hash, with and without an account.
    ///
    /// # Errors
    /// 429: the wait was too long.
    pub(super) async fn verify(&self, password: &str, hash: Option<&str>) -> Result<PasswordMatch> {
        let password = password.to_owned();
        let current = Arc::clone(&self.current);
        let hash = hash.filter(|hash| *hash != NO_PASSWORD).unwrap_or(&current.dummy).to_owned();
        self.run(move || Ok(check_forms(&current, &password, &hash))).await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let permit = tokio::time::timeout(QUEUE_TIMEOUT, Arc::clone(&self.permits).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            let kind = Kind::TooManyRequests(QUEUE_TIMEOUT);
            return Err(Error::new(kind, code::THROTTLED, "Too many passwords are being checked now"));
        };
        let work = move || {
            // The work holds the permit, so a client that disconnects does not admit another hash before this one is
            // done.
            let _permit = permit;
            work()
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Error::internal("hashing a password failed").with_source(error))?
    }
}

fn argon2(params: Params) -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// Returns whether two texts are the same password.
pub(super) fn is_same(left: &str, right: &str) -> bool {
    normalized(left) == normalized(right)
}

/// Returns the form that is hashed: every space is U+0020, and the text is in NFC (RFC 8265, section 4.2.2).
fn normalized(password: &str) -> Cow<'_, str> {
    if password.is_ascii() || password.len() > MAX_NORMALIZED_BYTES {
        return Cow::Borrowed(password);
    }
    password.chars().map(|c| if is_space(c) { ' ' } else { c }).nfc().collect::<String>().into()
}

/// Returns whether a character is a space (Unicode's category Zs).
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}')
}

fn check_forms(current: &Current, password: &str, hash: &str) -> PasswordMatch {
    let normalized = normalized(password);
    match check(current, &normalized, hash) {
        PasswordMatch::Wrong if normalized != password => match check(current, password, hash) {
            PasswordMatch::Wrong => PasswordMatch::Wrong,
            PasswordMatch::Right | PasswordMatch::Outdated => PasswordMatch::Outdated,
        },
        verdict => verdict,
    }
}

fn check(current: &Current, password: &str, hash: &str) -> PasswordMatch {
    let Some(hash) = StoredHash::parse(hash) else {
        // An account without a password must not respond sooner than one that does not exist.
        let dummy = StoredHash::parse(&current.dummy).is_some_and(|dummy| dummy.matches(password));
        debug_assert!(!dummy, "no password matches the dummy");
        return PasswordMatch::Wrong;
    };
    match (hash.matches(password), hash.is_current(&current.params)) {
        (false, _) => PasswordMatch::Wrong,
        (true, true) => PasswordMatch::Right,
        (true, false) => PasswordMatch::Outdated,
    }
}

fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal("the password hash cannot be computed").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hasher(cost: HashCost) -> PasswordHasher {
        PasswordHasher::new(Random::System, cost, &config::Auth::default()).unwrap()
    }

    #[tokio::test]
    async fn a_hash_has_the_recommended_parameters_and_verifies() {
        let passwords = hasher(HashCost::Configured);
        let hash = passwords.hash("correct horse").await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_eq!(passwords.verify("correct horse", Some(&hash)).await.unwrap(), PasswordMatch::Right);
        assert_eq!(passwords.verify("correct horsf", Some(&hash)).await.unwrap(), PasswordMatch::Wrong);
        assert_ne!(hash, passwords.hash("correct horse").await.unwrap(), "a fresh salt each time");
    }

    #[tokio::test]
    async fn hashes_of_other_kinds_match_but_are_outdated() {
        let quick = hasher(HashCost::Minimal);
        let bcrypt = bcrypt::hash("changethis", 4).unwrap();
        assert_eq!(quick.verify("changethis", Some(&bcrypt)).await.unwrap(), PasswordMatch::Outdated);
        assert_eq!(quick.verify("changethat", Some(&bcrypt)).await.unwrap(), PasswordMatch::Wrong);
        let strong = hasher(HashCost::Configured);
        let weak = quick.hash("changethis").await.unwrap();
        assert_eq!(strong.verify("changethis", Some(&weak)).await.unwrap(), PasswordMatch::Outdated);
    }

    const COMPOSED: &str = "pässwörd 12";
    const DECOMPOSED: &str = "pa\u{308}sswo\u{308}rd\u{a0}12";

    #[tokio::test]
    async fn every_form_of_a_password_is_right() {
        let passwords = hasher(HashCost::Minimal);
        for hash in [passwords.hash(COMPOSED).await.unwrap(), passwords.hash(DECOMPOSED).await.unwrap()] {
            for form in [COMPOSED, DECOMPOSED, "pässwo\u{308}rd\u{3000}12"] {
                assert_eq!(passwords.verify(form, Some(&hash)).await.unwrap(), PasswordMatch::Right, "{form:?}");
            }
            for other in ["passwörd 12", "pässwörd12", "PÄSSWÖRD 12", "pässwörd  12"] {
                assert_eq!(passwords.verify(other, Some(&hash)).await.unwrap(), PasswordMatch::Wrong, "{other:?}");
            }
        }
        assert!(is_same(COMPOSED, DECOMPOSED) && !is_same(COMPOSED, "passwörd 12"));
    }

    #[tokio::test]
    async fn a_hash_of_the_bytes_as_sent_matches_these_bytes_and_is_outdated() {
        let passwords = hasher(HashCost::Minimal);
        let params = HashCost::Minimal.params(&config::Auth::default()).unwrap();
        let old =
            argon2(params).hash_password_with_salt(DECOMPOSED.as_bytes(), b"sixteen bytes ok").unwrap().to_string();
        assert_eq!(passwords.verify(DECOMPOSED, Some(&old)).await.unwrap(), PasswordMatch::Outdated);
        assert_eq!(passwords.verify(COMPOSED, Some(&old)).await.unwrap(), PasswordMatch::Wrong);
        assert_eq!(passwords.verify(DECOMPOSED, None).await.unwrap(), PasswordMatch::Wrong);
    }

    #[tokio::test]
    async fn a_common_password_is_refused_only_as_a_new_one() {
        let passwords = hasher(HashCost::Minimal);
        assert_eq!(*passwords.hash_new("password1", Vec::new()).await.unwrap_err().code(), code::COMMON_PASSWORD);
        passwords.hash_new("changethis", Vec::new()).await.unwrap();
        let hash = passwords.hash("password1").await.unwrap();
        assert_eq!(passwords.verify("password1", Some(&hash)).await.unwrap(), PasswordMatch::Right);
    }

    #[test]
    fn an_endless_password_is_not_normalized() {
        assert!(matches!(normalized(&"ä\u{301}".repeat(1 << 20)), Cow::Borrowed(_)));
        assert!(matches!(normalized("correct horse"), Cow::Borrowed(_)));
    }

    #[tokio::test]
    async fn a_password_without_an_account_is_wrong_at_the_same_cost() {
        for cost in [HashCost::Configured, HashCost::Minimal] {
            let current = hasher(cost).current;
            assert!(StoredHash::parse(&current.dummy).unwrap().is_current(&current.params), "{cost:?}");
        }
        let passwords = hasher(HashCost::Minimal);
        assert_eq!(passwords.verify("", None).await.unwrap(), PasswordMatch::Wrong);
        assert_eq!(passwords.verify(NO_PASSWORD, Some(NO_PASSWORD)).await.unwrap(), PasswordMatch::Wrong);
        assert_eq!(passwords.verify("x", Some("nonsense")).await.unwrap(), PasswordMatch::Wrong);
        assert_eq!(passwords.verify("x", Some("$2b$nonsense")).await.unwrap(), PasswordMatch::Wrong);
        assert_eq!(passwords.verify("x", Some("$argon2id$v=19$m=8,t=1,p=1$")).await.unwrap(), PasswordMatch::Wrong);
    }
}
