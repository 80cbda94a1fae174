//! Sign-in: the way from a proof of identity to a session. Owns the order of its steps: the proof is checked first, then
//! the state of the account, then a session begins. Never knows which kind of client keeps the tokens.

use super::Auth;
use super::caller::Strength;
use super::client::Client;
use super::factor::SecondFactorChallenge;
use super::password_hashing::PasswordMatch;
use super::session::IssuedTokens;
use crate::db;
use crate::db::audit::Entry;
use crate::db::user::UserRow;
use crate::error::{Error, Result, code};

/// The number of times that a password is checked while its hash keeps changing.
pub(super) const TRIES: usize = 3;

/// The outcome of a first factor that was right.
#[derive(Debug, Clone)]
pub enum SignIn {
    /// A session began.
    Tokens(IssuedTokens),
    /// The account has a second factor, which is missing.
    SecondFactor(SecondFactorChallenge),
}

impl Auth {
    /// Signs in with a password. The address may be written in any way. An unknown address takes as long as a known one.
    ///
    /// # Errors
    /// `incorrect_credentials`; `inactive_user`, only after the right password; `throttled`; `too_many_attempts`.
    pub async fn sign_in(&self, email: &str, password: &str, client: &Client) -> Result<SignIn> {
        self.0.decoys.renew(&self.0.db, self.0.clock.now()).await?;
        let attempt = self.begin_sign_in(email, client.address).await?;
        let signed_in = self.check_and_sign_in(email, password, client).await;
        attempt.settle(&signed_in, &code::INCORRECT_CREDENTIALS);
        signed_in
    }

    async fn check_and_sign_in(&self, email: &str, password: &str, client: &Client) -> Result<SignIn> {
        for _ in 0..TRIES {
            if let Some(signed_in) = self.try_sign_in(email, password, client).await? {
                return Ok(signed_in);
            }
        }
        Err(self.incorrect_credentials())
    }

    /// Signs in. `None` means that the account was changed during the check, perhaps by a concurrent login that replaced
    /// an outdated hash.
    async fn try_sign_in(&self, email: &str, password: &str, client: &Client) -> Result<Option<SignIn>> {
        let (db, passwords) = (&self.0.db, &self.0.passwords);
        let user = self.find_by_email(email).await?;
        let decoy = if user.is_none() { self.0.decoys.find(email) } else { None };
        let hash = user.as_ref().map(|user| user.password_hash.as_str()).or(decoy.as_deref());
        let verdict = passwords.verify(password, hash).await?;
        // A decoy may have a password, which is not that of this address.
        if verdict == PasswordMatch::Wrong || user.is_none() {
            self.record_refusal(user.as_ref(), client).await?;
            return Err(self.incorrect_credentials());
        }
        let Some(mut user) = user else { return Err(self.incorrect_credentials()) };
        if !user.is_active {
            self.record_refusal(Some(&user), client).await?;
            return Err(Error::bad_request(code::INACTIVE_USER, "Inactive user"));
        }
        if self.0.settings.verify_email && user.email_verified_at.is_none() {
            self.record_refusal(Some(&user), client).await?;
            return Err(self.incorrect_credentials());
        }
        if verdict == PasswordMatch::Outdated {
            let better = passwords.hash(password).await?;
            if !db::user::rehash(db, user.id, &user.password_hash, &better).await? {
                return Ok(None);
            }
            self.0.decoys.expire();
            user.password_hash = better;
        }
        self.complete_first_factor(&user, client).await
    }

    /// Begins the session of an account whose first factor was right, or the wait for its second factor. `None` means that
    /// the account was changed meanwhile.
    pub(super) async fn complete_first_factor(&self, user: &UserRow, client: &Client) -> Result<Option<SignIn>> {
        if let Some(challenge) = self.begin_challenge(user).await? {
            return Ok(Some(SignIn::SecondFactor(challenge)));
        }
        Ok(self.begin_session(user, client, Strength::Single).await?.map(SignIn::Tokens))
    }

    /// Records a wrong password in the audit log. An unknown address is not recorded: it may be a password that somebody
    /// typed into the wrong field.
    async fn record_refusal(&self, user: Option<&UserRow>, client: &Client) -> Result<()> {
        let object = user.map_or_else(|| "user:unknown".to_owned(), |user| format!("user:{}", user.id));
        let entry = Entry::of(&client.initiator(), self.0.clock.now(), "session.refuse", object).denied();
        db::audit::insert(&self.0.db, &entry).await
    }

    /// Returns the refusal of a sign-in. While addresses must be verified, it is the same for an address that is not. If
    /// it were another one, somebody who signs up with an address of their choice would learn whether it has an account.
    fn incorrect_credentials(&self) -> Error {
        let text = match self.0.settings.verify_email {
            true => "Incorrect email or password, or the email is not verified yet",
            false => "Incorrect email or password",
        };
        Error::bad_request(code::INCORRECT_CREDENTIALS, text)
    }
}
