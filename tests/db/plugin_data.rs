//! The plugins' databases, on SQLite and on PostgreSQL.

mod delete;
mod edges;
mod isolation;
mod limits;
mod migrations;
mod postgres;
mod sqlite;
mod sqlite_bounds;
mod transactions;
mod values;
mod world;
