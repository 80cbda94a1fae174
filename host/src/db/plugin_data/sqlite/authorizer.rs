//! What SQLite lets a plugin's statement do, asked by SQLite itself while it compiles the statement. Owns the border of
//! a plugin's file: whatever the text of a statement looks like, only what is allowed here is compiled.

use std::sync::Arc;

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use super::control::{Control, Mode};
use super::function;
use crate::db::plugin_data::statement::RESERVED;

/// The callback for [`rusqlite::Connection::authorizer`].
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
        // FTS5 asks itself whether the file changed.
        AuthAction::Pragma { pragma_name, pragma_value: None } => pragma_name.eq_ignore_ascii_case("data_version"),
        _ => false,
    }
}

fn migration_may(action: AuthAction<'_>) -> bool {
    match action {
        AuthAction::CreateTable { table_name }
        | AuthAction::DropTable { table_name }
        | AuthAction::AlterTable { table_name, .. }
        | AuthAction::CreateIndex { table_name, .. }
        | AuthAction::DropIndex { table_name, .. }
        | AuthAction::CreateTrigger { table_name, .. }
        | AuthAction::DropTrigger { table_name, .. }
        | AuthAction::DropVtable { table_name, .. } => !is_reserved(table_name),
        // SQLite writes its schema table for each of the above; it refuses a statement that names it.
        AuthAction::Insert { table_name }
        | AuthAction::Delete { table_name }
        | AuthAction::Update { table_name, .. } => !is_reserved(table_name),
        AuthAction::CreateView { .. } | AuthAction::DropView { .. } | AuthAction::Reindex { .. } => true,
        AuthAction::CreateVtable { module_name, table_name } => {
            module_name.eq_ignore_ascii_case("fts5") && !is_reserved(table_name)
        }
        // ALTER TABLE ADD COLUMN checks the rows there are.
        AuthAction::Pragma { pragma_name, .. } if pragma_name.eq_ignore_ascii_case("quick_check") => true,
        other => statement_may(other),
    }
}

/// The first are not compiled in or enabled today; another build of SQLite must not change what a plugin can reach. What
/// makes and changes JSON recurses as deep as a path or a BLOB says, and then the stack is at its end and the process too.
fn function_may(name: &str) -> bool {
    const DENIED: [&str; 6] = ["load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "fsdir"];
    let is_json = begins_with(name, "json") && !function::is_bounded(name);
    !is_json && !DENIED.iter().any(|denied| name.eq_ignore_ascii_case(denied))
}

/// Tables that SQLite makes of a JSON, by the same recursion.
fn is_json(table: &str) -> bool {
    const TABLES: [&str; 4] = ["json_each", "json_tree", "jsonb_each", "jsonb_tree"];
    TABLES.iter().any(|json| table.eq_ignore_ascii_case(json))
}
