//! Invitations. An invited person gets an account without a password, and a link to set one. So an invitation has no rules
//! of its own for addresses, roles and deletion: until it is accepted, it is an account that nobody can sign in to.

use serde_json::json;

use super::account::described;
use super::password_hashing::NO_PASSWORD;
use super::role_change::check_gives;
use super::{Auth, Caller, User};
use crate::address::Address;
use crate::config::{Secret, SignUp};
use crate::db;
use crate::db::audit::Entry;
use crate::db::email::NewMail;
use crate::db::role::SUPERUSER;
use crate::db::user::NewUser;
use crate::error::{Error, FieldError, Loc, Result, code};
use crate::id::{RoleName, UserId};
use crate::initiator::Initiator;

/// A person to be invited.
#[derive(Debug, Clone)]
pub struct Invitation {
    /// The address.
    pub email: Address,
    /// The display name.
    pub full_name: Option<String>,
    /// The roles that the account gets in addition to the default ones.
    pub roles: Vec<RoleName>,
}

impl Auth {
    /// Invites a person: creates an account without a password and queues the mail that `mail` returns for it, both or
    /// none. A person who was invited before and has not accepted yet gets another mail; their account stays as it is.
    ///
    /// # Errors
    /// 403 `exceeds_own_permissions`: a role has permissions that the caller does not have; `step_up_required`;
    /// conflicts `email_taken` and `signup_closed`; 422 for an unknown role; `mail_queue_full`.
    pub async fn invite(
        &self,
        caller: &Caller,
        invitation: Invitation,
        by: &Initiator,
        mail: impl FnOnce(UserId) -> Result<NewMail>,
    ) -> Result<User> {
        let db = &self.0.db;
        if self.0.settings.signup == SignUp::Off {
            let text = "This host takes no invitations; an operator creates accounts";
            return Err(Error::conflict(code::SIGNUP_CLOSED, text));
        }
        let now = self.0.clock.now();
        if let Err(error) = self.check_roles(caller, &invitation.roles).await {
            let names: Vec<&str> = invitation.roles.iter().map(RoleName::as_str).collect();
            let detail = json!({ "email": invitation.email.as_str(), "roles": names });
            return self.refused(error, Entry::of(by, now, "invitation.create", "users").with_detail(detail)).await;
        }
        if !invitation.roles.is_empty() {
            self.require_step_up(caller)?;
        }
        if let Some(row) = db::user::find_by_key(db, &invitation.email.key()).await? {
            if row.invited_at.is_none() {
                return Err(Error::conflict(code::EMAIL_TAKEN, "User with this email already exists"));
            }
            let entry = self.entry(by, "invitation.create", row.id).with_detail(json!({ "again": true }));
            db::invitation::repeat(db, &mail(row.id)?, &entry).await?;
            return Ok(row.into());
        }
        let (superuser, roles): (Vec<_>, Vec<_>) =
            invitation.roles.into_iter().partition(|role| role.as_str() == SUPERUSER);
        let row = NewUser {
            id: UserId(self.0.random.uuid()?),
            email: invitation.email,
            is_active: true,
            is_superuser: !superuser.is_empty(),
            full_name: invitation.full_name,
            password_hash: NO_PASSWORD.to_owned(),
            created_at: now,
            email_verified_at: None,
            invited_at: Some(now),
        };
        let mail = mail(row.id)?;
        let names: Vec<&str> = roles.iter().map(RoleName::as_str).collect();
        let entry = self
            .entry(by, "invitation.create", row.id)
            .with_change(None, Some(described(&row)))
            .with_detail(json!({ "roles": names }));
        let check = |role: &RoleName, stored: &[String]| check_gives(caller, role, stored);
        let inserted = db::invitation::insert(db, &row, &roles, check, &mail, &entry).await;
        match inserted {
            Ok(()) => Ok(row.into()),
            Err(error) => self.refused(error, entry).await,
        }
    }

    /// Checks that these roles exist, and that the caller holds everything that they give.
    async fn check_roles(&self, caller: &Caller, roles: &[RoleName]) -> Result<()> {
        let mut held = Ok(());
        let mut unknown = Vec::new();
        for (index, role) in (0_u64..).zip(roles) {
            match db::invitation::permissions(&self.0.db, role).await? {
                Some(stored) => held = held.and(check_gives(caller, role, &stored)),
                None => {
                    let at = [Loc::from("body"), Loc::from("roles"), Loc::from(index)];
                    unknown.push(FieldError::new("value_error", at, "There is no such role"));
                }
            }
        }
        if unknown.is_empty() { held } else { Err(Error::invalid(unknown)) }
    }

    /// Issues the token of an invitation. Returns `None` if the account does not exist, or its owner has accepted.
    ///
    /// # Errors
    /// The database fails.
    pub async fn issue_invitation_token(&self, user: UserId) -> Result<Option<Secret>> {
        match db::user::find(&self.0.db, user).await?.filter(|row| row.invited_at.is_some()) {
            Some(row) => self.issue_password_token(row.id, self.0.settings.invitation_ttl).await.map(Some),
            None => Ok(None),
        }
    }
}
