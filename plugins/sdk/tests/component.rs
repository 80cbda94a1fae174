//! What the components in `plugins/` import and export: nothing that their code does not use, since every import of
//! `wharf:` is a question to the operator.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::path::PathBuf;
use std::process::Command;
use wasmparser::{Parser, Payload};

/// What the standard library and wasi-libc bring along; the host links it for every plugin.
const WASI: [&str; 5] = ["wasi:cli/", "wasi:clocks/", "wasi:io/", "wasi:random/insecure-seed", "wasi:random/random"];

struct Component {
    imports: Vec<String>,
    exports: Vec<String>,
    /// Pages of 64 KiB that an instance starts with.
    memory: u64,
}

fn build(plugin: &str) -> Component {
    // A directory of its own: the one in use is locked by the `cargo test` around this.
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("components");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--target", "wasm32-wasip2", "--profile", "plugin", "--package", plugin])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .env("CARGO_TARGET_DIR", &target)
        .status();
    assert!(status.unwrap().success(), "rustup target add wasm32-wasip2");
    let bytes = std::fs::read(target.join(format!("wasm32-wasip2/plugin/{plugin}.wasm"))).unwrap();
    inspect(&bytes)
}

fn inspect(bytes: &[u8]) -> Component {
    let mut component = Component { imports: Vec::new(), exports: Vec::new(), memory: 0 };
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.unwrap() {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) if depth > 0 => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 0 => {
                component.imports.extend(section.into_iter().map(|import| import.unwrap().name.name.to_owned()));
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                component.exports.extend(section.into_iter().map(|export| export.unwrap().name.name.to_owned()));
            }
            Payload::MemorySection(section) => {
                component.memory += section.into_iter().map(|memory| memory.unwrap().initial).sum::<u64>();
            }
            _ => {}
        }
    }
    component.imports.retain(|name| !WASI.iter().any(|known| name.starts_with(known)));
    component.imports.sort();
    component.exports.sort();
    component
}

#[test]
fn components_import_what_their_code_uses_and_export_the_roles_they_play() {
    let hello = build("hello");
    assert_eq!(hello.imports, [""; 0]);
    assert_eq!(hello.exports, ["wharf:plugin/descriptor@0.1.0", "wharf:plugin/http@0.1.0"]);
    // The stack of 64 KiB, the arena of 256 KiB and constants: more would be cleared for every request.
    assert!(hello.memory <= 7, "{} pages", hello.memory);

    let items = build("items");
    assert_eq!(items.imports, ["wharf:auth/caller@0.1.0", "wharf:sql/database@0.1.0"]);
    assert_eq!(
        items.exports,
        ["wharf:plugin/descriptor@0.1.0", "wharf:plugin/http@0.1.0", "wharf:sql/migrations@0.1.0"]
    );
    assert!(items.memory <= 7, "{} pages", items.memory);
}
