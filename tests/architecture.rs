//! Rules about the source itself: which part may use which, which part names which crate, which files may form a
//! circle, how files are named, and how transactions are written. `imports` reads the source, `circles` searches the
//! graph, `transactions` looks for writers that would wait for themselves, `host_topics` compares lists, and `claims` and
//! `language` read the texts.

mod circles;
mod claims;
mod generated_tables;
mod host_topics;
mod imports;
mod language;
mod transactions;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use self::circles::circles;
use self::imports::{Edges, Imports};
use crate::support::component::workspace;

/// From the top down. A part uses those on the lines below its own, and those on its own line.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["app", "shutdown"],
    &["http"],
    &["plugin"],
    &["capability"],
    &["audit", "auth", "cache", "egress", "email", "route", "telemetry"],
    &["db"],
    &["config"],
    &[
        "error",
        "clock",
        "id",
        "address",
        "network",
        "permission",
        "initiator",
        "message",
        "outage",
        "permits",
        "public_key",
        "signals",
    ],
];

/// Edges that the order does not allow, each with its reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// Dependencies, and the only parts or files that name them.
const OWNERS: &[(&[&str], &[&str])] = &[
    (&["axum"], &["http"]),
    // The server's side of the wire, the client's side, and the types of `wasi:http`.
    (&["hyper", "hyper_util", "http_body_util"], &["http", "egress", "capability/http/wasi.rs"]),
    (&["tokio_rustls", "rustls_native_certs"], &["egress"]),
    (&["ipnet"], &["egress", "network"]),
    (&["wasmtime", "wasmtime_wasi", "wasmtime_wasi_http", "wasmtime_wasi_io"], &["plugin", "capability"]),
    (&["sqlx", "rusqlite"], &["db"]),
    (&["lettre", "minijinja"], &["email"]),
    (&["argon2", "bcrypt", "pbkdf2", "scrypt", "zxcvbn", "governor", "jsonwebtoken"], &["auth"]),
    (&["openidconnect", "chrono"], &["auth"]),
    (&["ed25519_dalek"], &["audit", "auth", "plugin", "public_key"]),
    (&["moka"], &["cache", "auth", "plugin"]),
    (&["rustix"], &["plugin", "db", "clock", "app/open_files.rs", "capability/cpu_scheduler.rs"]),
    (&["wharf_schedule_time"], &["plugin"]),
    (&["landlock", "libc", "seccompiler"], &["plugin/compile/confinement.rs"]),
    (&["clap", "ureq"], &["cli"]),
];

/// Circles between files that are allowed: the edge that closes one or more of them, and the note that explains why.
const ALLOWED_CIRCLES: &[Circle] = &[
    store_data("capability/auth.rs", "capability.rs"),
    store_data("capability/cache.rs", "capability.rs"),
    store_data("capability/config.rs", "capability.rs"),
    store_data("capability/email.rs", "capability.rs"),
    store_data("capability/events.rs", "capability.rs"),
    store_data("capability/grant.rs", "capability.rs"),
    store_data("capability/guest.rs", "capability/http/wasi.rs"),
    store_data("capability/http.rs", "capability.rs"),
    store_data("capability/jobs.rs", "capability.rs"),
    store_data("capability/log.rs", "capability.rs"),
    store_data("capability/sql.rs", "capability.rs"),
    store_data("capability/users.rs", "capability.rs"),
    store_data("capability/web.rs", "capability.rs"),
];

/// An edge of the circle between the data of an instance and the capabilities whose state it holds.
const fn store_data(from: &'static str, to: &'static str) -> Circle {
    Circle { source: "host/src", from, to, note: "host/decisions/0008-one-store-type.md" }
}

/// One entry of [`ALLOWED_CIRCLES`].
struct Circle {
    /// The crate's directory.
    source: &'static str,
    from: &'static str,
    to: &'static str,
    /// A file of the repository that says why the two files know each other.
    note: &'static str,
}

/// The crates whose files form no circle: the directory and the root file.
const CRATES: &[(&str, &str)] = &[("host/src", "lib.rs"), ("plugins/sdk/src", "lib.rs")];

/// Names that do not say what is inside.
const VAGUE: &[&str] =
    &["mod", "util", "utils_mod", "helper", "helpers", "common", "misc", "types", "manager", "base", "core"];

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

/// The text of each file of a crate, by its path below `src`.
fn sources(directory: &str) -> BTreeMap<String, String> {
    let root = workspace().join(directory);
    let mut found = Vec::new();
    files(&root, &mut found);
    assert!(found.len() > 10, "the sources of {directory} were not found");
    let name = |file: &Path| file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    found.iter().map(|file| (name(file), std::fs::read_to_string(file).unwrap())).collect()
}

fn host() -> Imports {
    imports::read("lib.rs", &sources("host/src"))
}

/// The part of the host that a file belongs to: its directory below `src`, or its own name.
fn part(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

fn layer(part: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&part))
}

#[test]
fn lower_parts_never_use_upper_ones() {
    let mut wrong = BTreeSet::new();
    let mut used = BTreeSet::new();
    for file in sources("host/src").keys().filter(|file| *file != "lib.rs") {
        assert!(layer(part(file)).is_some(), "{file} belongs to no layer");
    }
    for ((from, to), names) in host().edges {
        let (above, below) = (part(&from), part(&to));
        if above == below || layer(below) >= layer(above) {
            continue;
        }
        match EXCEPTIONS.iter().find(|exception| (exception.0, exception.1) == (above, below)) {
            Some(exception) => {
                used.insert(exception);
            }
            None => {
                wrong.insert(format!("{from} uses {names:?} of {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(used.len(), EXCEPTIONS.len(), "an exception is not needed any more");
}

#[test]
fn dependencies_are_named_only_by_the_part_that_owns_them() {
    let mut wrong = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for (file, external) in host().external {
        for (crates, owners) in OWNERS {
            for name in crates.iter().filter(|name| external.contains(**name)) {
                seen.insert(*name);
                if !owners.iter().any(|owner| *owner == part(&file) || *owner == file) {
                    wrong.insert(format!("{file} names {name}, which is for {}", owners.join(", ")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let unused: Vec<_> = OWNERS.iter().flat_map(|(crates, _)| *crates).filter(|name| !seen.contains(*name)).collect();
    assert!(unused.is_empty(), "nothing names {unused:?}");
}

#[test]
fn files_form_no_circle() {
    for (directory, root) in CRATES {
        let mut edges = imports::read(root, &sources(directory)).edges;
        let mut allowed = Edges::new();
        for circle in ALLOWED_CIRCLES.iter().filter(|circle| circle.source == *directory) {
            let note = std::fs::read_to_string(workspace().join(circle.note));
            let note = note.unwrap_or_else(|error| panic!("{}: {error}", circle.note));
            for file in [circle.from, circle.to] {
                assert!(note.contains(file.trim_end_matches(".rs")), "{} does not name {file}", circle.note);
            }
        }
        let explained = ALLOWED_CIRCLES.iter().map(|circle| (circle.source, circle.from, circle.to));
        for (_, from, to) in explained.filter(|(of, ..)| of == directory) {
            let edge = (from.to_owned(), to.to_owned());
            let names = edges.remove(&edge).unwrap_or_else(|| panic!("{from} does not use {to} any more"));
            allowed.insert(edge, names);
        }
        let found = circles(&edges);
        assert!(found.is_empty(), "circles in {directory}:\n{}", found.into_iter().collect::<Vec<_>>().join("\n"));
        for (edge, names) in allowed {
            let mut with = edges.clone();
            with.insert(edge.clone(), names);
            assert!(!circles(&with).is_empty(), "{} → {} closes no circle any more", edge.0, edge.1);
        }
    }
}

#[test]
fn modules_have_telling_names() {
    let mut found = Vec::new();
    for directory in ["host", "plugins", "tests"] {
        files(&workspace().join(directory), &mut found);
    }
    assert!(found.len() > 100, "the sources were not found");
    let vague: Vec<_> =
        found.iter().filter(|file| VAGUE.contains(&file.file_stem().unwrap().to_str().unwrap())).collect();
    assert!(vague.is_empty(), "{vague:#?}");
}
