//! The authorizer: SQLite asks it about each action of a plugin's statement while it compiles the statement. It is the
//! security boundary of a plugin's file: SQLite compiles only actions that are allowed here, for any text of a
//! statement.

use std::sync::Arc;

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use wharf_sql_text::RESERVED;

use super::bounded_functions;
use super::control::{Control, Mode};

/// Returns the callback for [`rusqlite::Connection::authorizer`].
pub(super) fn authorizer(control: Arc<Control>) -> impl FnMut(AuthContext<'_>) -> Authorization + Send + 'static {
    move |context| {
        let allowed = match control.mode() {
            Mode::Host => true,
            Mode::Statement => statement_may(context.action),
            Mode::Migration => migration_may(context.action),
        };
        if allowed { Authorization::Allow } else { Authorization::Deny }
    }
}

fn begins_with(name: &str, beginning: &str) -> bool {
    name.get(..beginning.len()).is_some_and(|head| head.eq_ignore_ascii_case(beginning))
}

fn is_reserved(table: &str) -> bool {
    begins_with(table, RESERVED)
}

fn statement_may(action: AuthAction<'_>) -> bool {
    match action {
        AuthAction::Select | AuthAction::Recursive => true,
        AuthAction::Read { table_name, .. } => !is_reserved(table_name) && !is_json(table_name),
        AuthAction::Insert { table_name }
        | AuthAction::Delete { table_name }
        | AuthAction::Update { table_name, .. } => !is_reserved(table_name) && !begins_with(table_name, "sqlite_"),
        AuthAction::Function { function_name } => function_may(function_name),
        // FTS5 uses this pragma to find out whether the file changed.
        AuthAction::Pragma { pragma_name, pragma_value: None } => pragma_name.eq_ignore_ascii_case("data_version"),
        _ => false,
    }
}

fn migration_may(action: AuthAction<'_>) -> bool {
    match action {
        AuthAction::CreateTable { table_name }
        | AuthAction::DropTable { table_name }
        | AuthAction::AlterTable { table_name, .. }
        | AuthAction::DropVtable { table_name, .. }
        | AuthAction::CreateView { view_name: table_name }
        | AuthAction::DropView { view_name: table_name } => !is_reserved(table_name),
        AuthAction::CreateIndex { index_name: name, table_name }
        | AuthAction::DropIndex { index_name: name, table_name }
        | AuthAction::CreateTrigger { trigger_name: name, table_name }
        | AuthAction::DropTrigger { trigger_name: name, table_name } => !is_reserved(name) && !is_reserved(table_name),
        // SQLite writes its schema table for each of the above, and refuses a statement that names that table.
        AuthAction::Insert { table_name }
        | AuthAction::Delete { table_name }
        | AuthAction::Update { table_name, .. } => !is_reserved(table_name),
        AuthAction::Reindex { .. } => true,
        AuthAction::CreateVtable { module_name, table_name } => {
            module_name.eq_ignore_ascii_case("fts5") && !is_reserved(table_name)
        }
        // ALTER TABLE ADD COLUMN checks the existing rows with it.
        AuthAction::Pragma { pragma_name, .. } if pragma_name.eq_ignore_ascii_case("quick_check") => true,
        other => statement_may(other),
    }
}

/// Returns whether a statement may call the function. The denied functions are not compiled in or enabled today, but
/// another build of SQLite must not change what a plugin can reach. Functions that create or change JSON recurse as
/// deep as a path or a BLOB is nested, which can overflow the stack and end the process.
fn function_may(name: &str) -> bool {
    const DENIED: [&str; 6] = ["load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "fsdir"];
    let is_json = begins_with(name, "json") && !bounded_functions::is_bounded(name);
    !is_json && !DENIED.iter().any(|denied| name.eq_ignore_ascii_case(denied))
}

/// Returns whether the table is one that SQLite derives from JSON, with the same recursion.
fn is_json(table: &str) -> bool {
    const TABLES: [&str; 4] = ["json_each", "json_tree", "jsonb_each", "jsonb_tree"];
    TABLES.iter().any(|json| table.eq_ignore_ascii_case(json))
}
