//! Accounts: create, read, change and delete. This module hashes passwords and invalidates cached tokens. `db::user`
//! decides in the same transaction which sessions and links a change ends.

use serde_json::json;

use super::address_proof::AddressMail;
use super::common_password::words_about;
use super::password_hashing::{PasswordMatch, is_same};
use super::sign_in::TRIES;
use super::{Auth, Caller, User};
use crate::address::{Address, AddressKey};
use crate::clock::Timestamp;
use crate::config::Secret;
use crate::db;
use crate::db::audit::Entry;
use crate::db::email::NewMail;
use crate::db::user::{NewUser, UserUpdate};
use crate::error::{Error, Result, code};
use crate::id::UserId;
use crate::initiator::Initiator;
use crate::permission::PermissionSet;

/// A new account.
#[derive(Debug, Clone)]
pub struct NewAccount {
    /// The address. Its key must be unique.
    pub email: Address,
    /// The password. The caller must check its length.
    pub password: Secret,
    /// The display name.
    pub full_name: Option<String>,
    /// Whether the user may sign in.
    pub is_active: bool,
    /// Whether the user has every privilege.
    pub is_superuser: bool,
}

/// A change of an account. `None` keeps a member.
#[derive(Debug, Clone, Default)]
pub struct AccountChange {
    /// A new address.
    pub email: Option<Address>,
    /// A new password, which ends every session of the account.
    pub password: Option<Secret>,
    /// A new name; `Some(None)` removes it.
    pub full_name: Option<Option<String>>,
    /// Whether the user may sign in. Deactivation ends every session.
    pub is_active: Option<bool>,
    /// Whether the user has every privilege.
    pub is_superuser: Option<bool>,
    /// Whether the API keys, passkeys and linked identities of the account end, so that only the password opens it.
    pub ends_other_access: bool,
}

/// The result of a sign-up.
#[derive(Debug)]
pub enum SignedUp {
    /// The account exists now.
    Created(User),
    /// Another account has the address, and the client must not learn that. No account was created; this one looks as if
    /// it was.
    Taken(User),
}

impl Auth {
    /// Returns an account.
    ///
    /// # Errors
    /// `user_not_found`.
    pub async fn user(&self, id: UserId) -> Result<User> {
        db::user::find(&self.0.db, id).await?.map(User::from).ok_or_else(not_found)
    }

    /// Returns the account with this address, written in any way.
    ///
    /// # Errors
    /// The database fails.
    pub async fn user_by_email(&self, email: &str) -> Result<Option<User>> {
        Ok(self.find_by_email(email).await?.map(User::from))
    }

    /// Returns a page of all accounts, newest first, and the total number.
    ///
    /// # Errors
    /// The database fails.
    pub async fn users(&self, skip: i64, limit: i64) -> Result<(Vec<User>, i64)> {
        let count = db::user::count(&self.0.db).await?;
        let rows = db::user::list(&self.0.db, skip, limit).await?;
        Ok((rows.into_iter().map(User::from).collect(), count))
    }

    /// Creates an account.
    ///
    /// # Errors
    /// A conflict `email_taken`; `common_password`; `throttled`.
    pub async fn create_user(&self, account: NewAccount, by: &Initiator) -> Result<User> {
        self.create_user_with(account, by, |_| Ok(None)).await
    }

    /// Creates an account for an operator and queues the mail that `mail` returns for it: both or none.
    ///
    /// # Errors
    /// As [`Auth::create_user`]; for a superuser 403 `exceeds_own_permissions` and `step_up_required`.
    pub async fn create_user_for(
        &self,
        caller: &Caller,
        account: NewAccount,
        by: &Initiator,
        mail: impl FnOnce(UserId) -> Result<Option<NewMail>>,
    ) -> Result<User> {
        if account.is_superuser {
            if let Err(error) = caller.require_all(&PermissionSet::Everything) {
                let detail = json!({ "email": account.email.as_str(), "is_superuser": true });
                let entry = Entry::of(by, self.0.clock.now(), "user.create", "users").with_detail(detail);
                return self.refused(error, entry).await;
            }
            // Otherwise a stolen token could create an account that has no factor.
            self.require_step_up(caller)?;
        }
        self.create_user_with(account, by, mail).await
    }

    async fn create_user_with(
        &self,
        account: NewAccount,
        by: &Initiator,
        mail: impl FnOnce(UserId) -> Result<Option<NewMail>>,
    ) -> Result<User> {
        // Hashed before the database decides whether the address is taken: the time of the response must not tell it.
        let words = words_about(account.email.as_str(), account.full_name.as_deref());
        let password_hash = self.0.passwords.hash_new(account.password.expose(), words).await?;
        let row = self.row_of(account, password_hash)?;
        let mail = mail(row.id)?;
        let entry = self.entry(by, "user.create", row.id).with_change(None, Some(described(&row)));
        db::user::insert(&self.0.db, &row, mail.as_ref(), &entry).await?;
        Ok(row.into())
    }

    /// Creates the account of a person who signs up. Its address is not verified. While addresses must be verified, the
    /// account is created together with the mail that `mail` returns, and a taken address is not reported: the result
    /// looks the same and takes the same work.
    ///
    /// # Errors
    /// A conflict `email_taken`, unless addresses must be verified; `common_password`; `throttled`;
    /// `mail_queue_full`.
    pub async fn sign_up(
        &self,
        account: NewAccount,
        by: &Initiator,
        mail: impl FnOnce() -> Result<Option<NewMail>>,
    ) -> Result<SignedUp> {
        let must_verify = self.0.settings.verify_email;
        // Hashed before the database decides whether the address is taken: the time of the response must not tell it.
        let words = words_about(account.email.as_str(), account.full_name.as_deref());
        let password_hash = self.0.passwords.hash_new(account.password.expose(), words).await?;
        let row = NewUser { email_verified_at: None, ..self.row_of(account, password_hash)? };
        let mail = if must_verify { mail()? } else { None };
        let entry = self.entry(by, "user.create", row.id).with_change(None, Some(described(&row)));
        match db::user::insert(&self.0.db, &row, mail.as_ref(), &entry).await {
            Ok(()) => Ok(SignedUp::Created(row.into())),
            Err(error) if must_verify && *error.code() == code::EMAIL_TAKEN => Ok(SignedUp::Taken(row.into())),
            Err(error) => Err(error),
        }
    }

    /// Returns the audit entry of a change of an account.
    pub(super) fn entry(&self, by: &Initiator, action: &str, user: UserId) -> Entry {
        Entry::of(by, self.0.clock.now(), action, format!("user:{user}"))
    }

    /// Returns the row of a new account, whatever its password.
    pub(super) async fn new_row(&self, account: NewAccount) -> Result<NewUser> {
        let password_hash = self.0.passwords.hash(account.password.expose()).await?;
        self.row_of(account, password_hash)
    }

    fn row_of(&self, account: NewAccount, password_hash: String) -> Result<NewUser> {
        Ok(NewUser {
            id: UserId(self.0.random.uuid()?),
            email: account.email,
            is_active: account.is_active,
            is_superuser: account.is_superuser,
            full_name: account.full_name,
            password_hash,
            created_at: self.0.clock.now(),
            // The operator who creates an account vouches for its address.
            email_verified_at: Some(self.0.clock.now()),
            invited_at: None,
        })
    }

    /// Changes an account. The operator who gives it another address, a password or the role of a superuser vouches for its
    /// address.
    ///
    /// # Errors
    /// `user_not_found`; conflicts `email_taken` and `last_superuser`; `common_password`.
    pub async fn update_user(&self, id: UserId, change: AccountChange, by: &Initiator) -> Result<User> {
        self.apply(id, change, Some(self.0.clock.now()), None, by, |_| Ok(None)).await
    }

    /// Changes an account for a caller who has every permission of it, and queues the mail that `mail` returns if it
    /// gets another address: both or none.
    ///
    /// # Errors
    /// As [`Auth::update_user`]; `mail_queue_full`; 403 `exceeds_own_permissions`; 403 `needs_session`.
    pub async fn update_user_for(
        &self,
        caller: &Caller,
        id: UserId,
        change: AccountChange,
        by: &Initiator,
        mail: impl FnOnce(AddressMail<'_>) -> Result<Option<NewMail>>,
    ) -> Result<User> {
        // The database compares again: during the hashing, the account can get permissions.
        let updated = match self.check_change(caller, id, &change).await {
            Ok(()) => self.apply(id, change, Some(self.0.clock.now()), Some(&caller.permissions), by, mail).await,
            Err(error) => Err(error),
        };
        match updated {
            Ok(user) => Ok(user),
            Err(error) => self.refused(error, self.entry(by, "user.update", id)).await,
        }
    }

    async fn check_change(&self, caller: &Caller, id: UserId, change: &AccountChange) -> Result<()> {
        caller.require_session_for_own(id)?;
        if change.is_superuser == Some(true) {
            caller.require_all(&PermissionSet::Everything)?;
        }
        self.require_outranks(caller, id).await
    }

    /// Changes the account of the caller: its name, and its address. While addresses must be verified, a new address
    /// replaces the old one when the link in the mail to the new address comes back. A taken address is not reported then.
    ///
    /// # Errors
    /// A conflict `email_taken`, unless addresses must be verified; `mail_queue_full`; `mail_off`; for another address
    /// `needs_session` and `step_up_required`.
    pub async fn update_own(
        &self,
        caller: &Caller,
        change: AccountChange,
        by: &Initiator,
        mail: impl Fn(AddressMail<'_>) -> Result<Option<NewMail>>,
    ) -> Result<User> {
        let user = caller.user()?;
        let is_own = |email: &Address| Some(email.key()) == AddressKey::of(&user.email);
        if change.email.as_ref().is_some_and(|email| !is_own(email)) {
            // A mail to the address can set the password, so a stolen token must not be enough to change it.
            self.require_recent_proof(caller.session()?)?;
        }
        let mut change = AccountChange { email: change.email, full_name: change.full_name, ..AccountChange::default() };
        if self.0.settings.verify_email
            && let Some(email) = &change.email
        {
            if is_own(email) {
                let entry = self.entry(by, "address.cancel", user.id);
                db::address_proof::cancel_change(&self.0.db, user.id, &entry).await?;
            } else {
                self.ask_for_address(user.id, email, by, &mail).await?;
                change.email = None;
            }
            if change.email.is_none() && change.full_name.is_none() {
                return self.user(user.id).await;
            }
        }
        self.apply(user.id, change, None, None, by, mail).await
    }

    async fn apply(
        &self,
        id: UserId,
        change: AccountChange,
        email_verified_at: Option<Timestamp>,
        permissions: Option<&PermissionSet>,
        by: &Initiator,
        mail: impl FnOnce(AddressMail<'_>) -> Result<Option<NewMail>>,
    ) -> Result<User> {
        let password_hash = match &change.password {
            Some(password) => {
                let row = db::user::find(&self.0.db, id).await?.ok_or_else(not_found)?;
                let address = change.email.as_ref().map_or(row.email.as_str(), Address::as_str);
                let name = change.full_name.as_ref().unwrap_or(&row.full_name);
                Some(self.0.passwords.hash_new(password.expose(), words_about(address, name.as_deref())).await?)
            }
            None => None,
        };
        let announcement = match &change.email {
            Some(email) => {
                let old = db::user::find(&self.0.db, id).await?.ok_or_else(not_found)?.email;
                mail(AddressMail::Announce { old: &old, new: email.as_str() })?
            }
            None => None,
        };
        let update = UserUpdate {
            email: change.email,
            email_verified_at,
            announcement,
            is_active: change.is_active,
            is_superuser: change.is_superuser,
            full_name: change.full_name,
            password_hash,
            ends_other_access: change.ends_other_access,
        };
        let _forget = self.0.token_cache.invalidate_after(id);
        let entry = self.entry(by, "user.update", id);
        let updated = db::user::update(&self.0.db, id, &update, permissions, &entry).await?;
        updated.map(User::from).ok_or_else(not_found)
    }

    /// Deletes an account with its sessions.
    ///
    /// # Errors
    /// `user_not_found`; a conflict `last_superuser`.
    pub async fn delete_user(&self, id: UserId, by: &Initiator) -> Result<()> {
        self.delete(id, None, by).await
    }

    /// Deletes an account with its sessions for a caller who has every permission of it.
    ///
    /// # Errors
    /// As [`Auth::delete_user`]; 403 `exceeds_own_permissions`; 403 `needs_session`.
    pub async fn delete_user_for(&self, caller: &Caller, id: UserId, by: &Initiator) -> Result<()> {
        caller.require_session_for_own(id)?;
        match self.delete(id, Some(&caller.permissions), by).await {
            Ok(()) => Ok(()),
            Err(error) => self.refused(error, self.entry(by, "user.delete", id)).await,
        }
    }

    async fn delete(&self, id: UserId, permissions: Option<&PermissionSet>, by: &Initiator) -> Result<()> {
        let _forget = self.0.token_cache.invalidate_after(id);
        let entry = self.entry(by, "user.delete", id);
        if db::user::delete(&self.0.db, id, permissions, &entry).await? { Ok(()) } else { Err(not_found()) }
    }

    /// Changes the password of the caller and ends their other sessions.
    ///
    /// # Errors
    /// `incorrect_password`, then `same_password`, then `common_password`.
    pub async fn change_password(&self, caller: &Caller, current: &str, new: &str, by: &Initiator) -> Result<()> {
        for _ in 0..TRIES {
            if self.try_change_password(caller, current, new, by).await? {
                return Ok(());
            }
        }
        Err(incorrect_password())
    }

    /// Returns false if the hash changed during the check, perhaps because a concurrent login replaced an outdated one.
    async fn try_change_password(&self, caller: &Caller, current: &str, new: &str, by: &Initiator) -> Result<bool> {
        let id = caller.user()?.id;
        let row = db::user::find(&self.0.db, id).await?.ok_or_else(Error::invalid_token)?;
        let words = words_about(&row.email, row.full_name.as_deref());
        let old = row.password_hash;
        if self.0.passwords.verify(current, Some(&old)).await? == PasswordMatch::Wrong {
            let entry = self.entry(by, "password.change", id).denied();
            db::audit::insert(&self.0.db, &entry).await?;
            return Err(incorrect_password());
        }
        if is_same(current, new) {
            return Err(Error::bad_request(code::SAME_PASSWORD, "New password cannot be the same as the current one"));
        }
        let hash = self.0.passwords.hash_new(new, words).await?;
        let entry = self.entry(by, "password.change", id);
        let _forget = self.0.token_cache.invalidate_after(id);
        db::user::change_password(&self.0.db, id, &old, &hash, caller.session()?.id, &entry).await
    }
}

/// Returns an account as the audit log shows it.
pub(super) fn described(user: &NewUser) -> serde_json::Value {
    json!({ "email": user.email.as_str(), "full_name": user.full_name, "is_active": user.is_active,
        "is_superuser": user.is_superuser })
}

impl From<NewUser> for User {
    fn from(row: NewUser) -> Self {
        Self {
            id: row.id,
            email: row.email.to_string(),
            is_active: row.is_active,
            is_superuser: row.is_superuser,
            full_name: row.full_name,
            created_at: row.created_at,
        }
    }
}

fn incorrect_password() -> Error {
    Error::bad_request(code::INCORRECT_PASSWORD, "Incorrect password")
}

fn not_found() -> Error {
    Error::not_found(code::USER_NOT_FOUND, "User not found")
}
