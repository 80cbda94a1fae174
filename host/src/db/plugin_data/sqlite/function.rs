//! Functions of SQLite that a plugin's statement gets within bounds: within one instruction, which no deadline interrupts,
//! they compare everything with everything, or recurse as deep as their arguments say. Asks whether the arguments are within
//! bounds, and then SQLite's own function, on a connection beside that has no other.

use std::ffi::c_int;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Error, ErrorCode, ToSql, ffi};

use super::control::Control;

/// Why arguments may be too much.
#[derive(Clone, Copy)]
enum Cost {
    /// The second is looked for at each place of the first.
    Search,
    /// Each character of the first is looked for among those of the second.
    Characters,
    /// A BLOB in SQLite's own form of JSON may be nested as deep as it is long, and is read by recursion. (A text is not
    /// taken beyond a thousand.)
    Json,
}

impl Cost {
    /// How many pairs may be compared: some hundreds of milliseconds.
    fn pairs(self) -> Option<usize> {
        match self {
            Self::Search => Some(1 << 32),
            Self::Characters => Some(1 << 28),
            Self::Json => None,
        }
    }
}

/// With their number of arguments, or -1 where it may differ. Others of these names are SQLite's.
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

/// A connection that has SQLite's own functions, once one of them is needed.
type Beside = Arc<Mutex<Option<rusqlite::Connection>>>;

/// Whether a function is one of them.
pub(super) fn is_bounded(name: &str) -> bool {
    BOUNDED.iter().any(|(bounded, ..)| name.eq_ignore_ascii_case(bounded))
}

/// Puts them in the place of SQLite's own.
pub(super) fn bound(raw: &rusqlite::Connection, control: &Arc<Control>) -> rusqlite::Result<()> {
    let beside = Beside::default();
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    for (name, arguments, cost) in BOUNDED {
        let (control, beside) = (Arc::clone(control), Arc::clone(&beside));
        raw.create_scalar_function(name, arguments, flags, move |call| {
            check(call, name, cost)?;
            if control.must_stop() {
                return Err(Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_INTERRUPT), None));
            }
            let mut beside = beside.lock().unwrap_or_else(PoisonError::into_inner);
            let own = match &mut *beside {
                Some(own) => own,
                none => none.insert(rusqlite::Connection::open_in_memory()?),
            };
            own.set_limit(Limit::SQLITE_LIMIT_LENGTH, control.longest())?;
            ask(own, name, call).map_err(bare)
        })?;
    }
    Ok(())
}

fn check(call: &Context<'_>, name: &str, cost: Cost) -> rusqlite::Result<()> {
    let arguments = || (0..call.len()).map(|index| call.get_raw(index));
    let refused = match cost.pairs() {
        Some(most) => {
            let pairs = arguments().take(2).fold(1_usize, |pairs, value| pairs.saturating_mul(length(value)));
            (pairs > most).then(|| format!("{name}: the values are too long for each other"))
        }
        None => {
            let is_blob = arguments().any(|value| matches!(value, ValueRef::Blob(_)));
            is_blob.then(|| format!("{name}: JSON is a text, not a blob"))
        }
    };
    refused.map_or(Ok(()), |refused| Err(Error::UserFunctionError(refused.into())))
}

fn length(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
        // As a text it has some tens of characters.
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 1,
    }
}

fn ask(own: &rusqlite::Connection, name: &str, call: &Context<'_>) -> rusqlite::Result<Answer> {
    let sql = if name.starts_with('-') {
        format!("SELECT ?1 {name} ?2")
    } else {
        let places: Vec<String> = (1..=call.len()).map(|place| format!("?{place}")).collect();
        format!("SELECT {name}({})", places.join(", "))
    };
    let mut statement = own.prepare_cached(&sql)?;
    for index in 0..call.len() {
        statement.raw_bind_parameter(index.saturating_add(1), Argument(call.get_raw(index)))?;
    }
    let mut rows = statement.raw_query();
    let row = rows.next()?.ok_or(Error::QueryReturnedNoRows)?;
    Ok(match row.get_ref(0)? {
        ValueRef::Null => Answer::Other(Value::Null),
        ValueRef::Integer(integer) => Answer::Other(Value::Integer(integer)),
        ValueRef::Real(real) => Answer::Other(Value::Real(real)),
        ValueRef::Blob(bytes) => Answer::Other(Value::Blob(bytes.to_vec())),
        ValueRef::Text(bytes) => Answer::Text(bytes.to_vec()),
    })
}

/// With a text, an error would be one of the statement's author.
fn bare(error: Error) -> Error {
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

/// A text of SQLite need not be UTF-8.
enum Answer {
    Text(Vec<u8>),
    Other(Value),
}

impl ToSql for Answer {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Text(bytes) => ValueRef::Text(bytes),
            Self::Other(value) => value.into(),
        }))
    }
}
