//! Embeds the SQL files of a directory, in the order of their names.

use proc_macro2::TokenStream;
use quote::quote;
use std::path::PathBuf;
use syn::{Error, LitStr, Result};

/// Returns one `Migration { … }` for each `*.sql` file. The directory is relative to the crate's own.
pub(crate) fn embed(directory: &LitStr) -> Result<Vec<TokenStream>> {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let path = root.join(directory.value());
    let refuse = |message: String| Error::new(directory.span(), message);
    let entries = std::fs::read_dir(&path).map_err(|error| {
        refuse(format!("cannot read this directory, which is relative to the crate's Cargo.toml: {error}"))
    })?;
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
    let mut earlier: Vec<String> = Vec::new();
    let mut embedded = Vec::new();
    for file in files {
        let (Some(name), Some(path)) = (file.file_stem().and_then(|stem| stem.to_str()), file.to_str()) else {
            return Err(refuse(format!("the name of `{}` is not Unicode", file.display())));
        };
        let sql = std::fs::read_to_string(&file).map_err(|error| refuse(format!("`{path}`: {error}")))?;
        let oldest = match oldest(&sql) {
            None => quote!(::core::option::Option::None),
            Some(oldest) if earlier.iter().any(|name| name == oldest) => {
                quote!(::core::option::Option::Some(#oldest))
            }
            Some(oldest) => {
                return Err(refuse(format!("`{name}.sql` has `{OLDEST} {oldest}`, which is not an earlier migration")));
            }
        };
        embedded.push(quote!(::wharf_sdk::__private::Migration {
            name: #name,
            sql: ::core::include_str!(#path),
            oldest: #oldest,
        }));
        earlier.push(name.to_owned());
    }
    Ok(embedded)
}

/// Marks the comment, before the first statement, that names the oldest migration whose release can run after this one.
const OLDEST: &str = "-- wharf:oldest";

fn oldest(sql: &str) -> Option<&str> {
    // A byte order mark is no part of the text.
    let sql = sql.strip_prefix('\u{feff}').unwrap_or(sql);
    let comments = sql.lines().map(str::trim).take_while(|line| line.is_empty() || line.starts_with("--"));
    comments.filter_map(|line| line.strip_prefix(OLDEST)).map(str::trim).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_comments_before_the_first_statement_count() {
        assert_eq!(
            oldest("-- Drops what 0002 replaced.\n-- wharf:oldest 0002_split\nDROP TABLE a;"),
            Some("0002_split")
        );
        assert_eq!(oldest("DROP TABLE a;\n-- wharf:oldest 0002_split"), None);
        assert_eq!(oldest("\u{feff}-- wharf:oldest 0002_split\r\nDROP TABLE a;"), Some("0002_split"));
        assert_eq!(oldest(""), None);
    }
}
