//! The contract of the HTTP interface, resource by resource, as `reference-api.md` has it.

mod body;
mod cors;
mod docs;
mod health;
mod items;
mod login;
mod paths;
mod private;
mod recovery;
mod sessions;
mod static_files;
mod token;
mod users;
mod utils;
