//! Checks of proofs. Owns the wait after wrong codes: of an account at sign-ins, and of each session apart from it, so
//! that the thief of a session does not keep its owner from signing in. A recovery code cannot be guessed, so wrong
//! codes of an app never keep the owner from using one.

use std::time::Duration;

use serde_json::json;

use super::{Method, Proof, recovery_code, totp};
use crate::auth::Auth;
use crate::clock::Timestamp;
use crate::db::audit;
use crate::db::factor::{self, Attempt};
use crate::error::{Error, Kind, Result, code};
use crate::id::{SessionId, UserId};
use crate::initiator::Initiator;

/// The number of wrong codes in a row without a wait. Of a million codes, three are right at a time.
const FREE_ATTEMPTS: i64 = 5;
const FIRST_WAIT: Duration = Duration::from_secs(30);
/// At one code per hour, a guess succeeds with a chance of 3 % in a year.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// Returns the wait after the given number of wrong codes in a row.
pub(super) fn wait(failures: i64) -> Duration {
    if failures < FREE_ATTEMPTS {
        return Duration::ZERO;
    }
    let doublings = u32::try_from(failures.saturating_sub(FREE_ATTEMPTS)).unwrap_or(u32::MAX);
    FIRST_WAIT.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST_WAIT)
}

impl Auth {
    /// Checks a proof of an account, which it uses up: in a session, or for a sign-in. `by` is the initiator for the
    /// audit log.
    ///
    /// # Errors
    /// `incorrect_code`: wrong, used before, or of a factor that the account does not have; `invalid_passkey`;
    /// `throttled`: nothing was compared.
    pub(super) async fn check_proof(
        &self,
        user: UserId,
        session: Option<SessionId>,
        proof: &Proof,
        by: &Initiator,
    ) -> Result<()> {
        let now = self.0.clock.now();
        if self.factors(user).await?.methods().is_empty() {
            // Not recorded: an account without a factor could fill the audit log.
            return Err(incorrect_code());
        }
        let mut refusal = incorrect_code();
        let (method, right) = match proof {
            Proof::Code(code) => (Method::Totp, self.check_code(user, session, code.expose(), now).await?),
            Proof::RecoveryCode(code) => {
                let entry = self.entry(by, "factor.recover", user);
                let right = match recovery_code::hash(code.expose()) {
                    Some(hash) => factor::take_code(&self.0.db, user, &hash, &entry).await?,
                    None => false,
                };
                (Method::RecoveryCode, right)
            }
            Proof::Passkey { party, response } => {
                let checked = self.check_passkey(party, response).await;
                let right = match checked.and_then(|(owner, verified)| verified.map(|()| owner == user)) {
                    Err(error) if *error.code() == code::INVALID_PASSKEY => {
                        refusal = error;
                        false
                    }
                    checked => checked?,
                };
                (Method::Passkey, right)
            }
        };
        if right {
            return Ok(());
        }
        let entry = self.entry(by, "session.refuse", user).denied().with_detail(json!({ "factor": method.as_str() }));
        audit::insert(&self.0.db, &entry).await?;
        Err(refusal)
    }

    /// Returns whether this is the current code of the account's app and was not used before.
    async fn check_code(&self, user: UserId, session: Option<SessionId>, code: &str, now: Timestamp) -> Result<bool> {
        let attempt = match session {
            Some(session) => factor::attempt_totp_in_session(&self.0.db, user, session, now, wait).await?,
            None => factor::attempt_totp(&self.0.db, user, true, now, wait).await?,
        };
        let row = match attempt {
            Attempt::Counted(row) if row.confirmed_at.is_some() => row,
            Attempt::Counted(_) | Attempt::NoFactor => return Ok(false),
            Attempt::Wait(wait) => return Err(throttled(wait)),
        };
        match totp::step_of(&row.secret, code, now) {
            Some(step) => factor::accept_totp(&self.0.db, user, step, session.is_none()).await,
            None => Ok(false),
        }
    }
}

pub(super) fn incorrect_code() -> Error {
    Error::bad_request(code::INCORRECT_CODE, "Incorrect code")
}

pub(super) fn throttled(wait: Duration) -> Error {
    Error::new(Kind::TooManyRequests(wait), code::THROTTLED, "Too many wrong codes; try again later")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_after_five_wrong_codes_and_has_an_end() {
        let seconds = [0, 4, 5, 6, 7, 11, 12, 1_000_000, i64::MAX].map(|failures| wait(failures).as_secs());
        assert_eq!(seconds, [0, 0, 30, 60, 120, 1920, 3600, 3600, 3600]);
    }
}
