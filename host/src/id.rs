//! Identifiers. Each has its own type, so that the compiler refuses one in the place of another.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

macro_rules! uuid_ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
            schemars::JsonSchema,
        )]
        #[serde(transparent)]
        #[schemars(inline)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

/// Calls a macro with every UUID newtype, so that `db::value` can implement the database traits for each.
macro_rules! for_each_uuid_id {
    ($macro:ident) => {
        $macro!(UserId, SessionId, KeyId, IdentityId, PasskeyId, EventId, JobId, MailId);
    };
}
pub(crate) use for_each_uuid_id;

uuid_ids! {
    /// An account.
    UserId;
    /// One login of one account, with everything refreshed from it.
    SessionId;
    /// An API key.
    KeyId;
    /// An account at an OpenID Connect issuer that belongs to an account of this host.
    IdentityId;
    /// A passkey of an account.
    PasskeyId;
    /// An event. Every delivery of it has the same id.
    EventId;
    /// A job. Every attempt of it has the same id.
    JobId;
    /// A mail. Every attempt to send it has the same id.
    MailId;
}

/// Declares a name of the form `[a-z][a-z0-9-]{0,39}`. The last text is the error of other texts.
macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $invalid:ident: $refusal:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The longest name. PostgreSQL allows 63 bytes for the name of a role or schema, and those of plugins get
            /// prefixes.
            pub const MAX_LEN: usize = 40;

            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        #[doc = concat!("A text that is not a [`", stringify!($name), "`].")]
        #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
        #[error($refusal)]
        pub struct $invalid;

        impl FromStr for $name {
            type Err = $invalid;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = text.bytes();
                let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
                let rest = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
                if first && rest && text.len() <= Self::MAX_LEN { Ok(Self(text.into())) } else { Err($invalid) }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": "^[a-z][a-z0-9-]{0,39}$" })
            }
        }
    )*};
}

/// Calls a macro with every name, so that `db::value` can implement the database traits for each.
macro_rules! for_each_name {
    ($macro:ident) => {
        $macro!(PluginName, RoleName);
    };
}
pub(crate) use for_each_name;

names! {
    /// The name under which a plugin is deployed. Cheap to clone.
    PluginName, InvalidPluginName:
        "a plugin's name is 1 to 40 characters of a-z, 0-9 and '-', and begins with a letter";
    /// The name of a role. Cheap to clone.
    RoleName, InvalidRoleName: "a role's name is 1 to 40 characters of a-z, 0-9 and '-', and begins with a letter";
    /// The name of an OpenID Connect issuer in the configuration. Cheap to clone.
    IssuerName, InvalidIssuerName:
        "an issuer's name is 1 to 40 characters of a-z, 0-9 and '-', and begins with a letter";
    /// The name of a permission that a plugin defines, without the plugin's name. Cheap to clone.
    PermissionName, InvalidPermissionName:
        "a permission's name is 1 to 40 characters of a-z, 0-9 and '-', and begins with a letter";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_name_of_other_characters_is_refused() {
        for good in ["a", "items", "a-1", &"a".repeat(40)] {
            assert!(good.parse::<PluginName>().is_ok(), "{good}");
        }
        for bad in ["", "1a", "-a", "Items", "a_b", "a/b", "..", &"a".repeat(41)] {
            assert!(bad.parse::<PluginName>().is_err(), "{bad}");
        }
    }
}
