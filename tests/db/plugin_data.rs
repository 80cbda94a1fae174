//! The plugins' databases, on SQLite and on PostgreSQL.

mod delete;
mod dialect_differences;
mod fixture;
mod isolation;
mod migrations;
mod outbox;
mod postgres;
mod postgres_allowlist;
mod quick_statements;
mod sqlite;
mod sqlite_resource_limits;
mod statement_limits;
mod transactions;
mod values;
