//! The HTTP contract, as a client sees it.

mod body;
mod items;
mod login;
mod users;
