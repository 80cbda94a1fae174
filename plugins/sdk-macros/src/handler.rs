//! The attributes that make a function a handler. Each adds a type of the function's name, so a function has one of them.

use syn::spanned::Spanned;
use syn::{Error, ItemFn, Result};

const ATTRIBUTES: [&str; 8] = ["get", "post", "put", "patch", "delete", "subscribe", "job", "schedule"];

/// Refuses a function that has another one of the attributes.
pub(crate) fn check_is_one(function: &ItemFn) -> Result<()> {
    let is_handler = |attribute: &&syn::Attribute| ATTRIBUTES.iter().any(|name| attribute.path().is_ident(name));
    match function.attrs.iter().find(is_handler) {
        Some(other) => Err(Error::new(
            other.path().span(),
            "a function is one handler: let another function call it, and declare that",
        )),
        None => Ok(()),
    }
}
