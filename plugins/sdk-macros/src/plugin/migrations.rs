//! Finds the SQL files of a directory, in the order of their names, and embeds them.

use proc_macro2::TokenStream;
use quote::quote;
use std::path::PathBuf;
use syn::{Error, LitStr, Result};

/// One `Migration { … }` for each `*.sql` file below the crate's own directory.
pub(crate) fn embed(directory: &LitStr) -> Result<Vec<TokenStream>> {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let path = root.join(directory.value());
    let refuse = |message: String| Error::new(directory.span(), message);
    let entries = std::fs::read_dir(&path)
        .map_err(|error| refuse(format!("cannot read this directory beside the crate's Cargo.toml: {error}")))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(|error| refuse(error.to_string()))?.path();
        if file.extension().is_some_and(|extension| extension == "sql") {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(refuse("this directory has no `.sql` file: add one such as `0001_first.sql`".to_owned()));
    }
    files.sort();
    files
        .into_iter()
        .map(|file| match (file.file_stem().and_then(|stem| stem.to_str()), file.to_str()) {
            (Some(name), Some(path)) => {
                Ok(quote!(::wharf_sdk::__private::Migration { name: #name, sql: ::core::include_str!(#path) }))
            }
            _ => Err(refuse(format!("the name of `{}` is not Unicode", file.display()))),
        })
        .collect()
}
