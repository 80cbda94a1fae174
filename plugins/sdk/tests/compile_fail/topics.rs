use wharf_sdk::prelude::*;

#[topic("Created")]
struct BadName;

#[topic("created", acess = public)]
struct UnknownKey;

#[topic("created", access = everybody)]
struct UnknownAccess;

#[topic("created")]
struct Generic<T>(T);

#[topic("created")]
fn function() {}

fn main() {}
