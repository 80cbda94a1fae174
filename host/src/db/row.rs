//! Rows as structs. Owns the macro that reads a struct's fields from the columns of the same names, on both databases.
//!
//! sqlx has a derive for this, but its macros build sqlx, SQLite and a TLS library a second time, for the compiler.

/// Declares a struct and reads it from a row: each field from the column of its name.
macro_rules! row {
    (
        $(#[$about:meta])*
        $vis:vis struct $name:ident { $($(#[$meaning:meta])* $field_vis:vis $field:ident: $type:ty,)* }
    ) => {
        $(#[$about])*
        $vis struct $name {
            $($(#[$meaning])* $field_vis $field: $type,)*
        }

        impl<'r, R: sqlx::Row> sqlx::FromRow<'r, R> for $name
        where
            &'static str: sqlx::ColumnIndex<R>,
            $($type: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,)*
        {
            fn from_row(row: &'r R) -> sqlx::Result<Self> {
                Ok(Self { $($field: row.try_get(stringify!($field))?,)* })
            }
        }
    };
}
pub(super) use row;
