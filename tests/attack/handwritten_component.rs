//! Attackers that no compiler would produce: a plugin with one public route whose core module is written by hand.

use crate::support::Component;
use crate::support::component::RawPlugin;

/// Optional parts of an attacker's component.
#[derive(Default)]
pub(crate) struct GuestParts {
    /// Items of the core module.
    pub(crate) items: &'static str,
    /// Options of the lift of `handle`.
    pub(crate) options: &'static str,
    /// Items of the component in front of the core instance.
    pub(crate) before: &'static str,
    /// Arguments of the core instance.
    pub(crate) with: &'static str,
    /// Imports of the core module.
    pub(crate) imports: &'static str,
}

/// Formats words, little-endian, as a string of the text format.
fn words(words: &[u32]) -> String {
    words.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("\\{byte:02x}")).collect()
}

/// Returns a plugin that responds to `GET /` with 200 unless `handle` does something else first.
pub(crate) fn attacker(handle: &str, parts: &GuestParts) -> Component {
    // Name, version, summary, permissions, and whether there is a settings schema.
    let descriptor = words(&[64, 3, 80, 5, 0, 0, 0, 0, 0, 0, 0]);
    // Method, path, public (with space for a permission), operation, no cache policy (with space for one).
    let route = words(&[96, 3, 100, 1, 0, 0, 0, 104, 2, 0, 0, 0, 0, 0]);
    let api = words(&[256, 1, 0, 0]);
    // A response of 200 without headers and body.
    let response = words(&[0, 200, 0, 0, 0, 0, 0, 0, 0, 0]);
    let GuestParts { items, options, before, with, imports } = parts;
    Component::raw(&RawPlugin {
        before,
        with,
        options,
        core: &format!(
            r#"{imports}
            (memory (export "memory") 4)
            (global $free (mut i32) (i32.const 65536))
            (data (i32.const 64) "raw")
            (data (i32.const 80) "1.0.0")
            (data (i32.const 96) "GET")
            (data (i32.const 100) "/")
            (data (i32.const 104) "{{}}")
            (data (i32.const 128) "{descriptor}")
            (data (i32.const 256) "{route}")
            (data (i32.const 384) "{api}")
            (data (i32.const 512) "{response}")
            (func (export "describe") (result i32) i32.const 128)
            (func (export "routes") (result i32) i32.const 384)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                (global.set $free (i32.and
                    (i32.add (global.get $free) (i32.sub (local.get 2) (i32.const 1)))
                    (i32.sub (i32.const 0) (local.get 2))))
                (global.get $free)
                (global.set $free (i32.add (global.get $free) (local.get 3))))
            (func (export "handle") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                {handle}
                i32.const 512)
            {items}"#
        ),
    })
}
