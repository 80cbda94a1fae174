//! Holds `.github/SECURITY.md` against the tests, and the feature index of `host/ARCHITECTURE.md` against the files: each
//! test and each file that a table names exists.

use std::collections::BTreeSet;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::Item;

use super::files;
use crate::support::component::workspace;

/// The crates whose tests the page may name: the directory, and the names in front of its own.
const TESTED: &[(&str, &[&str])] = &[("tests", &[]), ("host/src", &[]), ("tests/fuzz/targets", &["fuzz"])];

/// Returns the names of all modules and functions below a directory, each as `module::module::name`.
fn names(directory: &Path, before: &[&str]) -> BTreeSet<String> {
    let mut found = Vec::new();
    files(directory, &mut found);
    let mut names = BTreeSet::new();
    for file in found {
        let below = file.strip_prefix(directory).unwrap().with_extension("");
        let module = before.iter().copied().chain(below.iter().map(|part| part.to_str().unwrap()));
        let module = module.collect::<Vec<_>>().join("::");
        let items = syn::parse_file(&std::fs::read_to_string(&file).unwrap()).unwrap().items;
        add(&items, &module, &mut names);
    }
    names
}

fn add(items: &[Item], module: &str, names: &mut BTreeSet<String>) {
    names.insert(module.to_owned());
    for item in items {
        match item {
            Item::Fn(function) => {
                names.insert(format!("{module}::{}", function.sig.ident));
            }
            Item::Mod(inner) => {
                // The unit tests of a file are named by the file.
                let name = inner.ident.to_string();
                let below = if name == "tests" { module.to_owned() } else { format!("{module}::{name}") };
                if let Some((_, items)) = &inner.content {
                    add(items, &below, names);
                }
            }
            Item::Macro(invoked) => {
                let functions = functions(invoked.mac.tokens.clone());
                names.extend(functions.into_iter().map(|name| format!("{module}::{name}")));
            }
            _ => {}
        }
    }
}

/// Returns the functions in the tokens of a macro, such as `proptest!`.
fn functions(tokens: TokenStream) -> Vec<String> {
    let mut found = Vec::new();
    let mut after_fn = false;
    for token in tokens {
        if let (true, TokenTree::Ident(name)) = (after_fn, &token) {
            found.push(name.to_string());
        }
        after_fn = matches!(&token, TokenTree::Ident(word) if word == "fn");
    }
    found
}

/// Returns the names in backticks in the last column of the tables of a page.
fn claimed(page: &str) -> Vec<&str> {
    let rows = page.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.filter_map(|row| row.trim_end_matches(['|', ' ']).rsplit('|').next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect()
}

/// Returns whether a name is among `names`. A claim that ends in `…` is a prefix.
fn exists(claim: &str, names: &BTreeSet<String>) -> bool {
    match claim.strip_suffix('…') {
        Some(beginning) => names.iter().any(|name| name.starts_with(beginning)),
        None => names.contains(claim),
    }
}

#[test]
fn every_test_that_the_security_page_names_exists() {
    let mut known = BTreeSet::new();
    for (directory, before) in TESTED {
        known.extend(names(&workspace().join(directory), before));
    }
    let page = std::fs::read_to_string(workspace().join(".github/SECURITY.md")).unwrap();
    let claims = claimed(&page);
    assert!(claims.len() > 20, "the tables were not found");
    let missing: BTreeSet<_> = claims.into_iter().filter(|claim| !exists(claim, &known)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

#[test]
fn a_claim_is_a_module_a_test_or_the_beginning_of_one() {
    let text =
        "fn alone() {} mod tests { fn unit() {} } proptest! { fn property(x in 0..1) {} } mod inner { fn f() {} }";
    let mut names = BTreeSet::new();
    add(&syn::parse_file(text).unwrap().items, "part::file", &mut names);
    for claim in ["part::file", "part::file::alone", "part::file::unit", "part::file::prop…", "part::file::inner::f"]
    {
        assert!(exists(claim, &names), "{claim}");
    }
    assert!(!exists("part::file::gone", &names) && !exists("part::file::gone…", &names) && !exists("part", &names));
    assert_eq!(claimed("| promise | shown by |\n|---|---|\n| `a` holds | `b::c`, `d` (unit) |\n`e`"), ["b::c", "d"]);
}

/// The features without a file of their own.
const SCATTERED: &[&str] = &["access of every route (matrix)"];

/// Returns the rows of the feature index as [feature, files, tests], as their cells are written.
fn index_rows(page: &str) -> Vec<[&str; 3]> {
    let index = page.split("\n## Feature index\n").nth(1).unwrap_or_default();
    let index = index.split("\n## ").next().unwrap_or_default();
    let rows = index.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| **")).skip(1);
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        cells.try_into().unwrap_or_else(|_| panic!("not three cells: {row}"))
    })
    .collect()
}

/// Returns the files that a row of the index names: those of the host below `host/src`, those of tests below `tests`, and
/// those with unit tests ("unit in …") below `host/src`.
fn indexed_files([feature, files, tests]: [&str; 3]) -> Vec<String> {
    let mut found: Vec<_> = files.split('`').skip(1).step_by(2).map(|file| format!("host/src/{file}")).collect();
    assert!(!found.is_empty() || SCATTERED.contains(&feature), "{feature} has no file");
    let mut below = "tests";
    let parts: Vec<_> = tests.split('`').collect();
    for pair in parts.chunks(2) {
        below = match pair[0].trim() {
            text if text.ends_with("unit in") => "host/src",
            // The second one of "unit in a.rs and b.rs".
            "and" => below,
            _ => "tests",
        };
        found.extend(pair.get(1).map(|file| format!("{below}/{file}")));
    }
    found
}

/// Returns whether a file of the host has unit tests.
fn has_unit_tests(file: &str) -> bool {
    let path = workspace().join(file);
    std::fs::read_to_string(&path).is_ok_and(|text| text.contains("mod tests"))
}

#[test]
fn every_file_that_the_feature_index_names_exists() {
    let page = std::fs::read_to_string(workspace().join("host/ARCHITECTURE.md")).unwrap();
    let rows = index_rows(&page);
    assert!(rows.len() > 100, "the index was not found");
    for row @ [feature, _, tests] in rows {
        let files = indexed_files(row);
        let missing: Vec<_> = files.iter().filter(|path| !workspace().join(path).is_file()).collect();
        assert!(missing.is_empty(), "{feature}: no such files: {missing:#?}");
        let is_unit = tests == "unit" || tests.starts_with("unit,");
        let has_some = files.iter().any(|file| file.starts_with("host/src/") && has_unit_tests(file));
        assert!(!is_unit || has_some, "{feature}: no unit tests");
    }
}

#[test]
fn a_row_of_the_index_names_files_of_the_host_and_of_tests() {
    let page = "\n## Feature index\n\n| feature | file | test |\n|---|---|---|\n| **Part** | | |\n\
                | one | `a.rs`, `b.rs` | unit, `c.rs` |\n| two | `g.rs` | unit in `d.rs` and `e.rs`, `f.rs` |\n\
                ## Next\n| h | `h.rs` | |";
    let files: Vec<_> = index_rows(page).into_iter().map(indexed_files).collect();
    let one = ["host/src/a.rs", "host/src/b.rs", "tests/c.rs"];
    let two = ["host/src/g.rs", "host/src/d.rs", "host/src/e.rs", "tests/f.rs"];
    assert_eq!(files, [one.to_vec(), two.to_vec()]);
}
