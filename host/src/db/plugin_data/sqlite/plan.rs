//! What is worth knowing of a compiled statement beyond its text.

use rusqlite::StatementStatus;

#[derive(Debug)]
pub(super) struct Plan {
    /// The number of `$n` at each place SQLite counts: it numbers names by first appearance.
    pub(super) parameters: Vec<usize>,
    pub(super) columns: Vec<String>,
    /// Columns declared BOOLEAN.
    pub(super) booleans: Vec<bool>,
    pub(super) reads: bool,
}

impl Plan {
    pub(super) fn of(statement: &rusqlite::Statement<'_>, parameters: Vec<usize>) -> Self {
        let columns = statement.columns();
        Self {
            parameters,
            booleans: columns.iter().map(|column| is_boolean(column.decl_type())).collect(),
            columns: columns.iter().map(|column| column.name().to_owned()).collect(),
            reads: statement.readonly(),
        }
    }

    /// A new one when SQLite compiled the statement anew because the schema had changed.
    pub(super) fn renewed(&self, statement: &rusqlite::Statement<'_>) -> Option<Self> {
        (statement.get_status(StatementStatus::RePrepare) > 0).then(|| Self::of(statement, self.parameters.clone()))
    }
}

fn is_boolean(declared: Option<&str>) -> bool {
    declared.is_some_and(|declared| declared.eq_ignore_ascii_case("boolean") || declared.eq_ignore_ascii_case("bool"))
}
