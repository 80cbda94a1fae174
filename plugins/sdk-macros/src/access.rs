//! The callers that a route or a topic admits: `public`, `authenticated`, `superuser`, `permission("…")`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::ParseStream;
use syn::{Error, Ident, LitStr, Result, parenthesized};

const LEVELS: &str = "access is `public`, `authenticated`, `superuser` or `permission(\"…\")`";

/// Returns the value for `wharf_sdk`, and whether everybody is admitted.
pub(crate) fn access_level(input: ParseStream<'_>) -> Result<(TokenStream, bool)> {
    let level: Ident = input.parse().map_err(|error| Error::new(error.span(), LEVELS))?;
    let tokens = match level.to_string().as_str() {
        "public" => quote!(::wharf_sdk::__private::Access::Public),
        "authenticated" => quote!(::wharf_sdk::__private::Access::Authenticated),
        "superuser" => quote!(::wharf_sdk::__private::Access::Superuser),
        "permission" => {
            if !input.peek(syn::token::Paren) {
                return Err(Error::new(level.span(), "name the permission: `permission(\"read-all\")`"));
            }
            let content;
            parenthesized!(content in input);
            let name: LitStr = content.parse()?;
            quote!(::wharf_sdk::__private::Access::Permission(#name))
        }
        other => return Err(Error::new(level.span(), format!("unknown access `{other}`: {LEVELS}"))),
    };
    Ok((tokens, level == "public"))
}
