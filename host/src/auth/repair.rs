//! Repairs of accounts by the operator of the machine, who has lost every other way in. Never reached by a request:
//! only `wharf admin` calls it, while no host runs.

use super::{AccountChange, Auth, NewAccount, User};
use crate::address::{Address, InvalidAddress};
use crate::config::Secret;
use crate::db;
use crate::error::{Error, Result, code};
use crate::initiator::Initiator;

/// A superuser after a repair.
#[derive(Debug)]
pub struct RepairedSuperuser {
    /// The account.
    pub user: User,
    /// The change.
    pub repair: SuperuserRepair,
    /// The generated password, to be shown once.
    pub generated: Option<Secret>,
}

/// The way in which an account became an active superuser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuperuserRepair {
    /// It was created.
    Created,
    /// It existed and was no superuser, or its owner had not accepted the invitation yet. It got a new password, and
    /// everything else that opened it ended.
    Promoted,
    /// It was a superuser already, and keeps everything, except for a password that was given.
    Kept,
}

impl Auth {
    /// Sets a password of an account, or a generated one, which is returned. Ends all its sessions.
    ///
    /// # Errors
    /// `user_not_found`.
    pub async fn repair_password(
        &self,
        email: &str,
        password: Option<Secret>,
        by: &Initiator,
    ) -> Result<(User, Option<Secret>)> {
        let user = self.user_to_repair(email).await?;
        let (password, generated) = self.given_or_generated(password)?;
        let change = AccountChange { password: Some(password), ..AccountChange::default() };
        Ok((self.update_user(user.id, change, by).await?, generated))
    }

    /// Creates a superuser, or makes an account that exists an active superuser. The password of a superuser changes
    /// only if one is given. Another account always gets a given or a generated password, and its sessions, API keys,
    /// passkeys, linked identities and reset links end: a stranger may have registered it.
    ///
    /// # Errors
    /// The address is not valid.
    pub async fn repair_superuser(
        &self,
        email: &str,
        password: Option<Secret>,
        by: &Initiator,
    ) -> Result<RepairedSuperuser> {
        if let Some(user) = self.user_by_email(email).await? {
            let row = db::user::find(&self.0.db, user.id).await?;
            let is_invited = row.is_some_and(|row| row.invited_at.is_some());
            let (repair, password, generated) = if user.is_superuser && !is_invited {
                (SuperuserRepair::Kept, password, None)
            } else {
                let (password, generated) = self.given_or_generated(password)?;
                (SuperuserRepair::Promoted, Some(password), generated)
            };
            let ends_other_access = repair == SuperuserRepair::Promoted;
            let (is_active, is_superuser) = (Some(true), Some(true));
            let change =
                AccountChange { password, is_active, is_superuser, ends_other_access, ..AccountChange::default() };
            let user = self.update_user(user.id, change, by).await?;
            return Ok(RepairedSuperuser { user, repair, generated });
        }
        let email: Address = email
            .parse()
            .map_err(|error: InvalidAddress| Error::internal("the text is not an email address").with_source(error))?;
        let (password, generated) = self.given_or_generated(password)?;
        let account = NewAccount { email, password, full_name: None, is_active: true, is_superuser: true };
        let user = self.create_user(account, by).await?;
        Ok(RepairedSuperuser { user, repair: SuperuserRepair::Created, generated })
    }

    /// Removes all second factors of an account, and ends all its sessions.
    ///
    /// # Errors
    /// `user_not_found`; `factor_not_found`.
    pub async fn repair_factors(&self, email: &str, by: &Initiator) -> Result<User> {
        let user = self.user_to_repair(email).await?;
        self.remove_factors(user.id, by).await?;
        Ok(user)
    }

    async fn user_to_repair(&self, email: &str) -> Result<User> {
        let user = self.user_by_email(email).await?;
        user.ok_or_else(|| Error::not_found(code::USER_NOT_FOUND, "No account has this email address"))
    }

    fn given_or_generated(&self, password: Option<Secret>) -> Result<(Secret, Option<Secret>)> {
        Ok(match password {
            Some(password) => (password, None),
            None => {
                let password = self.generate_password()?;
                (password.clone(), Some(password))
            }
        })
    }
}
