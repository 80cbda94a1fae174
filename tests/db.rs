//! The databases: the host's own and the plugins'. The same cases run on SQLite and on PostgreSQL.

mod open;
mod pgbouncer;
mod plugin_data;
mod task_plans;
mod task_signals;
mod tasks;
