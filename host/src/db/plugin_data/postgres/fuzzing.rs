//! Entry points for the fuzz targets (`tests/fuzz`), compiled only for them: writes a value as a parameter and reads it
//! from a column, in the bytes that PostgreSQL receives and sends.

use sqlx::Type;
use sqlx::postgres::PgTypeInfo;

use super::column;
use super::parameter::Parameter;
use crate::db::plugin_data::error::DataError;
use crate::db::plugin_data::value::Value;

/// The types that are valid for both parameters and columns.
pub const TYPES: [&str; 14] = [
    "bool",
    "int2",
    "int4",
    "int8",
    "float4",
    "float8",
    "numeric",
    "text",
    "jsonb",
    "uuid",
    "timestamptz",
    "timestamp",
    "date",
    "time",
];

fn of<T: Type<sqlx::Postgres>>() -> PgTypeInfo {
    T::type_info()
}

fn declared(name: &str) -> PgTypeInfo {
    match name {
        "bool" => of::<bool>(),
        "int2" => of::<i16>(),
        "int4" => of::<i32>(),
        "int8" => of::<i64>(),
        "float4" => of::<f32>(),
        "float8" => of::<f64>(),
        "numeric" => of::<sqlx::types::BigDecimal>(),
        "jsonb" => of::<serde_json::Value>(),
        "uuid" => of::<uuid::Uuid>(),
        "timestamptz" => of::<time::OffsetDateTime>(),
        "timestamp" => of::<time::PrimitiveDateTime>(),
        "date" => of::<time::Date>(),
        "time" => of::<time::Time>(),
        "bytea" => of::<Vec<u8>>(),
        _ => of::<String>(),
    }
}

/// Returns the bytes of a value for a parameter of a type; `None` for null.
///
/// # Errors
/// The type does not accept the value.
pub fn write(name: &str, value: &Value) -> Result<Option<Vec<u8>>, &'static str> {
    Parameter::of(&declared(name)).write(value)
}

/// Returns the value of a column of a type; `None` if the bytes are invalid.
///
/// # Errors
/// Columns of the type cannot be read.
pub fn read(name: &str, bytes: &[u8]) -> Result<Option<Value>, DataError> {
    Ok(column::ColumnType::of("c", &declared(name))?.read(bytes))
}
