//! Values into the parameters of a PostgreSQL statement, by the types the statement itself gives them. Writes the binary
//! form of each type; what does not fit is refused with the parameter's number before the statement runs.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgTypeInfo, PgTypeKind};
use sqlx::{Arguments, Encode, Postgres, Type, TypeInfo};
use uuid::Uuid;

use super::{moment, numeric};
use crate::db::plugin_data::{DataError, Value};

/// How a parameter of a statement is written.
#[derive(Debug, Clone)]
pub(super) struct Parameter {
    /// As PostgreSQL resolved it.
    declared: PgTypeInfo,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    /// Types whose binary form is their text.
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
        let form = match base.kind() {
            PgTypeKind::Enum(_) => Form::Text,
            _ => match base.name() {
                "BOOL" => Form::Bool,
                "INT2" => Form::Int2,
                "INT4" => Form::Int4,
                "INT8" => Form::Int8,
                "FLOAT4" => Form::Float4,
                "FLOAT8" => Form::Float8,
                "NUMERIC" => Form::Numeric,
                "TEXT" | "VARCHAR" | "CHAR" | "NAME" | "UNKNOWN" | "citext" => Form::Text,
                "JSON" => Form::Json,
                "JSONB" => Form::Jsonb,
                "UUID" => Form::Uuid,
                "TIMESTAMPTZ" => Form::Timestamptz,
                "TIMESTAMP" => Form::Timestamp,
                "DATE" => Form::Date,
                "TIME" => Form::Time,
                "BYTEA" => Form::Bytea,
                _ => Form::Unsupported,
            },
        };
        Self { declared: declared.clone(), form }
    }

    /// The bytes of `value`; none for null.
    pub(super) fn write(&self, value: &Value) -> Result<Option<Vec<u8>>, &'static str> {
        let bytes = match (self.form, value) {
            (_, Value::Null) => return Ok(None),
            (Form::Bool, Value::Boolean(value)) => vec![u8::from(*value)],
            (Form::Bool, Value::Integer(value @ (0 | 1))) => vec![u8::from(*value == 1)],
            (Form::Int2, Value::Integer(value)) => narrow::<i16>(*value)?.to_be_bytes().to_vec(),
            (Form::Int4, Value::Integer(value)) => narrow::<i32>(*value)?.to_be_bytes().to_vec(),
            (Form::Int8, Value::Integer(value)) => value.to_be_bytes().to_vec(),
            (Form::Float8, Value::Real(value)) => value.to_be_bytes().to_vec(),
            (Form::Float4, Value::Real(value)) => single(*value)?.to_be_bytes().to_vec(),
            (Form::Float8, Value::Integer(value)) => exact(*value)?.to_be_bytes().to_vec(),
            (Form::Float4, Value::Integer(value)) => single(exact(*value)?)?.to_be_bytes().to_vec(),
            (Form::Numeric, Value::Integer(value)) => number(&value.to_string())?,
            (Form::Numeric, Value::Real(value)) if value.is_finite() => number(&value.to_string())?,
            (Form::Numeric, Value::Text(text)) => number(text)?,
            (Form::Text | Form::Json, Value::Text(text)) => text.as_bytes().to_vec(),
            (Form::Jsonb, Value::Text(text)) => {
                // The version of the binary form, then the text, which PostgreSQL parses.
                let mut bytes = Vec::with_capacity(text.len().saturating_add(1));
                bytes.push(1);
                bytes.extend_from_slice(text.as_bytes());
                bytes
            }
            (Form::Uuid, Value::Text(text)) => Uuid::try_parse(text).map_err(|_| "is not a UUID")?.as_bytes().to_vec(),
            (Form::Timestamptz, Value::Text(text)) => moment::read_timestamptz(text)?.to_be_bytes().to_vec(),
            (Form::Timestamp, Value::Text(text)) => moment::read_timestamp(text)?.to_be_bytes().to_vec(),
            (Form::Date, Value::Text(text)) => moment::read_date(text)?.to_be_bytes().to_vec(),
            (Form::Time, Value::Text(text)) => moment::read_time(text)?.to_be_bytes().to_vec(),
            (Form::Bytea, Value::Blob(bytes)) => bytes.clone(),
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

/// Integers up to 2^53 are floats without loss.
#[expect(clippy::cast_precision_loss, reason = "checked")]
fn exact(value: i64) -> Result<f64, &'static str> {
    if value.unsigned_abs() <= 1 << 53 { Ok(value as f64) } else { Err("is too large for a float without loss") }
}

fn number(text: &str) -> Result<Vec<u8>, &'static str> {
    numeric::encode(text).ok_or("is not a decimal number")
}

/// The arguments of a statement.
pub(super) fn bind(parameters: &[Parameter], values: &[Value]) -> Result<PgArguments, DataError> {
    if parameters.len() != values.len() {
        let (expected, came) = (parameters.len(), values.len());
        return Err(DataError::invalid(format!("the statement has {expected} parameters, and {came} values came")));
    }
    let mut arguments = PgArguments::default();
    for (number, (parameter, value)) in (1..).zip(parameters.iter().zip(values)) {
        let bytes = parameter.write(value).map_err(|reason| {
            let declared = parameter.declared.name().to_lowercase();
            DataError::invalid(if reason.is_empty() {
                format!(
                    "parameter ${number} is of type {declared}, which takes no {}; write CAST(${number} AS …)",
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
