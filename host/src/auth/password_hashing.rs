//! Passwords. Owns how they are hashed and checked, and how many at a time: each hash takes 64 MiB and a core, so a flood of
//! logins waits in line instead of exhausting the machine. Never decides who may sign in, and keeps nothing.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

use crate::clock::Random;
use crate::error::{Error, Kind, Result, code};

/// The fewest code points of a password that is set.
pub const MIN_CHARS: u32 = 8;
/// The most code points of a password that is set.
pub const MAX_CHARS: u32 = 128;

/// How long a request waits for its turn to hash.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// A hash of no password, with the parameters of real ones: checking against it costs what checking a real one costs.
const DUMMY_HASH: &str = "$argon2id$v=19$m=65536,t=3,p=4$V2hhcmZOb2JvZHlTYWx0IQ$\
                      Tm90IGEgaGFzaCBvZiBhbnl0aGluZyBhdCBhbGwuLi4";

/// What hashing a password costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HashCost {
    /// Argon2id with m = 64 MiB, t = 3, p = 4, as in the reference.
    #[default]
    Reference,
    /// Next to nothing: for tests of everything else.
    Minimal,
}

impl HashCost {
    fn params(self) -> Result<Params> {
        let (memory_kib, passes, lanes) = match self {
            Self::Reference => (65_536, 3, 4),
            Self::Minimal => (64, 1, 1),
        };
        Params::new(memory_kib, passes, lanes, None).map_err(unusable)
    }
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PasswordMatch {
    /// The password is right.
    Right,
    /// It is right, and its hash is weaker than new ones are.
    Outdated,
    /// It is wrong, or nobody's.
    Wrong,
}

/// Hashes and checks passwords on as many threads as there are cores. Cheap to clone.
#[derive(Clone)]
pub(super) struct PasswordHasher {
    params: Params,
    permits: Arc<Semaphore>,
    random: Random,
}

impl PasswordHasher {
    /// New hashes cost so much.
    pub(super) fn new(random: Random, cost: HashCost) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { params: cost.params()?, permits: Arc::new(Semaphore::new(cores)), random })
    }

    /// The PHC string of a password under a fresh salt.
    ///
    /// # Errors
    /// No turn came in time (429).
    pub(super) async fn hash(&self, password: &str) -> Result<String> {
        let salt: [u8; 16] = self.random.bytes()?;
        let password = password.to_owned();
        let params = self.params.clone();
        self.run(move || {
            let hash = argon2(params).hash_password_with_salt(password.as_bytes(), &salt).map_err(unusable)?;
            Ok(hash.to_string())
        })
        .await
    }

    /// Checks a password; `hash` is none where there is no account, which costs the same and is always wrong.
    ///
    /// # Errors
    /// No turn came in time (429).
    pub(super) async fn verify(&self, password: &str, hash: Option<&str>) -> Result<PasswordMatch> {
        let password = password.to_owned();
        let hash = hash.unwrap_or(DUMMY_HASH).to_owned();
        let params = self.params.clone();
        self.run(move || Ok(check(params, &password, &hash))).await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let turn = tokio::time::timeout(QUEUE_TIMEOUT, Arc::clone(&self.permits).acquire_owned()).await;
        let Ok(Ok(permit)) = turn else {
            let kind = Kind::TooManyRequests(QUEUE_TIMEOUT);
            return Err(Error::new(kind, code::THROTTLED, "Too many passwords are being checked now"));
        };
        let work = move || {
            // The permit goes with the work: a client that hangs up does not let another one in before it is done.
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

fn check(params: Params, password: &str, hash: &str) -> PasswordMatch {
    if hash.starts_with("$2") {
        return match bcrypt::verify(password, hash) {
            Ok(true) => PasswordMatch::Outdated,
            Ok(false) | Err(_) => PasswordMatch::Wrong,
        };
    }
    let Ok(parsed) = PasswordHash::new(hash) else { return PasswordMatch::Wrong };
    // The parameters are the hash's own; outputs are compared in constant time (`phc::Output`).
    if argon2(params.clone()).verify_password(password.as_bytes(), &parsed).is_err() {
        return PasswordMatch::Wrong;
    }
    let current = parsed.algorithm.as_str() == "argon2id"
        && Params::try_from(&parsed).is_ok_and(|own| {
            own.m_cost() == params.m_cost() && own.t_cost() == params.t_cost() && own.p_cost() == params.p_cost()
        });
    if current { PasswordMatch::Right } else { PasswordMatch::Outdated }
}

fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal("the password hash cannot be computed").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_is_the_references_and_checks() {
        let passwords = PasswordHasher::new(Random::System, HashCost::Reference).unwrap();
        let hash = passwords.hash("correct horse").await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=65536,t=3,p=4$"), "{hash}");
        assert_eq!(passwords.verify("correct horse", Some(&hash)).await.unwrap(), PasswordMatch::Right);
        assert_eq!(passwords.verify("correct horsf", Some(&hash)).await.unwrap(), PasswordMatch::Wrong);
        assert_ne!(hash, passwords.hash("correct horse").await.unwrap(), "a fresh salt each time");
    }

    #[tokio::test]
    async fn older_hashes_are_right_but_outdated() {
        let quick = PasswordHasher::new(Random::System, HashCost::Minimal).unwrap();
        let bcrypt = bcrypt::hash("changethis", 4).unwrap();
        assert_eq!(quick.verify("changethis", Some(&bcrypt)).await.unwrap(), PasswordMatch::Outdated);
        assert_eq!(quick.verify("changethat", Some(&bcrypt)).await.unwrap(), PasswordMatch::Wrong);
        let strong = PasswordHasher::new(Random::System, HashCost::Reference).unwrap();
        let weak = quick.hash("changethis").await.unwrap();
        assert_eq!(strong.verify("changethis", Some(&weak)).await.unwrap(), PasswordMatch::Outdated);
    }

    #[tokio::test]
    async fn nobodys_password_costs_as_much_and_is_wrong() {
        let parsed = PasswordHash::new(DUMMY_HASH).unwrap();
        let params = Params::try_from(&parsed).unwrap();
        assert_eq!((params.m_cost(), params.t_cost(), params.p_cost()), (65_536, 3, 4));
        let passwords = PasswordHasher::new(Random::System, HashCost::Minimal).unwrap();
        assert_eq!(passwords.verify("", None).await.unwrap(), PasswordMatch::Wrong);
        assert_eq!(passwords.verify("x", Some("nonsense")).await.unwrap(), PasswordMatch::Wrong);
        assert_eq!(passwords.verify("x", Some("$2b$nonsense")).await.unwrap(), PasswordMatch::Wrong);
        assert_eq!(passwords.verify("x", Some("$argon2id$v=19$m=8,t=1,p=1$")).await.unwrap(), PasswordMatch::Wrong);
    }
}
