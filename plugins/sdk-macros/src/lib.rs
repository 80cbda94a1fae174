//! The macros of the Wharf plugin SDK. Authors use them through `wharf_sdk`, which re-exports and documents them.
//!
//! This crate turns attributes into values of `wharf_sdk`'s own types (`Route`, `JobDeclaration`, `Plugin`) and reports an
//! author's mistakes at the tokens that are wrong. It never contains behaviour that could be an ordinary function of the
//! SDK. Its input is syntax, its output are tokens that name `::wharf_sdk`.

mod access;
mod documentation;
mod duration;
mod handler;
mod name;
mod plugin;
mod route;
mod row;
mod task;
mod topic;

use proc_macro::TokenStream;

macro_rules! method {
    ($name:ident, $method:literal) => {
        #[doc = concat!("Declares a function as the handler of `", $method, "` requests. See the guide of `wharf_sdk`.")]
        #[proc_macro_attribute]
        pub fn $name(attribute: TokenStream, item: TokenStream) -> TokenStream {
            expand(route::expand($method, attribute.into(), item.into()))
        }
    };
}
method!(get, "GET");
method!(post, "POST");
method!(put, "PUT");
method!(patch, "PATCH");
method!(delete, "DELETE");

/// Declares a struct or an enum as the payload of a topic: `#[topic("created", access = authenticated)]`. See
/// `wharf_sdk::events`.
#[proc_macro_attribute]
pub fn topic(attribute: TokenStream, item: TokenStream) -> TokenStream {
    expand(topic::expand(attribute.into(), item.into()))
}

/// Declares a function as the handler of the events of a topic: `#[subscribe("user.deleted")]`. See `wharf_sdk::events`.
#[proc_macro_attribute]
pub fn subscribe(attribute: TokenStream, item: TokenStream) -> TokenStream {
    expand(task::expand_subscription(attribute.into(), item.into()))
}

/// Declares a function as a job: `#[job(retries = 5)]`. See `wharf_sdk::jobs`.
#[proc_macro_attribute]
pub fn job(attribute: TokenStream, item: TokenStream) -> TokenStream {
    expand(task::expand_job(attribute.into(), item.into()))
}

/// Declares a function as a job that runs at certain times: `#[schedule("0 6 * * *", tz = "Europe/Berlin")]`. See
/// `wharf_sdk::jobs`.
#[proc_macro_attribute]
pub fn schedule(attribute: TokenStream, item: TokenStream) -> TokenStream {
    expand(task::expand_schedule(attribute.into(), item.into()))
}

/// Declares the plugin: its name, permissions, settings, migrations, routes, topics, subscriptions, jobs and schedules.
///
/// A migration that removes something names the oldest release that can run after it, in a comment before its first
/// statement: `-- wharf:oldest 0002_split_name`. Releases that have that migration can; older ones cannot. The host
/// applies the migration only if the live release can run after it, and never rolls back to a release that cannot.
/// Without such a comment every earlier release can, as after a new table or a new nullable column.
#[proc_macro]
pub fn plugin(input: TokenStream) -> TokenStream {
    expand(plugin::expand(input.into()))
}

/// Reads a struct from a row, each field from the column of its name.
#[proc_macro_derive(FromRow)]
pub fn derive_from_row(input: TokenStream) -> TokenStream {
    expand(row::expand(input.into()))
}

fn expand(result: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    result.unwrap_or_else(|error| error.to_compile_error()).into()
}
