//! The storage of identifiers and timestamps: `uuid` and `bigint` on PostgreSQL, text and integer on SQLite.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::{Database, Decode, Encode, Postgres, Sqlite, Type};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::clock::Timestamp;
use crate::id::{
    EventId, IdentityId, JobId, KeyId, MailId, PasskeyId, PluginName, RoleName, SessionId, UserId, for_each_name,
    for_each_uuid_id,
};

/// Stores `$name` as `$via` in `$db`; `$into` and `$from` convert.
macro_rules! stored {
    ($name:ty, $db:ty, $via:ty, $into:expr, $from:expr) => {
        impl Type<$db> for $name {
            fn type_info() -> <$db as Database>::TypeInfo {
                <$via as Type<$db>>::type_info()
            }

            fn compatible(info: &<$db as Database>::TypeInfo) -> bool {
                <$via as Type<$db>>::compatible(info)
            }
        }

        impl Encode<'_, $db> for $name {
            fn encode_by_ref(&self, buffer: &mut <$db as Database>::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
                let into: fn(&$name) -> $via = $into;
                <$via as Encode<'_, $db>>::encode(into(self), buffer)
            }
        }

        impl<'r> Decode<'r, $db> for $name {
            fn decode(value: <$db as Database>::ValueRef<'r>) -> Result<Self, BoxDynError> {
                let from: fn($via) -> Result<$name, BoxDynError> = $from;
                from(<$via as Decode<'r, $db>>::decode(value)?)
            }
        }
    };
}

macro_rules! stored_uuids {
    ($($name:ident),*) => {$(
        stored!($name, Postgres, Uuid, |id| id.0, |uuid| Ok($name(uuid)));
        stored!($name, Sqlite, Hyphenated, |id| id.0.hyphenated(), |text| Ok($name(text.into_uuid())));
    )*};
}
for_each_uuid_id!(stored_uuids);

stored!(Timestamp, Postgres, i64, |timestamp| timestamp.0, |micros| Ok(Timestamp(micros)));
stored!(Timestamp, Sqlite, i64, |timestamp| timestamp.0, |micros| Ok(Timestamp(micros)));

macro_rules! stored_names {
    ($($name:ident),*) => {$(
        stored!($name, Postgres, String, |name| name.as_str().to_owned(), |text| Ok(text.parse()?));
        stored!($name, Sqlite, String, |name| name.as_str().to_owned(), |text| Ok(text.parse()?));
    )*};
}
for_each_name!(stored_names);
