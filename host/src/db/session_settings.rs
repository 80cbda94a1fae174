//! The settings of a session on PostgreSQL, such as its search path and its time limits. Owns the way in which they are
//! set: by a statement after the connection opened. A pooler such as PgBouncer refuses or ignores the startup parameter
//! `options`, and the host would then work in another schema and without limits.

use std::sync::Arc;

use sqlx::PgConnection;
use sqlx::postgres::PgPoolOptions;

/// A setting and its value.
pub(super) type Setting = (&'static str, String);

/// Makes a pool set the settings of each connection that it opens.
pub(super) fn in_pool(options: PgPoolOptions, settings: impl Into<Arc<[Setting]>>) -> PgPoolOptions {
    let settings: Arc<[Setting]> = settings.into();
    options.after_connect(move |connection, _| {
        let settings = Arc::clone(&settings);
        Box::pin(async move { apply(connection, &settings).await })
    })
}

/// Sets the settings of a session.
///
/// # Errors
/// The server does not respond, or refuses a setting.
pub(super) async fn apply(connection: &mut PgConnection, settings: &[Setting]) -> sqlx::Result<()> {
    const SQL: &str = "SELECT set_config(name, value, false) FROM unnest($1::text[], $2::text[]) AS s (name, value)";
    let (names, values): (Vec<String>, Vec<String>) =
        settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).unzip();
    // Not kept as a prepared statement: it runs once.
    sqlx::query(SQL).bind(names).bind(values).persistent(false).execute(connection).await.map(drop)
}
