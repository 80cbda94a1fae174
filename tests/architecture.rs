//! What may know what: the edges between the parts of `host/src`, read from its source.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::support::component::workspace;

/// From the top down. A part uses those below its own line, and those beside it on `services`' line.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["app", "shutdown", "telemetry"],
    &["http"],
    &["plugin"],
    &["capability"],
    &["auth", "cache", "egress", "email", "route"],
    &["db"],
    &["config"],
    &["error", "clock", "id", "address", "permits", "public_key"],
];

/// Edges that the order does not allow, each with its reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// Dependencies, and the only parts or files that name them.
const OWNERS: &[(&[&str], &[&str])] = &[
    (&["axum", "tower_http"], &["http"]),
    // The server's side of the wire, the client's, and what `wasi:http` is made of.
    (&["hyper", "hyper_util", "http_body_util"], &["http", "egress", "capability/http/wasi.rs"]),
    (&["tokio_rustls", "rustls_native_certs", "ipnet"], &["egress"]),
    (&["wasmtime", "wasmtime_wasi", "wasmtime_wasi_http", "wasmtime_wasi_io"], &["plugin", "capability"]),
    (&["sqlx", "rusqlite", "libsqlite3_sys"], &["db"]),
    (&["lettre", "minijinja"], &["email"]),
    (&["argon2", "jsonwebtoken"], &["auth"]),
    (&["ed25519_dalek"], &["auth", "plugin", "public_key"]),
    (&["moka"], &["cache", "auth", "plugin"]),
    (&["rustix"], &["plugin", "db", "app/open_files.rs", "capability/cpu_scheduler.rs"]),
    (&["clap", "ureq"], &["cli"]),
];

/// Names that say nothing of what is inside.
const FORBIDDEN: &[&str] =
    &["mod", "util", "utils_mod", "helper", "helpers", "common", "misc", "types", "manager", "base", "core"];

struct Source {
    file: PathBuf,
    part: String,
    /// Without comments and without the tests inside.
    code: String,
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !["target", "templates"].contains(&path.file_name().unwrap().to_str().unwrap()) {
                files(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn host() -> Vec<Source> {
    let root = workspace().join("host/src");
    let mut found = Vec::new();
    files(&root, &mut found);
    found
        .into_iter()
        .filter(|file| file.file_stem().unwrap() != "tests" && file.file_stem().unwrap() != "lib")
        .map(|file| {
            let below = file.strip_prefix(&root).unwrap();
            let part = Path::new(below.iter().next().unwrap()).file_stem().unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let code = code.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
            Source { file: below.to_owned(), part, code }
        })
        .collect()
}

/// The words that stand right after `prefix`, also in braces: `crate::{a, b::c}`.
fn words_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut words = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => {
                words.insert(word(rest));
            }
            Some(list) => {
                let mut depth = 0;
                let mut begins = true;
                for (index, c) in list.char_indices() {
                    match c {
                        '}' if depth == 0 => break,
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 0 => begins = true,
                        c if begins && depth == 0 && (c.is_alphabetic() || c == '_') => {
                            words.insert(word(&list[index..]));
                            begins = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    words
}

fn layer(part: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&part))
}

#[test]
fn lower_parts_never_know_upper_ones() {
    let mut wrong = BTreeSet::new();
    let mut used = BTreeSet::new();
    for source in host() {
        let from = layer(&source.part).unwrap_or_else(|| panic!("{} belongs to no layer", source.file.display()));
        // The program is another crate than its library.
        let root = if source.part == "main" { "wharf::" } else { "crate::" };
        for part in words_after(&source.code, root) {
            let Some(to) = layer(&part) else { continue };
            if to >= from || part == source.part {
                continue;
            }
            match EXCEPTIONS.iter().find(|(above, below, _)| *above == source.part && *below == part) {
                Some(exception) => {
                    used.insert(exception);
                }
                None => {
                    wrong.insert(format!("{} uses {part}", source.file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(used.len(), EXCEPTIONS.len(), "an exception is not needed any more");
}

#[test]
fn dependencies_are_named_only_by_the_part_that_owns_them() {
    let mut wrong = BTreeSet::new();
    for source in host() {
        for (crates, owners) in OWNERS {
            for name in *crates {
                let named = source.code.match_indices(&format!("{name}::")).any(|(at, _)| {
                    !source.code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
                });
                let owns = |owner: &&str| **owner == source.part || source.file == Path::new(owner);
                if named && !owners.iter().any(owns) {
                    wrong.insert(format!("{} names {name}, which is for {}", source.file.display(), owners.join(", ")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn modules_have_telling_names() {
    let mut found = Vec::new();
    for directory in ["host", "plugins", "tests"] {
        files(&workspace().join(directory), &mut found);
    }
    assert!(found.len() > 100, "the sources were not found");
    let vague: Vec<_> =
        found.iter().filter(|file| FORBIDDEN.contains(&file.file_stem().unwrap().to_str().unwrap())).collect();
    assert!(vague.is_empty(), "{vague:#?}");
}

/// Compares the table behind `<!-- generated: {name} -->` in `host/ARCHITECTURE.md` with the code, row by row. Rewrites it
/// when `WHARF_UPDATE_DOCS` is set.
fn check_table(name: &str, head: &str, rows: impl Iterator<Item = String>) {
    // Two tests rewrite the same file.
    static FILE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = FILE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let file = workspace().join("host/ARCHITECTURE.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let begin = format!("<!-- generated: {name} -->\n\n");
    let at = text.find(&begin).unwrap_or_else(|| panic!("{} has no marker for {name}", file.display())) + begin.len();
    let documented: String = text[at..].split_inclusive('\n').take_while(|line| line.starts_with('|')).collect();
    let rule = "|---".repeat(head.matches('|').count() - 1);
    let table: String = [head.to_owned(), format!("{rule}|")].into_iter().chain(rows).map(|row| row + "\n").collect();
    if std::env::var_os("WHARF_UPDATE_DOCS").is_some() {
        let end = at + documented.len();
        std::fs::write(&file, format!("{}{table}{}", &text[..at], &text[end..])).unwrap();
        return;
    }
    let differences: Vec<_> = std::iter::zip(table.lines(), documented.lines().chain(std::iter::repeat("")))
        .filter(|(right, found)| right != found)
        .collect();
    assert!(
        table == documented,
        "the table of {name} in host/ARCHITECTURE.md is out of date; WHARF_UPDATE_DOCS=1 rewrites it. \
         (Expected, found): {differences:#?}\n{table}"
    );
}

#[test]
fn the_table_of_error_codes_matches_the_code() {
    let row = |declared: &wharf::error::code::Declaration| {
        let statuses: Vec<String> = declared.statuses.iter().map(ToString::to_string).collect();
        format!("| `{}` | {} | {} |", declared.code, statuses.join(", "), declared.meaning())
    };
    check_table("error codes", "| code | status | meaning |", wharf::error::code::ALL.iter().map(row));
}

#[test]
fn the_table_of_status_codes_matches_the_code() {
    let row = |rule: &wharf::http::problem::StatusRule| {
        format!("| `{}` | {} | {} |", rule.kind, rule.status.as_u16(), rule.when)
    };
    check_table("status codes", "| kind | status | when |", wharf::http::problem::STATUSES.iter().map(row));
}
