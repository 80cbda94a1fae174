//! Writes values into the parameters of a PostgreSQL statement, by the types that the statement gives them, in binary
//! form. A value that does not fit is refused with the parameter's number, before the statement runs.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgTypeInfo, PgTypeKind};
use sqlx::{Arguments, Encode, Postgres, Type, TypeInfo};
use uuid::Uuid;

use super::column::has_form_of_its_name;
use super::{numeric, timestamp};
use crate::db::plugin_data::error::DataError;
use crate::db::plugin_data::value::Value;

/// A parameter of a statement, with its type.
#[derive(Debug, Clone)]
pub(super) struct Parameter {
    /// The type that PostgreSQL resolved.
    declared: PgTypeInfo,
    kind: ParameterType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ParameterType {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    /// Types whose binary kind is their text.
    Text,
    Json,
    Jsonb,
    Uuid,
    Timestamptz,
    Timestamp,
    Date,
    Time,
    Bytea,
    Unsupported,
}

impl Parameter {
    pub(super) fn of(declared: &PgTypeInfo) -> Self {
        let mut base = declared;
        while let PgTypeKind::Domain(of) = base.kind() {
            base = of;
        }
        let kind = match base.kind() {
            PgTypeKind::Enum(_) => ParameterType::Text,
            _ if !has_form_of_its_name(base) => ParameterType::Unsupported,
            _ => match base.name() {
                "BOOL" => ParameterType::Bool,
                "INT2" => ParameterType::Int2,
                "INT4" => ParameterType::Int4,
                "INT8" => ParameterType::Int8,
                "FLOAT4" => ParameterType::Float4,
                "FLOAT8" => ParameterType::Float8,
                "NUMERIC" => ParameterType::Numeric,
                "TEXT" | "VARCHAR" | "CHAR" | "NAME" | "UNKNOWN" | "citext" => ParameterType::Text,
                "JSON" => ParameterType::Json,
                "JSONB" => ParameterType::Jsonb,
                "UUID" => ParameterType::Uuid,
                "TIMESTAMPTZ" => ParameterType::Timestamptz,
                "TIMESTAMP" => ParameterType::Timestamp,
                "DATE" => ParameterType::Date,
                "TIME" => ParameterType::Time,
                "BYTEA" => ParameterType::Bytea,
                _ => ParameterType::Unsupported,
            },
        };
        Self { declared: declared.clone(), kind }
    }

    /// Returns the bytes of `value`; `None` for null.
    pub(super) fn write(&self, value: &Value) -> Result<Option<Vec<u8>>, &'static str> {
        let bytes = match (self.kind, value) {
            (_, Value::Null) => return Ok(None),
            (ParameterType::Bool, Value::Boolean(value)) => vec![u8::from(*value)],
            (ParameterType::Bool, Value::Integer(value @ (0 | 1))) => vec![u8::from(*value == 1)],
            (ParameterType::Int2, Value::Integer(value)) => narrow::<i16>(*value)?.to_be_bytes().to_vec(),
            (ParameterType::Int4, Value::Integer(value)) => narrow::<i32>(*value)?.to_be_bytes().to_vec(),
            (ParameterType::Int8, Value::Integer(value)) => value.to_be_bytes().to_vec(),
            (ParameterType::Float8, Value::Real(value)) => value.to_be_bytes().to_vec(),
            (ParameterType::Float4, Value::Real(value)) => single(*value)?.to_be_bytes().to_vec(),
            (ParameterType::Float8, Value::Integer(value)) => exact(*value)?.to_be_bytes().to_vec(),
            (ParameterType::Float4, Value::Integer(value)) => single(exact(*value)?)?.to_be_bytes().to_vec(),
            (ParameterType::Numeric, Value::Integer(value)) => number(&value.to_string())?,
            (ParameterType::Numeric, Value::Real(value)) if value.is_finite() => number(&value.to_string())?,
            (ParameterType::Numeric, Value::Text(text)) => number(text)?,
            (ParameterType::Text | ParameterType::Json, Value::Text(text)) => text.as_bytes().to_vec(),
            (ParameterType::Jsonb, Value::Text(text)) => {
                // The version of the binary kind, then the text, which PostgreSQL parses.
                let mut bytes = Vec::with_capacity(text.len().saturating_add(1));
                bytes.push(1);
                bytes.extend_from_slice(text.as_bytes());
                bytes
            }
            (ParameterType::Uuid, Value::Text(text)) => {
                Uuid::try_parse(text).map_err(|_| "is not a UUID")?.as_bytes().to_vec()
            }
            (ParameterType::Timestamptz, Value::Text(text)) => {
                timestamp::read_timestamptz(text)?.to_be_bytes().to_vec()
            }
            (ParameterType::Timestamp, Value::Text(text)) => timestamp::read_timestamp(text)?.to_be_bytes().to_vec(),
            (ParameterType::Date, Value::Text(text)) => timestamp::read_date(text)?.to_be_bytes().to_vec(),
            (ParameterType::Time, Value::Text(text)) => timestamp::read_time(text)?.to_be_bytes().to_vec(),
            (ParameterType::Bytea, Value::Blob(bytes)) => bytes.clone(),
            _ => return Err(""),
        };
        Ok(Some(bytes))
    }
}

fn narrow<T: TryFrom<i64>>(value: i64) -> Result<T, &'static str> {
    T::try_from(value).map_err(|_| "is out of range")
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to the column's precision is what PostgreSQL does too")]
fn single(value: f64) -> Result<f32, &'static str> {
    let single = value as f32;
    if single.is_infinite() && value.is_finite() { Err("is out of range") } else { Ok(single) }
}

/// Converts an integer to a float; up to 2^53 this is exact.
#[expect(clippy::cast_precision_loss, reason = "checked")]
fn exact(value: i64) -> Result<f64, &'static str> {
    if value.unsigned_abs() <= 1 << 53 { Ok(value as f64) } else { Err("is too large for a float without loss") }
}

fn number(text: &str) -> Result<Vec<u8>, &'static str> {
    numeric::encode(text).ok_or("is not a decimal number")
}

/// Returns the arguments of a statement.
pub(super) fn bind(parameters: &[Parameter], values: &[Value]) -> Result<PgArguments, DataError> {
    if parameters.len() != values.len() {
        let (expected, given) = (parameters.len(), values.len());
        return Err(DataError::invalid(format!("the statement has {expected} parameters but got {given} values")));
    }
    let mut arguments = PgArguments::default();
    for (number, (parameter, value)) in (1..).zip(parameters.iter().zip(values)) {
        let bytes = parameter.write(value).map_err(|reason| {
            let declared = parameter.declared.name().to_lowercase();
            DataError::invalid(if reason.is_empty() {
                format!(
                    "parameter ${number} is of type {declared}, which does not accept {}; write CAST(${number} AS …)",
                    value.kind().trim_start_matches("a ").trim_start_matches("an ")
                )
            } else {
                format!("parameter ${number} ({declared}) {reason}")
            })
        })?;
        let encoded = Encoded { declared: &parameter.declared, bytes: bytes.as_deref() };
        arguments.add(encoded).map_err(|error| DataError::invalid(error.to_string()))?;
    }
    Ok(arguments)
}

struct Encoded<'a> {
    declared: &'a PgTypeInfo,
    bytes: Option<&'a [u8]>,
}

impl Type<Postgres> for Encoded<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("unknown")
    }
}

impl Encode<'_, Postgres> for Encoded<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match self.bytes {
            None => Ok(IsNull::Yes),
            Some(bytes) => {
                buffer.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
        }
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(self.declared.clone())
    }

    fn size_hint(&self) -> usize {
        self.bytes.map_or(0, <[u8]>::len)
    }
}
