//! The macros of the Wharf plugin SDK. Authors use them through `wharf_sdk`, which re-exports and documents them.
//!
//! This crate turns attributes into values of `wharf_sdk`'s own types (`Route`, `Plugin`) and reports an author's
//! mistakes where they were made; it never holds behaviour that could be an ordinary function of the SDK.
//! Syntax comes in, tokens that name `::wharf_sdk` go out.

mod plugin;
mod route;
mod row;

use proc_macro::TokenStream;

macro_rules! method {
    ($name:ident, $method:literal) => {
        #[doc = concat!("Makes a function the handler of `", $method, "` requests: see `wharf_sdk`'s guide.")]
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

/// Declares the plugin: its name, what it asks of the operator, its migrations and its routes.
///
/// A migration that takes something away says in a comment in front of its first statement which releases can run after
/// it, `-- wharf:oldest 0002_split_name`: those that have that migration. The host applies it only when the live
/// release is one of them, and does not go back to one that is not. Without such a comment every earlier release can,
/// as when a table or a nullable column is added.
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
