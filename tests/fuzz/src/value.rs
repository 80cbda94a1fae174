//! Values sent to the databases and read back. The input is text, one value per line: `integer 5`, `real 1.5`, `boolean
//! true`, `null`, `text …` (with `\r`, `\n`, `\0` as in Rust), `blob …`; or `column numeric` followed by the bytes of a
//! column of that type.
//!
//! Properties for SQLite, which is called: a value round-trips, a boolean as 0 or 1. Properties for PostgreSQL, whose
//! binary formats are written and read here: an accepted value comes back with the same meaning, in a canonical text
//! that round-trips; decimals lose no digit. The bytes of a column are read as a value or rejected, never with a panic.

use std::cell::RefCell;
use std::time::Duration;

use wharf::db::plugin_data::fuzzing::postgres::{self, TYPES};
use wharf::db::plugin_data::fuzzing::sqlite::Memory;
use wharf::db::plugin_data::{DataError, StatementLimits, Value, fuzzing};

use crate::input::{unescaped, words};

const LIMITS: StatementLimits =
    StatementLimits { rows: 10, bytes: 4096, time: Duration::from_secs(5), connections: 1, disk: u64::MAX };

thread_local! {
    static SQLITE: RefCell<Memory> = RefCell::new(Memory::open(&LIMITS).unwrap());
}

/// Checks some values.
pub fn check(data: &[u8]) {
    let mut values = Vec::new();
    for line in data.split(|byte| *byte == b'\n').take(16) {
        if let Some(rest) = line.strip_prefix(b"column ") {
            let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
            let name = String::from_utf8_lossy(&rest[..end]);
            if let (Some(name), Some(bytes)) = (TYPES.iter().find(|it| **it == name), rest.get(end + 1..)) {
                check_column(name, bytes);
            }
            continue;
        }
        values.extend(read(line));
    }
    for value in &values {
        for name in TYPES.into_iter().chain(["bytea"]) {
            check_postgres(name, value);
        }
    }
    check_sqlite(&values);
}

fn read(line: &[u8]) -> Option<Value> {
    if let Some(bytes) = line.strip_prefix(b"blob ") {
        return Some(Value::Blob(bytes.to_vec()));
    }
    let line = String::from_utf8_lossy(line);
    let [kind, text] = words(&line);
    Some(match kind {
        "null" => Value::Null,
        "boolean" => Value::Boolean(text == "true"),
        "integer" => Value::Integer(text.parse().ok()?),
        "real" => Value::Real(text.parse().ok()?),
        "text" => Value::Text(unescaped(text)),
        _ => return None,
    })
}

/// Compares values; NaN equals NaN here.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Real(one), Value::Real(other)) => one.to_bits() == other.to_bits() || one.is_nan() && other.is_nan(),
        _ => one == other,
    }
}

fn check_sqlite(values: &[Value]) {
    if values.is_empty() {
        return;
    }
    let places: Vec<String> = (1..=values.len()).map(|number| format!("${number}")).collect();
    let sql = format!("SELECT {}", places.join(", "));
    let sql = match fuzzing::admitted(fuzzing::Dialect::Sqlite, &sql, values.to_vec(), &LIMITS) {
        Ok((sql, ..)) => sql,
        Err(error) => {
            // Values that no database may receive.
            let bad = |value: &Value| match value {
                Value::Real(real) => real.is_nan(),
                Value::Text(text) => text.contains('\0'),
                _ => false,
            };
            return assert!(values.iter().any(bad) || matches!(error, DataError::Limit(..)), "{error}");
        }
    };
    let rows = SQLITE.with_borrow_mut(|sqlite| sqlite.query(&sql, values, &LIMITS));
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) => return assert!(matches!(error, DataError::Limit(..)), "{error}"),
    };
    let [row] = rows.values.as_slice() else { panic!("{} rows", rows.values.len()) };
    assert_eq!((row.len(), rows.columns.len()), (values.len(), values.len()));
    for (given, back) in values.iter().zip(row) {
        let expected = match given {
            Value::Boolean(value) => Value::Integer((*value).into()),
            other => other.clone(),
        };
        assert!(same(&expected, back), "{given:?} comes back as {back:?}");
    }
}

fn check_column(name: &str, bytes: &[u8]) {
    if let Some(value) = postgres::read(name, bytes).expect("every type can be a column") {
        // A value that was read can be written, except the timestamps and numbers that have only a name.
        let named = |text: &str| {
            text.ends_with("infinity") || text.ends_with("Infinity") || text == "NaN" || text.starts_with("24:00:00")
        };
        let Value::Text(text) = &value else { return };
        if !named(text)
            && text.len() < 1000
            && text.starts_with(|c: char| c.is_ascii_digit())
            && matches!(name, "date" | "timestamp" | "timestamptz" | "time" | "uuid")
        {
            check_postgres(name, &value);
            let written = postgres::write(name, &value);
            assert!(written.is_ok(), "{name} {text} can be read but not written: {written:?}");
        }
    }
}

fn check_postgres(name: &str, value: &Value) {
    let Ok(written) = postgres::write(name, value) else { return };
    let Some(bytes) = written else { return assert_eq!(*value, Value::Null) };
    let back = postgres::read(name, &bytes).expect("every type can be a column");
    let back = back.unwrap_or_else(|| panic!("{value:?} as {name} does not come back"));
    let expected = expected(name, value);
    if let Some(expected) = expected {
        assert!(same(&expected, &back), "{value:?} as {name} comes back as {back:?} and not {expected:?}");
    }
    let again = postgres::write(name, &back).unwrap_or_else(|reason| panic!("{back:?} as {name} {reason}"));
    let again = again.expect("a non-null value stays non-null");
    assert!(again == bytes || name == "jsonb", "{value:?} as {name} has another encoding the second time: {back:?}");
    let twice = postgres::read(name, &again).ok().flatten();
    assert!(twice.is_some_and(|twice| same(&twice, &back)), "{back:?} as {name} does not round-trip");
}

/// Returns the expected result of a round trip; `None` if only the second round trip is checked.
fn expected(name: &str, value: &Value) -> Option<Value> {
    Some(match (name, value) {
        ("bool", Value::Integer(value)) => Value::Boolean(*value == 1),
        ("float8", Value::Integer(value)) => Value::Real(*value as f64),
        ("float4", Value::Integer(value)) => Value::Real(f64::from(*value as f32)),
        ("float4", Value::Real(value)) => Value::Real(f64::from(*value as f32)),
        ("numeric", Value::Integer(value)) => Value::Text(value.to_string()),
        ("numeric", Value::Real(value)) => Value::Text(plain(&value.to_string())?),
        ("numeric", Value::Text(text)) => Value::Text(plain(text)?),
        ("uuid", Value::Text(_)) | ("timestamptz" | "timestamp" | "date" | "time" | "jsonb", Value::Text(_)) => {
            return None;
        }
        (_, value) => value.clone(),
    })
}

/// Returns a decimal without exponent, negative zero and leading zeros, by moving the decimal point.
fn plain(text: &str) -> Option<String> {
    let text = text.trim();
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i64 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = format!("{whole}{fraction}");
    let mut point = whole.len() as i64 + exponent;
    while point <= 0 {
        digits.insert(0, '0');
        point += 1;
    }
    while digits.len() < usize::try_from(point).ok()? {
        digits.push('0');
    }
    let (whole, fraction) = digits.split_at(usize::try_from(point).ok()?);
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let sign = if negative && digits.bytes().any(|digit| digit != b'0') { "-" } else { "" };
    Some(if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
}
