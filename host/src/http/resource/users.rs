//! User accounts: the account of the caller, and all accounts for superusers.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pagination::default_limit;
use super::partial_update::Change;
use crate::address::{Address, AddressKey};
use crate::auth::throttle::Action;
use crate::auth::{AccountChange, AddressMail, NewAccount, SignedUp, User};
use crate::clock::Timestamp;
use crate::config::{Secret, SignUp};
use crate::email::{CredentialChange, Mail};
use crate::error::{Error, Result, code};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Message, Reply};
use crate::id::UserId;
use crate::permission::HostPermission;

const TAG: &str = "users";

/// Returns the routes of user accounts.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::get("/api/v1/users/", read_users)
            .permission(HostPermission::UsersRead)
            .named(TAG, "read_users", "Read Users")
            .described("Lists all accounts, newest first, or the one with the given address.")
            .query::<UsersQuery>()
            .replies::<UsersPublic>(),
        HostRoute::post("/api/v1/users/", create_user)
            .permission(HostPermission::UsersWrite)
            .named(TAG, "create_user", "Create User")
            .described("Creates an account and sends a link to set its password.")
            .json::<UserCreate>()
            .replies::<UserPublic>(),
        HostRoute::get("/api/v1/users/me", read_user_me)
            .named(TAG, "read_user_me", "Read User Me")
            .described("Returns the account of the caller.")
            .replies::<UserPublic>(),
        HostRoute::patch("/api/v1/users/me", update_user_me)
            .session()
            .named(TAG, "update_user_me", "Update User Me")
            .described(
                "Changes the account of the caller. Absent members keep their values. Another address requires a recent \
                 sign-in or step-up. If addresses must be verified, it replaces the old one when the link of a mail came \
                 back.",
            )
            .json::<UserUpdateMe>()
            .replies::<UserPublic>(),
        HostRoute::delete("/api/v1/users/me", delete_user_me)
            .session()
            .named(TAG, "delete_user_me", "Delete User Me")
            .described("Deletes the account of the caller.")
            .replies::<Message>(),
        HostRoute::patch("/api/v1/users/me/password", update_password_me)
            .session()
            .named(TAG, "update_password_me", "Update Password Me")
            .described("Changes the password of the caller and ends their other sessions.")
            .json::<UpdatePassword>()
            .replies::<Message>()
            .run_to_completion(),
        HostRoute::post("/api/v1/users/signup", register_user)
            .public()
            .named(TAG, "register_user", "Register User")
            .described(
                "Creates an account for the caller, if `auth.signup` is `open`. If addresses must be verified, the account \
                 can sign in after the link of a mail came back, and a taken address gets the same response.",
            )
            .json::<UserRegister>()
            .replies::<UserPublic>(),
        HostRoute::get("/api/v1/users/{user_id}", read_user_by_id)
            .named(TAG, "read_user_by_id", "Read User By Id")
            .described("Returns an account. Users may read their own account. Other accounts need the permission `users:read`.")
            .path::<UserId>("user_id")
            .replies::<UserPublic>(),
        HostRoute::patch("/api/v1/users/{user_id}", update_user)
            .permission(HostPermission::UsersWrite)
            .named(TAG, "update_user", "Update User")
            .described("Changes an account. Absent members keep their values. A new password ends its sessions.")
            .path::<UserId>("user_id")
            .json::<UserUpdate>()
            .replies::<UserPublic>()
            .run_to_completion(),
        HostRoute::delete("/api/v1/users/{user_id}", delete_user)
            .permission(HostPermission::UsersWrite)
            .named(TAG, "delete_user", "Delete User")
            .described("Deletes an account.")
            .path::<UserId>("user_id")
            .replies::<Message>(),
    ]
}

/// The query parameters of the list of accounts.
#[derive(Deserialize, JsonSchema)]
struct UsersQuery {
    #[serde(default)]
    #[schemars(range(min = 0))]
    skip: i64,
    #[serde(default = "default_limit")]
    #[schemars(range(min = 0, max = 1000))]
    limit: i64,
    /// Lists only the account with this address, written in any way.
    #[serde(default)]
    #[schemars(with = "String")]
    email: Option<String>,
}

/// An account as clients see it.
#[derive(Serialize, JsonSchema)]
pub(super) struct UserPublic {
    #[schemars(email)]
    email: String,
    is_active: bool,
    is_superuser: bool,
    full_name: Option<String>,
    id: UserId,
    created_at: Timestamp,
}

impl From<User> for UserPublic {
    fn from(user: User) -> Self {
        Self {
            email: user.email,
            is_active: user.is_active,
            is_superuser: user.is_superuser,
            full_name: user.full_name,
            id: user.id,
            created_at: user.created_at,
        }
    }
}

/// A page of accounts.
#[derive(Serialize, JsonSchema)]
struct UsersPublic {
    data: Vec<UserPublic>,
    /// The number of accounts before pagination.
    count: i64,
}

#[derive(Deserialize, JsonSchema)]
struct UserCreate {
    email: Address,
    #[serde(default = "yes")]
    is_active: bool,
    #[serde(default)]
    is_superuser: bool,
    #[serde(default)]
    #[schemars(length(max = 255))]
    full_name: Option<String>,
    #[schemars(length(min = 8, max = 128))]
    password: String,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize, JsonSchema)]
struct UserRegister {
    email: Address,
    #[schemars(length(min = 8, max = 128))]
    password: String,
    #[serde(default)]
    #[schemars(length(max = 255))]
    full_name: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct UserUpdateMe {
    #[serde(default)]
    #[schemars(length(max = 255))]
    full_name: Change<Option<String>>,
    #[serde(default)]
    email: Change<Address>,
}

#[derive(Deserialize, JsonSchema)]
struct UserUpdate {
    #[serde(default)]
    email: Change<Address>,
    #[serde(default)]
    is_active: Change<bool>,
    #[serde(default)]
    is_superuser: Change<bool>,
    #[serde(default)]
    #[schemars(length(max = 255))]
    full_name: Change<Option<String>>,
    #[serde(default)]
    #[schemars(length(min = 8, max = 128))]
    password: Change<String>,
}

#[derive(Deserialize, JsonSchema)]
struct UpdatePassword {
    #[schemars(length(min = 8, max = 128))]
    current_password: String,
    #[schemars(length(min = 8, max = 128))]
    new_password: String,
}

/// Converts `email_taken` to 400 with the given text, as the FastAPI full-stack template does on some routes.
fn taken_as(text: &'static str) -> impl FnOnce(Error) -> Error {
    move |error| if *error.code() == code::EMAIL_TAKEN { Error::bad_request(code::EMAIL_TAKEN, text) } else { error }
}

fn self_deletion() -> Error {
    Error::forbidden(code::SUPERUSER_SELF_DELETION, "Super users are not allowed to delete themselves")
}

fn one(user: User) -> Result<Reply> {
    Reply::json(&UserPublic::from(user))
}

async fn read_users(host: Arc<Host>, call: Call) -> Result<Reply> {
    let query: UsersQuery = call.query()?;
    let (users, count) = match &query.email {
        None => host.auth.users(query.skip, query.limit).await?,
        Some(email) => {
            let found: Vec<User> = host.auth.user_by_email(email).await?.into_iter().collect();
            let count = i64::try_from(found.len()).unwrap_or(i64::MAX);
            let [skip, limit] = [query.skip, query.limit].map(|number| usize::try_from(number).unwrap_or(usize::MAX));
            (found.into_iter().skip(skip).take(limit).collect(), count)
        }
    };
    Reply::json(&UsersPublic { data: users.into_iter().map(UserPublic::from).collect(), count })
}

async fn create_user(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let body: UserCreate = call.json()?;
    let account = NewAccount {
        email: body.email,
        password: Secret::new(body.password),
        full_name: body.full_name,
        is_active: body.is_active,
        is_superuser: body.is_superuser,
    };
    let taken = "The user with this email already exists in the system.";
    let (caller, by) = (call.caller()?, call.initiator());
    let mail = |user| host.mail.for_new_account(user);
    let user = host.auth.create_user_for(caller, account, &by, mail).await.map_err(taken_as(taken))?;
    host.mail.wake();
    one(user)
}

async fn read_user_me(_: Arc<Host>, call: Call) -> Result<Reply> {
    one(call.caller()?.user()?.clone())
}

async fn update_user_me(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let body: UserUpdateMe = call.json()?;
    let change = AccountChange {
        email: body.email.into_option(),
        full_name: body.full_name.into_option(),
        ..AccountChange::default()
    };
    let (caller, by) = (call.caller()?, call.initiator());
    if let Some(email) = &change.email {
        let user = caller.user()?;
        // Other letters of the same address are no change, and send no mail.
        if AddressKey::of(&user.email) != Some(email.key()) {
            host.auth.throttle().check_user(Action::AddressChange, user.id, call.address)?;
        }
    }
    let user = host.auth.update_own(caller, change, &by, |mail| host.mail.for_address(mail)).await?;
    host.mail.wake();
    one(user)
}

async fn delete_user_me(host: Arc<Host>, call: Call) -> Result<Reply> {
    let user = call.caller()?.user()?;
    if user.is_superuser {
        return Err(self_deletion());
    }
    host.auth.require_step_up(call.caller()?)?;
    host.auth.delete_user(user.id, &call.initiator()).await?;
    Reply::message("User deleted successfully")
}

async fn update_password_me(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let body: UpdatePassword = call.json()?;
    let (caller, by) = (call.caller()?, call.initiator());
    let account = AddressKey::of(&caller.user()?.email);
    let attempt = host.auth.throttle().begin(Action::PasswordCheck, account.as_ref(), call.address)?;
    let changed = host.auth.change_password(caller, &body.current_password, &body.new_password, &by).await;
    attempt.settle(&changed, &code::INCORRECT_PASSWORD);
    changed?;
    host.mail.announce(caller.user()?.id, CredentialChange::PasswordSet).await;
    Reply::message("Password updated successfully")
}

async fn register_user(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    match host.config.auth.signup {
        SignUp::Open => {}
        // A 403 would make the frontend of the template sign out instead of showing the text.
        SignUp::Invite => return Err(Error::bad_request(code::SIGNUP_CLOSED, "Sign-up needs an invitation")),
        SignUp::Off => return Err(Error::bad_request(code::SIGNUP_CLOSED, "Sign-up is closed")),
    }
    let body: UserRegister = call.json()?;
    let email = body.email.to_string();
    host.auth.throttle().check(Action::SignUp, Some(&body.email.key()), call.address)?;
    let account = NewAccount {
        email: body.email,
        password: Secret::new(body.password),
        full_name: body.full_name,
        is_active: true,
        is_superuser: false,
    };
    let taken = "The user with this email already exists in the system";
    let mail = || host.mail.for_change(&Mail::verification(&email));
    let user = match host.auth.sign_up(account, &call.initiator(), mail).await.map_err(taken_as(taken))? {
        SignedUp::Created(user) => user,
        SignedUp::Taken(user) => {
            host.mail.enqueue(&Mail::AccountExists { email: user.email.clone() }).await?;
            user
        }
    };
    host.mail.wake();
    one(user)
}

async fn read_user_by_id(host: Arc<Host>, call: Call) -> Result<Reply> {
    let id: UserId = call.path("user_id")?;
    let caller = call.caller()?;
    if let Some(user) = caller.user.as_ref().filter(|user| user.id == id) {
        return one(user.clone());
    }
    // Checked before the look-up, so that a caller cannot find out which ids exist.
    caller.require(HostPermission::UsersRead)?;
    one(host.auth.user(id).await?)
}

async fn update_user(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let body: UserUpdate = call.json()?;
    let change = AccountChange {
        email: body.email.into_option(),
        password: body.password.into_option().map(Secret::new),
        full_name: body.full_name.into_option(),
        is_active: body.is_active.into_option(),
        is_superuser: body.is_superuser.into_option(),
        ends_other_access: false,
    };
    let unknown = |error: Error| {
        if *error.code() == code::USER_NOT_FOUND {
            Error::not_found(code::USER_NOT_FOUND, "The user with this id does not exist in the system")
        } else {
            error
        }
    };
    let (id, caller): (UserId, _) = (call.path("user_id")?, call.caller()?);
    if change.password.is_some() || change.email.is_some() || change.is_superuser.is_some() {
        host.auth.require_step_up(caller)?;
    }
    let by = call.initiator();
    let sets_password = change.password.is_some();
    let mail = |mail: AddressMail<'_>| host.mail.for_address(mail);
    let user = host.auth.update_user_for(caller, id, change, &by, mail).await.map_err(unknown)?;
    host.mail.wake();
    if sets_password {
        host.mail.announce(id, CredentialChange::PasswordSet).await;
    }
    one(user)
}

async fn delete_user(host: Arc<Host>, call: Call) -> Result<Reply> {
    let id: UserId = call.path("user_id")?;
    let caller = call.caller()?;
    if caller.user_id() == Some(id) {
        return Err(self_deletion());
    }
    host.auth.require_step_up(caller)?;
    host.auth.delete_user_for(caller, id, &call.initiator()).await?;
    Reply::message("User deleted successfully")
}
