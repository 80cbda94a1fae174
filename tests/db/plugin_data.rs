//! The plugins' databases, on SQLite and on PostgreSQL.

mod delete;
mod isolation;
mod limits;
mod migrations;
mod transactions;
mod values;
mod world;
