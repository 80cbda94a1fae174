//! Rows as the host returns them. They are read by column name or position into typed values, which are moved, never
//! copied.

use super::{Error, FromValue, Value};
use crate::bindings::imports::wharf::sql::database as wit;

/// The rows of one statement.
#[derive(Debug, PartialEq)]
pub struct Rows(wit::Rows);

impl Rows {
    pub(crate) fn new(rows: wit::Rows) -> Self {
        Self(rows)
    }

    /// Returns whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.0.values.is_empty()
    }

    /// Reads all rows.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a column is missing or has another type.
    pub fn all<T: FromRow>(self) -> Result<Vec<T>, Error> {
        let mut row = Row { columns: self.0.columns, values: Vec::new() };
        let mut all = Vec::with_capacity(self.0.values.len());
        for values in self.0.values {
            row.values = values;
            all.push(T::from_row(&mut row)?);
        }
        Ok(all)
    }

    /// Reads the first row, if there is one.
    ///
    /// # Errors
    /// As [`Rows::all`].
    pub fn optional<T: FromRow>(self) -> Result<Option<T>, Error> {
        let Some(values) = self.0.values.into_iter().next() else { return Ok(None) };
        T::from_row(&mut Row { columns: self.0.columns, values }).map(Some)
    }

    /// Reads the first row of a statement that always returns one.
    ///
    /// # Errors
    /// As [`Rows::all`], and if there is no row.
    pub fn one<T: FromRow>(self) -> Result<T, Error> {
        self.optional()?.ok_or_else(|| Error::Invalid("the statement returned no row".to_owned()))
    }

    /// Reads the first column of the first row.
    ///
    /// # Errors
    /// As [`Rows::one`].
    pub fn value<T: FromValue>(self) -> Result<T, Error> {
        self.one::<Scalar<T>>().map(|Scalar(value)| value)
    }
}

/// One row.
#[derive(Debug, PartialEq)]
pub struct Row {
    columns: Vec<String>,
    values: Vec<Value>,
}

impl Row {
    /// Takes the value of a column by its name. A column that was taken before is null.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a column that is missing or has another type.
    pub fn take<T: FromValue>(&mut self, name: &str) -> Result<T, Error> {
        self.take_near(0, name)
    }

    /// Does the same as [`Row::take`], but looks at the probable position first.
    #[doc(hidden)]
    pub fn take_near<T: FromValue>(&mut self, position: usize, name: &str) -> Result<T, Error> {
        let is_named = |column: &String| column == name;
        let position = match self.columns.get(position).is_some_and(is_named) {
            true => Some(position),
            false => self.columns.iter().position(is_named),
        };
        match position {
            Some(position) => self.take_at(position),
            None => Err(Error::Invalid(format!("the row has no column `{name}`"))),
        }
    }

    /// Takes the value of a column by its position, from 0.
    ///
    /// # Errors
    /// As [`Row::take`].
    pub fn take_at<T: FromValue>(&mut self, position: usize) -> Result<T, Error> {
        let Some(value) = self.values.get_mut(position) else {
            return Err(Error::Invalid(format!("the row has no column {position}")));
        };
        let found = T::from_value(std::mem::replace(value, Value::Null));
        found.map_err(|mismatch| {
            let column = self.columns.get(position).map(String::as_str).unwrap_or_default();
            Error::Invalid(format!("column `{column}`: {mismatch}"))
        })
    }
}

/// A type that can be read from a row: a struct with `#[derive(FromRow)]` by column name, a tuple by position.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from a row",
    note = "derive `FromRow` for a struct, take a tuple such as `(String, i64)`, or `query_value` for a single value"
)]
pub trait FromRow: Sized {
    /// Reads the value from the row.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the row does not have these columns.
    fn from_row(row: &mut Row) -> Result<Self, Error>;
}

/// The first column of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scalar<T>(pub T);

impl<T: FromValue> FromRow for Scalar<T> {
    fn from_row(row: &mut Row) -> Result<Self, Error> {
        row.take_at(0).map(Self)
    }
}

macro_rules! tuple {
    ($($name:ident $position:literal),*) => {
        impl<$($name: FromValue),*> FromRow for ($($name,)*) {
            fn from_row(row: &mut Row) -> Result<Self, Error> {
                Ok(($(row.take_at::<$name>($position)?,)*))
            }
        }
    };
}
tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
