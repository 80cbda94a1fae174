//! The imports and exports of the components in `plugins/`. The operator must grant every import of `wharf:`, so a
//! component must not import a capability that its code does not use.

use std::process::Command;
use wasmparser::{Parser, Payload};

/// The imports of the standard library and wasi-libc. The host provides them to every plugin.
const WASI: [&str; 5] = ["wasi:cli/", "wasi:clocks/", "wasi:io/", "wasi:random/insecure-seed", "wasi:random/random"];

struct Component {
    imports: Vec<String>,
    exports: Vec<String>,
    /// The pages of 64 KiB of an instance at its start.
    memory: u64,
}

/// Builds the plugins in the directory of the running build, with the arguments and the environment of `make plugins`, so
/// that after it there is nothing to build. Cargo has released that directory before it runs tests.
fn build() -> impl Fn(&str) -> Component {
    let program = std::env::current_exe().unwrap();
    let target = program.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file()).unwrap().to_owned();
    let arguments = "build --quiet --lib --profile plugin --target wasm32-wasip2 -p hello -p items -p digest-plugin";
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments.split(' '))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .env("CARGO_TARGET_DIR", &target)
        .status();
    assert!(status.unwrap().success(), "the plugins do not build; is the target wasm32-wasip2 installed?");
    move |plugin| inspect(&std::fs::read(target.join(format!("wasm32-wasip2/plugin/{plugin}.wasm"))).unwrap())
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
fn components_import_only_used_capabilities_and_export_only_their_roles() {
    let component = build();
    let hello = component("hello");
    assert_eq!(hello.imports, [""; 0]);
    assert_eq!(hello.exports, ["wharf:plugin/descriptor@0.1.0", "wharf:plugin/http@0.1.0"]);
    // The stack and the front of the arena, 64 KiB each, and constants. The host clears this memory for every request.
    assert!(hello.memory <= 4, "{} pages", hello.memory);

    let items = component("items");
    assert_eq!(items.imports, ["wharf:auth/caller@0.1.0", "wharf:events/publisher@0.1.0", "wharf:sql/database@0.1.0"]);
    assert_eq!(
        items.exports,
        [
            "wharf:events/subscriber@0.1.0",
            "wharf:events/topics@0.1.0",
            "wharf:plugin/descriptor@0.1.0",
            "wharf:plugin/http@0.1.0",
            "wharf:sql/migrations@0.1.0"
        ]
    );
    assert!(items.memory <= 4, "{} pages", items.memory);

    let digest = component("digest");
    assert_eq!(
        digest.imports,
        ["wharf:auth/caller@0.1.0", "wharf:email/outbox@0.1.0", "wharf:jobs/queue@0.1.0", "wharf:sql/database@0.1.0"]
    );
    assert_eq!(
        digest.exports,
        [
            "wharf:events/subscriber@0.1.0",
            "wharf:jobs/worker@0.1.0",
            "wharf:plugin/descriptor@0.1.0",
            "wharf:plugin/http@0.1.0",
            "wharf:sql/migrations@0.1.0"
        ]
    );
    assert!(digest.memory <= 4, "{} pages", digest.memory);
}
