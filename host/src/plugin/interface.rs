//! The roles a plugin can play, as wasmtime sees them. A component exports the roles it plays; each is looked for alone.

#![allow(missing_docs, unreachable_pub, reason = "generated")]

/// Says what the plugin is and which routes it has.
pub(super) mod describe {
    wasmtime::component::bindgen!({
        inline: "package wharf:host-describe; world role {
            export wharf:plugin/descriptor@0.1.0;
            export wharf:plugin/http@0.1.0;
        }",
        path: "../wit",
        exports: { default: async },
    });
}

/// Answers requests.
pub(super) mod handle {
    wasmtime::component::bindgen!({
        inline: "package wharf:host-handle; world role { export wharf:plugin/http@0.1.0; }",
        path: "../wit",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// Owns tables.
pub(super) mod migrate {
    wasmtime::component::bindgen!({
        inline: "package wharf:host-migrate; world role { export wharf:sql/migrations@0.1.0; }",
        path: "../wit",
        exports: { default: async },
    });
}
