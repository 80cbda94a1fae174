//! Checks that only the whole plugin allows: declarations that contradict each other. `plugin!` adds a test to every
//! plugin that runs them.

use crate::bindings::http_role::exports::wharf::plugin::http::Api;
use crate::host::stand_in::sql;
use crate::plugin::Plugin;
use rusqlite::Connection;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::path::Path;
use wharf_sql_text::{Dialect, canonical, check_migration, check_names};

/// Checks the declarations of a plugin.
///
/// # Panics
/// With the errors that the author has to fix: two types with one schema name, duplicate operations, paths or
/// permissions, and `Path` types that do not fit their path.
pub fn check(plugin: &Plugin) {
    api(plugin);
}

/// Returns the declarations of the plugin as JSON: `routes` (method, path, operation) and `schemas` by name. For tests
/// of the documents from which clients are generated.
///
/// ```
/// use wharf_sdk::prelude::*;
///
/// plugin! { name: "hello", summary: "Says hello", routes: [hello] }
///
/// #[get("/{name}", access = public)]
/// fn hello(Path(name): Path<String>) -> Text {
///     Text(name)
/// }
///
/// let api = wharf_sdk::testing::describe(&PLUGIN);
/// assert_eq!(api["routes"][0]["operation"]["operationId"], "hello-hello");
/// ```
///
/// # Panics
/// As [`check`].
pub fn describe(plugin: &Plugin) -> Value {
    let Api { routes, schemas } = api(plugin);
    let parsed = |text: &str| serde_json::from_str::<Value>(text).expect("the SDK generates JSON");
    let schemas: Map<String, Value> = schemas.iter().map(|(name, schema)| (name.clone(), parsed(schema))).collect();
    let routes = routes
        .iter()
        .map(|route| json!({ "method": route.method, "path": route.path, "operation": parsed(&route.operation) }));
    json!({ "routes": routes.collect::<Vec<_>>(), "schemas": schemas })
}

pub(super) fn api(plugin: &Plugin) -> Api {
    let mut errors = Vec::new();
    let mut names = HashSet::new();
    let mut paths = HashSet::new();
    for route in plugin.routes {
        let tag = route.tag.unwrap_or(plugin.name);
        if !names.insert((tag, route.name)) {
            errors.push(format!(
                "two handlers have the name `{}`, so two operations are `{tag}-{}`",
                route.name, route.name
            ));
        }
        let segments = route.path.split('/');
        let shape: Vec<&str> = segments.map(|segment| if segment.starts_with('{') { "{}" } else { segment }).collect();
        if !paths.insert((route.method, shape)) {
            errors.push(format!("`{}`: another handler has the route `{} {}`", route.name, route.method, route.path));
        }
    }
    let mut permissions = HashSet::new();
    for (name, _) in plugin.permissions {
        if !permissions.insert(name) {
            errors.push(format!("the permission `{name}` is declared twice"));
        }
    }
    match (plugin.api(), errors.is_empty()) {
        (Ok(api), true) => api,
        (api, _) => {
            errors.extend(api.err().unwrap_or_default());
            panic!("the plugin `{}` is not consistent:\n- {}", plugin.name, errors.join("\n- "));
        }
    }
}

/// Checks the migrations of a plugin.
///
/// # Panics
/// If a file of the migrations directory is not in this build (Cargo does not notice new files: touch `lib.rs`), if a
/// deploy would refuse a statement (`BEGIN`, `PRAGMA`, a parameter, …), or if the migrations do not run one after the other
/// on an empty SQLite database.
pub fn check_migrations(plugin: &Plugin, root: &str, directory: Option<&str>) {
    let Some(directory) = directory else { return };
    let path = Path::new(root).join(directory);
    let entries = std::fs::read_dir(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let files = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let mut names: Vec<String> = files
        .filter(|file| file.extension().is_some_and(|extension| extension == "sql"))
        .filter_map(|file| Some(file.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    let embedded: Vec<&str> = plugin.migrations.iter().map(|migration| migration.name).collect();
    assert_eq!(
        embedded,
        names,
        "the migrations in this build differ from the files in {}: touch lib.rs",
        path.display()
    );

    migrate(plugin);
}

/// Applies the migrations of a plugin to an empty SQLite database, as a deploy does.
///
/// # Panics
/// If a deploy would refuse one of them.
pub(super) fn migrate(plugin: &Plugin) -> Connection {
    if let Err((name, reason)) = check_names(plugin.migrations.iter().map(|migration| migration.name)) {
        panic!("migration `{name}`: {reason}");
    }
    let connection = sql::open();
    for migration in plugin.migrations {
        let text = canonical(migration.sql);
        let statements = check_migration(Dialect::Sqlite, &text);
        let statements =
            statements.unwrap_or_else(|refused| panic!("a deploy refuses migration `{}`, {refused}", migration.name));
        let transaction = connection.unchecked_transaction().expect("SQLite can begin a transaction");
        // A migration may rebuild a table by dropping it. The references to it are checked at the end.
        transaction.pragma_update(None, "defer_foreign_keys", true).expect("SQLite has this setting");
        for (number, statement) in (1..).zip(statements) {
            let result = transaction.execute_batch(statement);
            result.unwrap_or_else(|error| {
                panic!("migration `{}` fails on SQLite, statement {number}: {error}", migration.name)
            });
        }
        let result = transaction.commit();
        result.unwrap_or_else(|error| panic!("migration `{}` fails on SQLite: {error}", migration.name));
    }
    connection
}
