//! SQLite functions that a plugin's statement may call only with bounded arguments. Within one instruction, which no
//! deadline interrupts, these functions compare all pairs of positions, or recurse as deep as their arguments are
//! nested. Each wrapper checks the arguments, then calls SQLite's own function on a separate connection that has no
//! wrappers.

use std::ffi::c_int;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Error, ErrorCode, ToSql, ffi};

use super::control::Control;
use super::place;
use crate::db::sqlite_memory::MeteredStatement;

/// The reason why a call may be too expensive.
#[derive(Clone, Copy)]
enum Cost {
    /// The second argument is compared at each position of the first.
    Search,
    /// Each character of the first argument is searched among those of the second.
    Characters,
    /// A BLOB in SQLite's own JSON format may be nested as deep as it is long, and is read by recursion. (SQLite
    /// refuses a text that is nested deeper than a thousand.)
    Json,
}

impl Cost {
    /// Returns the maximum number of comparisons: some hundreds of milliseconds.
    fn pairs(self) -> Option<usize> {
        match self {
            Self::Search => Some(1 << 32),
            Self::Characters => Some(1 << 28),
            Self::Json => None,
        }
    }
}

/// The wrapped functions, with their number of arguments; -1 means any number. Calls of these names with another number
/// of arguments go to SQLite's own functions.
const BOUNDED: [(&str, c_int, Cost); 13] = [
    ("instr", 2, Cost::Search),
    ("replace", 3, Cost::Search),
    ("trim", 2, Cost::Characters),
    ("ltrim", 2, Cost::Characters),
    ("rtrim", 2, Cost::Characters),
    ("unhex", 2, Cost::Characters),
    ("json", 1, Cost::Json),
    ("json_array_length", -1, Cost::Json),
    ("json_extract", -1, Cost::Json),
    ("json_type", -1, Cost::Json),
    ("json_valid", -1, Cost::Json),
    ("->", 2, Cost::Json),
    ("->>", 2, Cost::Json),
];

/// A connection that has SQLite's own functions, opened when one of them is first needed.
type OriginalFunctions = Arc<Mutex<Option<rusqlite::Connection>>>;

/// Returns whether a function is wrapped.
pub(super) fn is_bounded(name: &str) -> bool {
    BOUNDED.iter().any(|(bounded, ..)| name.eq_ignore_ascii_case(bounded))
}

/// Replaces SQLite's own functions by the wrappers.
pub(super) fn install(raw: &rusqlite::Connection, control: &Arc<Control>) -> rusqlite::Result<()> {
    let originals = OriginalFunctions::default();
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    for (name, arguments, cost) in BOUNDED {
        let (control, originals) = (Arc::clone(control), Arc::clone(&originals));
        raw.create_scalar_function(name, arguments, flags, move |call| {
            check(call, name, cost, &control)?;
            if control.must_stop() {
                return Err(Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_INTERRUPT), None));
            }
            let mut originals = originals.lock().unwrap_or_else(PoisonError::into_inner);
            let own = match &mut *originals {
                Some(own) => own,
                none => none.insert(rusqlite::Connection::open_in_memory()?),
            };
            own.set_limit(Limit::SQLITE_LIMIT_LENGTH, control.longest())?;
            call_original(own, name, call).map_err(without_text)
        })?;
    }
    Ok(())
}

fn check(call: &Context<'_>, name: &str, cost: Cost, control: &Control) -> rusqlite::Result<()> {
    let arguments = || (0..call.len()).map(|index| call.get_raw(index));
    let refused = match cost.pairs() {
        Some(max) => {
            let max = if control.is_in_place() { place::COMPARISONS } else { max };
            let pairs = arguments().take(2).fold(1_usize, |pairs, value| pairs.saturating_mul(length(value)));
            (pairs > max).then(|| format!("{name}: the values are too long to be compared"))
        }
        None => {
            let is_blob = arguments().any(|value| matches!(value, ValueRef::Blob(_)));
            is_blob.then(|| format!("{name}: JSON must be a text, not a blob"))
        }
    };
    refused.map_or(Ok(()), |refused| Err(Error::UserFunctionError(refused.into())))
}

fn length(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
        // As text such a value has at most some tens of characters.
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 1,
    }
}

fn call_original(own: &rusqlite::Connection, name: &str, call: &Context<'_>) -> rusqlite::Result<FunctionResult> {
    let sql = if name.starts_with('-') {
        format!("SELECT ?1 {name} ?2")
    } else {
        let parameters: Vec<String> = (1..=call.len()).map(|number| format!("?{number}")).collect();
        format!("SELECT {name}({})", parameters.join(", "))
    };
    let mut statement = own.prepare_cached(&sql)?;
    for index in 0..call.len() {
        statement.raw_bind_parameter(index.saturating_add(1), Argument(call.get_raw(index)))?;
    }
    let mut rows = statement.raw_query();
    let row = rows.next()?.ok_or(Error::QueryReturnedNoRows)?;
    Ok(match row.get_ref(0)? {
        ValueRef::Null => FunctionResult::Other(Value::Null),
        ValueRef::Integer(integer) => FunctionResult::Other(Value::Integer(integer)),
        ValueRef::Real(real) => FunctionResult::Other(Value::Real(real)),
        ValueRef::Blob(bytes) => FunctionResult::Other(Value::Blob(bytes.to_vec())),
        ValueRef::Text(bytes) => FunctionResult::Text(bytes.to_vec()),
    })
}

/// Removes the text of errors about memory and length: an error with a text would count as the statement author's.
fn without_text(error: Error) -> Error {
    match error {
        Error::SqliteFailure(error, _) if matches!(error.code, ErrorCode::OutOfMemory | ErrorCode::TooBig) => {
            Error::SqliteFailure(error, None)
        }
        error => error,
    }
}

struct Argument<'a>(ValueRef<'a>);

impl ToSql for Argument<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.0))
    }
}

/// The result of a function. A text in SQLite need not be UTF-8.
enum FunctionResult {
    Text(Vec<u8>),
    Other(Value),
}

impl ToSql for FunctionResult {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Text(bytes) => ValueRef::Text(bytes),
            Self::Other(value) => value.into(),
        }))
    }
}
