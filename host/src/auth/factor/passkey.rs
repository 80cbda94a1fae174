//! Passkeys (WebAuthn). The crate `webauthn_rp` owns the checks of the standard; this module owns the place of their
//! states: a request waits in the database and is taken once, whatever its outcome.
//!
//! Each passkey is discoverable and verifies its user (PIN, finger, face), so it is two factors at once. It can begin a
//! session alone, continue a sign-in, or step up. The user handle is the id of the account, which is no secret.

use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use webauthn_rp::bin::{Decode as _, Encode as _};
use webauthn_rp::request::auth::AuthenticationVerificationOptions;
use webauthn_rp::request::register::{
    CredProtect, Nickname, PublicKeyCredentialUserEntity, RegistrationVerificationOptions, UserHandle16, Username,
};
use webauthn_rp::request::{PublicKeyCredentialDescriptor, TimedCeremony as _};
use webauthn_rp::response::register::{CompressedPubKey, DynamicState, StaticState};
use webauthn_rp::response::{AuthTransports, CredentialId, SentChallenge};
use webauthn_rp::{
    AuthenticatedCredential, DiscoverableAuthentication16, DiscoverableAuthenticationServerState,
    DiscoverableCredentialRequestOptions, PublicKeyCredentialCreationOptions, Registration, RegistrationServerState,
};

use super::relying_party::RelyingParty;
use super::{Method, recovery_code};
use crate::auth::Auth;
use crate::auth::caller::{Caller, Strength};
use crate::auth::client::Client;
use crate::auth::password_hashing::NO_PASSWORD;
use crate::auth::session::IssuedTokens;
use crate::clock::Timestamp;
use crate::config::Secret;
use crate::db;
use crate::db::audit;
use crate::db::passkey::{self, Added, NewPasskey, NewRequest, PasskeyRow, Removed};
use crate::error::{Error, Result, code};
use crate::id::{PasskeyId, UserId};
use crate::initiator::Initiator;

type StoredKey = StaticState<CompressedPubKey<[u8; 32], [u8; 32], [u8; 48], Vec<u8>>>;

/// How long a request waits for the browser: the timeout that the library tells the browser.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// The maximum number of characters of a name.
const NAME_CHARS: usize = 100;

impl Auth {
    /// Begins to add a passkey: returns the options for `navigator.credentials.create`.
    ///
    /// # Errors
    /// `step_up_required`; `needs_session`.
    pub async fn begin_passkey(&self, caller: &Caller, party: &RelyingParty) -> Result<Value> {
        let user = caller.user()?;
        self.require_recent_proof(caller.session()?)?;
        let existing = passkey::list(&self.0.db, user.id).await?;
        let exclude = existing.into_iter().filter_map(|row| {
            Some(PublicKeyCredentialDescriptor {
                id: CredentialId::<Vec<u8>>::decode(row.credential_id).ok()?,
                transports: AuthTransports::decode(0).ok()?,
            })
        });
        let handle = handle(user.id);
        let id = user.id.to_string();
        let entity = PublicKeyCredentialUserEntity {
            // An address can have characters that the standard allows in no name.
            name: Username::try_from(user.email.as_str())
                .or_else(|_| Username::try_from(id.as_str()))
                .map_err(defect)?,
            id: &handle,
            display_name: user.full_name.as_deref().and_then(|name| Nickname::try_from(name).ok()),
        };
        let mut options = PublicKeyCredentialCreationOptions::passkey(&party.id, entity, exclude.collect());
        // The user is verified at each use anyway, and not all authenticators have this extension.
        options.extensions.cred_protect = CredProtect::None;
        let (server, browser) = options.start_ceremony().map_err(defect)?;
        let state = server.encode().map_err(defect)?;
        self.store_request(server.sent_challenge(), Some(user.id), &state).await?;
        serde_json::to_value(&browser).map_err(defect)
    }

    /// Adds the passkey that a browser created. Returns its id and the new recovery codes, or none if the account keeps
    /// those that it has.
    ///
    /// # Errors
    /// `invalid_passkey`: the response does not fit a request of the caller; `factor_exists`; `step_up_required`;
    /// `needs_session`.
    pub async fn add_passkey(
        &self,
        caller: &Caller,
        party: &RelyingParty,
        name: &str,
        response: &Value,
        by: &Initiator,
    ) -> Result<(PasskeyId, Vec<Secret>)> {
        let (user, session) = (caller.user()?.id, caller.session()?);
        self.require_recent_proof(session)?;
        let now = self.0.clock.now();
        let registration = Registration::from_json_relaxed(response.to_string().as_bytes()).map_err(refused)?;
        let challenge = registration.challenge_relaxed().map_err(refused)?;
        let state = passkey::take_request(&self.0.db, &hash(challenge), Some(user), now).await?.ok_or_else(invalid)?;
        let server = RegistrationServerState::<16>::decode(state.as_slice()).map_err(defect)?;
        let origins: Vec<&str> = party.origins.iter().map(String::as_str).collect();
        let options = RegistrationVerificationOptions::<&str, &str> {
            allowed_origins: &origins,
            client_data_json_relaxed: true,
            error_on_unsolicited_extensions: false,
            ..RegistrationVerificationOptions::default()
        };
        let credential = server.verify(&party.id, &registration, &options).map_err(refused)?;
        let id = PasskeyId(self.0.random.uuid()?);
        let codes = recovery_code::generate(&self.0.random)?;
        let entry = self.entry(by, "factor.enrol", user);
        let entry = entry.with_detail(json!({ "factor": "passkey", "passkey": id.to_string() }));
        let name: String = name.chars().filter(|c| !c.is_control()).take(NAME_CHARS).collect();
        let credential_id = credential.id();
        let new = NewPasskey {
            id,
            user,
            credential_id: credential_id.as_ref(),
            name: &name,
            static_state: &credential.static_state().encode().map_err(defect)?,
            dynamic_state: &credential.dynamic_state().encode().map_err(defect)?,
            at: now,
            session: session.id,
            codes: &recovery_code::hashes(&codes),
            entry: &entry,
        };
        let _forget = self.0.token_cache.invalidate_after(user);
        match passkey::insert(&self.0.db, &new).await? {
            Added::Yes(stored) => Ok((id, if stored { codes } else { Vec::new() })),
            Added::Exists => Err(Error::conflict(code::FACTOR_EXISTS, "The passkey exists already")),
            Added::TooMany => Err(Error::conflict(code::FACTOR_EXISTS, "The account has too many passkeys")),
        }
    }

    /// Removes a passkey of the caller. With the last factor, the recovery codes go too.
    ///
    /// # Errors
    /// `factor_not_found`; `step_up_required`; `needs_session`; a conflict `last_sign_in_method`.
    pub async fn remove_passkey(&self, caller: &Caller, id: PasskeyId, by: &Initiator) -> Result<()> {
        let user = caller.user()?.id;
        self.require_recent_proof(caller.session()?)?;
        let entry = self.entry(by, "factor.remove", user);
        let entry = entry.with_detail(json!({ "factor": "passkey", "passkey": id.to_string() }));
        let _forget = self.0.token_cache.invalidate_after(user);
        match passkey::delete(&self.0.db, user, id, NO_PASSWORD, &entry).await? {
            Removed::Yes => Ok(()),
            Removed::Unknown => Err(Error::not_found(code::FACTOR_NOT_FOUND, "The account has no such factor")),
            Removed::Last => {
                let text = "You could not sign in any more; set a password by a recovery mail first";
                Err(Error::conflict(code::LAST_SIGN_IN_METHOD, text))
            }
        }
    }

    /// Begins the use of a passkey: returns the options for `navigator.credentials.get`. They name no account, so they tell
    /// nobody which accounts have passkeys.
    ///
    /// # Errors
    /// The database fails.
    pub async fn begin_passkey_use(&self, party: &RelyingParty) -> Result<Value> {
        let options = DiscoverableCredentialRequestOptions::passkey(&party.id);
        let (server, browser) = options.start_ceremony().map_err(defect)?;
        let state = server.encode().map_err(defect)?;
        self.store_request(server.sent_challenge(), None, &state).await?;
        serde_json::to_value(&browser).map_err(defect)
    }

    /// Signs in with a passkey alone.
    ///
    /// # Errors
    /// `invalid_passkey`; `inactive_user`.
    pub async fn sign_in_by_passkey(
        &self,
        party: &RelyingParty,
        response: &Value,
        client: &Client,
    ) -> Result<IssuedTokens> {
        let (id, verified) = self.check_passkey(party, response).await?;
        let begun = match verified {
            Ok(()) => self.begin_passkey_session(id, client).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &begun
            && [code::INVALID_PASSKEY, code::INACTIVE_USER].contains(error.code())
        {
            let detail = json!({ "factor": Method::Passkey.as_str(), "reason": error.code().as_str() });
            let entry = self.entry(&client.initiator(), "session.refuse", id).denied().with_detail(detail);
            audit::insert(&self.0.db, &entry).await?;
        }
        begun
    }

    async fn begin_passkey_session(&self, id: UserId, client: &Client) -> Result<IssuedTokens> {
        let user = db::user::find(&self.0.db, id).await?.ok_or_else(invalid)?;
        if !user.is_active {
            return Err(Error::bad_request(code::INACTIVE_USER, "Inactive user"));
        }
        if self.0.settings.verify_email && user.email_verified_at.is_none() {
            return Err(invalid());
        }
        self.begin_session(&user, client, Strength::Multi).await?.ok_or_else(invalid)
    }

    /// Returns the account of the passkey that a response names, and whether this passkey signed the request. The
    /// request is used up, whatever the outcome.
    ///
    /// # Errors
    /// `invalid_passkey`: the response fits no request or names no passkey.
    pub(super) async fn check_passkey(&self, party: &RelyingParty, response: &Value) -> Result<(UserId, Result<()>)> {
        let now = self.0.clock.now();
        let response = response.to_string();
        let assertion = DiscoverableAuthentication16::from_json_relaxed(response.as_bytes()).map_err(refused)?;
        let challenge = assertion.challenge_relaxed().map_err(refused)?;
        let state = passkey::take_request(&self.0.db, &hash(challenge), None, now).await?.ok_or_else(invalid)?;
        let server = DiscoverableAuthenticationServerState::decode(state.as_slice()).map_err(defect)?;
        let row = passkey::find(&self.0.db, assertion.raw_id().as_ref()).await?.ok_or_else(invalid)?;
        let verified = self.verify_response(party, &assertion, server, &row, now).await;
        Ok((row.user_id, verified))
    }

    async fn verify_response(
        &self,
        party: &RelyingParty,
        assertion: &DiscoverableAuthentication16,
        server: DiscoverableAuthenticationServerState,
        row: &PasskeyRow,
        now: Timestamp,
    ) -> Result<()> {
        let handle = handle(row.user_id);
        if assertion.response().user_handle() != &handle {
            return Err(invalid());
        }
        let key = StoredKey::decode(row.static_state.as_slice()).map_err(defect)?;
        let dynamic = row.dynamic_state.as_slice().try_into().map_err(defect)?;
        let dynamic = DynamicState::decode(dynamic).map_err(defect)?;
        let mut credential = AuthenticatedCredential::new(assertion.raw_id(), &handle, key, dynamic).map_err(defect)?;
        let origins: Vec<&str> = party.origins.iter().map(String::as_str).collect();
        let options = AuthenticationVerificationOptions::<&str, &str> {
            allowed_origins: &origins,
            client_data_json_relaxed: true,
            error_on_unsolicited_extensions: false,
            ..AuthenticationVerificationOptions::default()
        };
        server.verify(&party.id, assertion, &mut credential, &options).map_err(refused)?;
        let dynamic = credential.dynamic_state().encode().map_err(defect)?;
        if passkey::use_once(&self.0.db, row, &dynamic, now).await? { Ok(()) } else { Err(invalid()) }
    }

    async fn store_request(&self, challenge: SentChallenge, user: Option<UserId>, state: &[u8]) -> Result<()> {
        let now = self.0.clock.now();
        let request = NewRequest { challenge_hash: &hash(challenge), user, state, expires_at: now.plus(PATIENCE) };
        passkey::insert_request(&self.0.db, &request, now).await
    }
}

fn hash(challenge: SentChallenge) -> [u8; 32] {
    Sha256::digest(challenge.0.to_be_bytes()).into()
}

fn handle(user: UserId) -> UserHandle16 {
    let Ok(handle) = UserHandle16::decode(*user.0.as_bytes());
    handle
}

fn invalid() -> Error {
    Error::bad_request(code::INVALID_PASSKEY, "The passkey was not accepted")
}

/// The response of the browser does not fit. Only the log contains the reason.
fn refused(error: impl std::fmt::Display) -> Error {
    invalid().with_internal(error)
}

fn defect(error: impl std::fmt::Display) -> Error {
    Error::internal(format!("passkeys: {error}"))
}
