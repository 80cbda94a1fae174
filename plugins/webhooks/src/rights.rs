//! The events that an account may receive now. The directory of the host knows; nothing about it is stored here.

use crate::stored::read_word;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use wharf_sdk::prelude::*;
use wharf_sdk::sql::{FromValue, Value};
use wharf_sdk::users::{self, User};

/// The accounts whose events an endpoint receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum Scope {
    #[default]
    Own,
    All,
}

impl FromValue for Scope {
    fn from_value(value: Value) -> Result<Self, String> {
        read_word(value)
    }
}

/// The owners of some endpoints. Accounts that do not exist are left out.
pub(crate) struct Owners(HashMap<Uuid, User>);

impl Owners {
    /// Looks up the accounts.
    pub(crate) fn find(ids: impl IntoIterator<Item = Uuid>) -> Result<Self> {
        let ids: Vec<Uuid> = ids.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        let mut owners = HashMap::new();
        for page in ids.chunks(users::MAX_USERS as usize) {
            owners.extend(users::find(page.iter().copied())?.into_iter().map(|user| (user.id, user)));
        }
        Ok(Self(owners))
    }

    /// Returns whether an account exists.
    pub(crate) fn exists(&self, owner: Uuid) -> bool {
        self.0.contains_key(&owner)
    }

    /// Returns whether an endpoint of this owner may receive an event with this audience: that of its owner, or any while
    /// the owner is a superuser.
    pub(crate) fn may_receive(&self, owner: Uuid, scope: Scope, audience: Option<Uuid>) -> bool {
        let Some(owner) = self.0.get(&owner) else { return false };
        owner.active && (audience == Some(owner.id) || (scope == Scope::All && owner.superuser))
    }
}
