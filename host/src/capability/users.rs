//! `wharf:users`: look-ups in the directory of accounts. A plugin sees id, name, address, whether the account is active and
//! whether it may do everything, and nothing else. Each function reads at most [`MAX_USERS`] accounts, so that a plugin
//! reads a large directory in pages, and each page counts as a host call.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::Semaphore;
use uuid::Uuid;
use wasmtime::component::{HasSelf, Linker};

use super::{Boot, CallContext, Candidate, Capability, Dependency, Guest, HostCalls, NoParameters};
use crate::address::AddressKey;
use crate::db::Db;
use crate::db::directory::{self as table, DirectoryUser};
use crate::error::Result;
use crate::id::UserId;

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    wasmtime::component::bindgen!({
        inline: "package wharf:host-users; world imports { import wharf:users/directory@0.1.0; }",
        path: "../wit",
        imports: { default: async | trappable },
    });
}
use bindings::wharf::users::directory;

/// The most accounts of one result, and the most ids of one question.
const MAX_USERS: usize = 100;
/// The longest address to look up, in bytes. No account has a longer one.
const MAX_EMAIL: usize = 1024;
/// Look-ups of all plugins that run concurrently. Few, so that the host's requests find database connections.
const READERS: usize = 2;

/// The capability.
pub struct Users(Directory);

/// The directory. Cheap to clone.
#[derive(Clone)]
pub struct Directory {
    db: Db,
    readers: Arc<Semaphore>,
}

impl Capability for Users {
    const NAME: &'static str = "users";
    const MEANING: &'static str =
        "may read the name and the email address of every account, and see which are superusers";
    const INTERFACES: &'static [&'static str] = &["wharf:users/directory@0.1.0"];
    type Grant = NoParameters;
    type Release = Directory;
    type Call = Directory;

    async fn open(boot: &Boot) -> Result<Self> {
        Ok(Self(Directory { db: boot.db.clone(), readers: Arc::new(Semaphore::new(READERS)) }))
    }

    fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        directory::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
    }

    async fn admit(&self, _: &Candidate<'_>, _: NoParameters) -> Result<Directory> {
        Ok(self.0.clone())
    }

    fn enter(release: &Directory, _: &Arc<CallContext>) -> Directory {
        release.clone()
    }
}

type UsersResult<T> = wasmtime::Result<Result<T, directory::Error>>;

impl Guest {
    /// Counts a call and returns the directory. After a revocation it cannot be reached.
    fn directory(&mut self) -> UsersResult<Directory> {
        self.charge(HostCalls::users)?;
        Ok(self.entered.users()?.cloned().map_err(|_revoked| directory::Error::Unavailable))
    }

    /// Waits for a look-up, and counts its result against the guest's memory.
    async fn look_up(
        &mut self,
        directory: &Directory,
        look_up: impl Future<Output = Result<Vec<DirectoryUser>>>,
    ) -> UsersResult<Vec<directory::User>> {
        let wait = self.dependencies.wait_for(Dependency::Users);
        let _reader = directory.readers.acquire().await;
        let found = look_up.await;
        wait.over();
        let users = match found {
            Ok(users) => users,
            Err(error) => {
                tracing::warn!(plugin = %self.context.plugin, error = error.report(), "a look-up of accounts failed");
                self.dependencies.record_failure(Dependency::Users);
                return Ok(Err(directory::Error::Unavailable));
            }
        };
        let text =
            |user: &DirectoryUser| user.email.len().saturating_add(user.full_name.as_ref().map_or(0, String::len));
        let bytes = users.iter().map(|user| text(user).saturating_add(size_of::<directory::User>() + 36));
        self.hold_result(self.reserve(bytes.fold(0, usize::saturating_add))?);
        let shown = users.into_iter().map(|user| directory::User {
            id: user.id.to_string(),
            name: user.full_name,
            email: user.email,
            active: user.is_active,
            superuser: user.is_superuser,
        });
        Ok(Ok(shown.collect()))
    }
}

fn invalid<T>(text: impl Into<String>) -> UsersResult<T> {
    Ok(Err(directory::Error::Invalid(text.into())))
}

fn parse_id(text: &str) -> Option<UserId> {
    text.parse::<Uuid>().ok().map(UserId)
}

impl directory::Host for Guest {
    async fn find(&mut self, ids: Vec<String>) -> UsersResult<Vec<directory::User>> {
        let directory = match self.directory()? {
            Ok(directory) => directory,
            Err(error) => return Ok(Err(error)),
        };
        let _reservation = self.reserve(ids.iter().map(String::len).fold(0, usize::saturating_add))?;
        if ids.len() > MAX_USERS {
            return invalid(format!("ids: at most {MAX_USERS}"));
        }
        let Some(ids) = ids.iter().map(|id| parse_id(id)).collect::<Option<BTreeSet<UserId>>>() else {
            return invalid("ids: one of them is not a UUID");
        };
        let db = directory.db.clone();
        self.look_up(&directory, async move { table::find(&db, &ids).await }).await
    }

    async fn find_by_email(&mut self, email: String) -> UsersResult<Option<directory::User>> {
        let directory = match self.directory()? {
            Ok(directory) => directory,
            Err(error) => return Ok(Err(error)),
        };
        let _reservation = self.reserve(email.len())?;
        // A text that is no address is the address of nobody.
        let Some(key) = Some(email).filter(|email| email.len() <= MAX_EMAIL).and_then(|email| AddressKey::of(&email))
        else {
            return Ok(Ok(None));
        };
        let db = directory.db.clone();
        let found = self.look_up(&directory, async move { table::find_by_key(&db, &key).await }).await?;
        Ok(found.map(|users| users.into_iter().next()))
    }

    async fn list_users(&mut self, after: Option<String>, limit: u32) -> UsersResult<Vec<directory::User>> {
        let directory = match self.directory()? {
            Ok(directory) => directory,
            Err(error) => return Ok(Err(error)),
        };
        let limit = match usize::try_from(limit) {
            Ok(limit) if (1..=MAX_USERS).contains(&limit) => limit,
            _ => return invalid(format!("limit: 1 to {MAX_USERS}")),
        };
        let after = match after.as_deref().map(parse_id) {
            None => UserId(Uuid::nil()),
            Some(Some(id)) => id,
            Some(None) => return invalid("after: not a UUID"),
        };
        let db = directory.db.clone();
        self.look_up(&directory, async move { table::list(&db, after, limit).await }).await
    }
}
