//! The facts about a compiled statement that its text does not tell: parameters, columns, and whether it reads.

use rusqlite::StatementStatus;

use super::place::QuickRuns;

#[derive(Debug)]
pub(super) struct Plan {
    /// The number `n` of `$n` for each of SQLite's parameters, which SQLite numbers by first appearance.
    pub(super) parameters: Vec<usize>,
    pub(super) columns: Vec<String>,
    /// Columns declared BOOLEAN.
    pub(super) booleans: Vec<bool>,
    pub(super) reads: bool,
    /// `None` if the statement never runs in place.
    pub(super) in_place: Option<QuickRuns>,
}

impl Plan {
    pub(super) fn of(statement: &rusqlite::Statement<'_>, parameters: Vec<usize>, in_place: Option<QuickRuns>) -> Self {
        let columns = statement.columns();
        Self {
            parameters,
            booleans: columns.iter().map(|column| is_boolean(column.decl_type())).collect(),
            columns: columns.iter().map(|column| column.name().to_owned()).collect(),
            reads: statement.readonly(),
            in_place,
        }
    }

    /// Returns a new plan if SQLite recompiled the statement because the schema had changed. The new schema decides whether
    /// the statement may run in place.
    pub(super) fn renewed(
        &self,
        statement: &rusqlite::Statement<'_>,
        in_place: impl FnOnce() -> Option<QuickRuns>,
    ) -> Option<Self> {
        let is_recompiled = statement.get_status(StatementStatus::RePrepare) > 0;
        is_recompiled.then(|| Self::of(statement, self.parameters.clone(), in_place()))
    }
}

fn is_boolean(declared: Option<&str>) -> bool {
    declared.is_some_and(|declared| declared.eq_ignore_ascii_case("boolean") || declared.eq_ignore_ascii_case("bool"))
}
