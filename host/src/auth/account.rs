//! Accounts: made, read, changed and removed. What a change means for sessions and links is decided in the same transaction
//! by `db::user`; here passwords become hashes and verified tokens are forgotten.

use super::password_hashing::PasswordMatch;
use super::{Auth, Caller, User};
use crate::address::Address;
use crate::config::Secret;
use crate::db;
use crate::db::user::{NewUser, UserUpdate};
use crate::error::{Error, Result, code};
use crate::id::UserId;

/// What an account is made of.
#[derive(Debug, Clone)]
pub struct NewAccount {
    /// Unique by its lower-cased whole.
    pub email: Address,
    /// Its length is the caller's to check.
    pub password: Secret,
    /// A name for people.
    pub full_name: Option<String>,
    /// May sign in.
    pub is_active: bool,
    /// May do everything.
    pub is_superuser: bool,
}

/// What is to change; none leaves a member as it is.
#[derive(Debug, Clone, Default)]
pub struct AccountChange {
    /// A new address.
    pub email: Option<Address>,
    /// A new password, which ends every session of the account.
    pub password: Option<Secret>,
    /// A new name; `Some(None)` removes it.
    pub full_name: Option<Option<String>>,
    /// Whether it may sign in; deactivation ends every session.
    pub is_active: Option<bool>,
    /// Whether it may do everything.
    pub is_superuser: Option<bool>,
}

impl Auth {
    /// An account.
    ///
    /// # Errors
    /// `user_not_found`.
    pub async fn user(&self, id: UserId) -> Result<User> {
        db::user::find(&self.0.db, id).await?.map(User::from).ok_or_else(not_found)
    }

    /// The account with this address, in any case.
    ///
    /// # Errors
    /// The database.
    pub async fn user_by_email(&self, email: &str) -> Result<Option<User>> {
        Ok(self.find_by_email(email).await?.map(User::from))
    }

    /// A page of all accounts, newest first, and how many there are.
    ///
    /// # Errors
    /// The database.
    pub async fn users(&self, skip: i64, limit: i64) -> Result<(Vec<User>, i64)> {
        let count = db::user::count(&self.0.db).await?;
        let rows = db::user::list(&self.0.db, skip, limit).await?;
        Ok((rows.into_iter().map(User::from).collect(), count))
    }

    /// Makes an account.
    ///
    /// # Errors
    /// A conflict `email_taken`; too many passwords at once.
    pub async fn create_user(&self, account: NewAccount) -> Result<User> {
        // Whoever asks is told anyway, so a taken address need not cost a hash.
        if self.find_by_email(account.email.as_str()).await?.is_some() {
            return Err(Error::conflict(code::EMAIL_TAKEN, "User with this email already exists"));
        }
        let row = self.new_row(account).await?;
        db::user::insert(&self.0.db, &row).await?;
        Ok(User {
            id: row.id,
            email: row.email.as_str().to_owned(),
            is_active: row.is_active,
            is_superuser: row.is_superuser,
            full_name: row.full_name,
            created_at: row.created_at,
        })
    }

    pub(super) async fn new_row(&self, account: NewAccount) -> Result<NewUser> {
        Ok(NewUser {
            id: UserId(self.0.random.uuid()?),
            email: account.email,
            is_active: account.is_active,
            is_superuser: account.is_superuser,
            full_name: account.full_name,
            password_hash: self.0.passwords.hash(account.password.expose()).await?,
            created_at: self.0.clock.now(),
        })
    }

    /// Changes an account.
    ///
    /// # Errors
    /// `user_not_found`; conflicts `email_taken` and `last_superuser`.
    pub async fn update_user(&self, id: UserId, change: AccountChange) -> Result<User> {
        let password_hash = match &change.password {
            Some(password) => {
                db::user::find(&self.0.db, id).await?.ok_or_else(not_found)?;
                Some(self.0.passwords.hash(password.expose()).await?)
            }
            None => None,
        };
        let update = UserUpdate {
            email: change.email,
            is_active: change.is_active,
            is_superuser: change.is_superuser,
            full_name: change.full_name,
            password_hash,
        };
        let _forget = self.0.token_cache.invalidate_after(id);
        db::user::update(&self.0.db, id, &update).await?.map(User::from).ok_or_else(not_found)
    }

    /// Removes an account with its sessions.
    ///
    /// # Errors
    /// `user_not_found`; a conflict `last_superuser`.
    pub async fn delete_user(&self, id: UserId) -> Result<()> {
        let _forget = self.0.token_cache.invalidate_after(id);
        if db::user::delete(&self.0.db, id).await? { Ok(()) } else { Err(not_found()) }
    }

    /// Changes the caller's own password and ends every other session of his.
    ///
    /// # Errors
    /// `incorrect_password`, then `same_password`.
    pub async fn change_password(&self, caller: &Caller, current: &str, new: &str) -> Result<()> {
        let incorrect = || Error::bad_request(code::INCORRECT_PASSWORD, "Incorrect password");
        let id = caller.user.id;
        let old = db::user::find(&self.0.db, id).await?.ok_or_else(Error::invalid_token)?.password_hash;
        if self.0.passwords.verify(current, Some(&old)).await? == PasswordMatch::Wrong {
            return Err(incorrect());
        }
        if current == new {
            return Err(Error::bad_request(code::SAME_PASSWORD, "New password cannot be the same as the current one"));
        }
        let hash = self.0.passwords.hash(new).await?;
        let _forget = self.0.token_cache.invalidate_after(id);
        let changed = db::user::change_password(&self.0.db, id, &old, &hash, caller.session).await?;
        // Changed meanwhile, so that the one given is the current one no longer.
        if changed { Ok(()) } else { Err(incorrect()) }
    }
}

fn not_found() -> Error {
    Error::not_found(code::USER_NOT_FOUND, "User not found")
}
