//! The first superuser, created at the first start.

use super::password_hashing::{MAX_CHARS, MIN_CHARS};
use super::{Auth, NewAccount};
use crate::address::{Address, InvalidAddress};
use crate::config::{self, Secret};
use crate::db;
use crate::error::{Error, Result};
use crate::initiator::Initiator;

const DEFAULT_EMAIL: &str = "admin@example.com";

/// 32 letters and digits that are hard to confuse (Crockford's base 32). Each encodes five bits.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The superuser that was just created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSuperuser {
    /// The address for signing in.
    pub email: String,
    /// The generated password, to be shown once. `None` means that the configured password is set.
    pub generated_password: Option<Secret>,
}

impl Auth {
    /// Creates the first superuser if there is none. Never changes an account: if the address belongs to an ordinary
    /// account, it logs a warning and creates none. Several nodes may start at the same time.
    ///
    /// # Errors
    /// The configured address or password is not valid.
    pub async fn ensure_superuser(&self, settings: &config::Auth) -> Result<Option<NewSuperuser>> {
        let email = settings.superuser_email.as_deref().unwrap_or(DEFAULT_EMAIL);
        let email: Address = email.parse().map_err(|error: InvalidAddress| {
            Error::internal("auth.superuser_email is not an email address").with_source(error)
        })?;
        if let Some(password) = &settings.superuser_password {
            let chars = password.expose().chars().count();
            if !(MIN_CHARS as usize..=MAX_CHARS as usize).contains(&chars) {
                let range = format!("auth.superuser_password must have {MIN_CHARS} to {MAX_CHARS} characters");
                return Err(Error::internal(range));
            }
        }
        if db::user::has_superuser(&self.0.db).await? {
            if settings.superuser_password.is_some() {
                tracing::info!(
                    %email,
                    "auth.superuser_password (WHARF_SUPERUSER_PASSWORD) is ignored, because a superuser exists; \
                     `wharf admin reset-password EMAIL` sets a new password while the host is stopped"
                );
            }
            return Ok(None);
        }
        let (password, generated_password) = match &settings.superuser_password {
            Some(password) => (password.clone(), None),
            None => {
                let password = self.generate_password()?;
                (password.clone(), Some(password))
            }
        };
        let account = NewAccount { email, password, full_name: None, is_active: true, is_superuser: true };
        let row = self.new_row(account).await?;
        let entry = self.entry(&Initiator::host(), "user.create", row.id);
        if db::user::insert_first_superuser(&self.0.db, &row, &entry).await? {
            return Ok(Some(NewSuperuser { email: row.email.to_string(), generated_password }));
        }
        if !db::user::has_superuser(&self.0.db).await? {
            let text = "there is no superuser, and auth.superuser_email belongs to an ordinary account";
            tracing::warn!(email = %row.email, "{text}");
        }
        Ok(None)
    }

    /// Generates 160 random bits as four groups of eight characters.
    pub(super) fn generate_password(&self) -> Result<Secret> {
        let bytes: [u8; 32] = self.0.random.bytes()?;
        let mut text = String::with_capacity(35);
        for (index, byte) in bytes.iter().enumerate() {
            if index > 0 && index % 8 == 0 {
                text.push('-');
            }
            text.extend(ALPHABET.get(usize::from(byte % 32)).map(|letter| char::from(*letter)));
        }
        Ok(Secret::new(text))
    }
}
