//! Checks that only the whole plugin allows: declarations that contradict each other. `plugin!` adds a test to every
//! plugin that runs them.

use super::validation::declared;
use crate::bindings::http_role::exports::wharf::plugin::http::Api;
use crate::host::stand_in::messages::check_payload;
use crate::host::stand_in::sql;
use crate::plugin::Plugin;
use rusqlite::Connection;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::path::Path;
use wharf_schedule_time::ScheduleTime;
use wharf_sql_text::{Dialect, canonical, check_migration, check_names};

/// Checks the declarations of a plugin.
///
/// # Panics
/// With the errors that the author has to fix: two types with one schema name, duplicate operations, paths,
/// permissions, topics, subscriptions or jobs, subscriptions to own topics that do not exist, schedules whose cron expression,
/// time zone or payload is not valid, and `Path` types that do not fit their path.
pub fn check(plugin: &Plugin) {
    api(plugin);
}

/// Returns the declarations of the plugin as JSON: `routes` (method, path, operation) and `schemas` by name, `topics` and
/// `jobs` (name, schema), `subscriptions` (topics) and `schedules` (name, cron, time zone). For tests of the documents from
/// which clients are generated.
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
    let topics = plugin.wit_topics();
    let topics = topics.iter().map(|topic| json!({ "name": topic.name, "schema": parsed(&topic.schema) }));
    let jobs = plugin.all_jobs().map(|job| json!({ "name": job.name, "schema": parsed(&(job.schema)()) }));
    let subscriptions = plugin.subscriptions.iter().map(|subscription| subscription.topic);
    let schedules = plugin
        .schedules
        .iter()
        .map(|schedule| json!({ "name": schedule.name, "cron": schedule.cron, "time_zone": schedule.time_zone }));
    json!({
        "routes": routes.collect::<Vec<_>>(),
        "schemas": schemas,
        "topics": topics.collect::<Vec<_>>(),
        "jobs": jobs.collect::<Vec<_>>(),
        "subscriptions": subscriptions.collect::<Vec<_>>(),
        "schedules": schedules.collect::<Vec<_>>(),
    })
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
    check_messages(plugin, &mut errors);
    match (plugin.api(), errors.is_empty()) {
        (Ok(api), true) => api,
        (api, _) => {
            errors.extend(api.err().unwrap_or_default());
            panic!("the plugin `{}` is not consistent:\n- {}", plugin.name, errors.join("\n- "));
        }
    }
}

/// Reports topics, subscriptions and jobs that are declared twice, subscriptions to topics that the plugin itself does not
/// declare, and schedules without valid times or whose payload does not fit the job.
fn check_messages(plugin: &Plugin, errors: &mut Vec<String>) {
    let mut seen = HashSet::new();
    let topics = plugin.topics.iter().map(|topic| ("topic", topic.name));
    let subscriptions = plugin.subscriptions.iter().map(|subscription| ("subscription to", subscription.topic));
    let jobs = plugin.all_jobs().map(|job| ("job", job.name));
    for (kind, name) in topics.chain(subscriptions).chain(jobs) {
        if !seen.insert((kind, name)) {
            errors.push(format!("the {kind} `{name}` is declared twice"));
        }
    }
    for subscription in plugin.subscriptions {
        let own = subscription.topic.strip_prefix(plugin.name).and_then(|rest| rest.strip_prefix('.'));
        if own.is_some_and(|own| !plugin.topics.iter().any(|topic| topic.name == own)) {
            errors
                .push(format!("`topics: […]` does not list `{}`, to which the plugin subscribes", subscription.topic));
        }
    }
    let jobs = declared(plugin).jobs;
    for schedule in plugin.schedules {
        if let Err(error) = ScheduleTime::parse(schedule.cron, schedule.time_zone) {
            errors.push(format!("the schedule `{}`: {error}", schedule.name));
        }
        let validator = jobs.get(schedule.job.name);
        if let Some(Err(reason)) = validator.map(|validator| check_payload(validator, &(schedule.payload)())) {
            errors.push(format!("the schedule `{}`: {reason}", schedule.name));
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
