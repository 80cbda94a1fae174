//! The wasmtime bindings of the roles of a plugin. A component exports the interfaces of its roles; the host looks for
//! each role separately.

#![allow(missing_docs, unreachable_pub, reason = "generated")]

/// Describes the plugin and its routes.
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

/// Handles requests. `http_role` calls it.
pub(super) mod handle {
    wasmtime::component::bindgen!({
        inline: "package wharf:host-handle; world role { export wharf:plugin/http@0.1.0; }",
        path: "../wit",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// Declares migrations of the plugin's tables.
pub(super) mod migrate {
    wasmtime::component::bindgen!({
        inline: "package wharf:host-migrate; world role { export wharf:sql/migrations@0.1.0; }",
        path: "../wit",
        exports: { default: async },
    });
}

/// Declares the topics of events that the plugin publishes.
pub(super) mod topics {
    wasmtime::component::bindgen!({
        inline: "package wharf:host-topics; world role { export wharf:events/topics@0.1.0; }",
        path: "../wit",
        exports: { default: async },
    });
}

/// Declares subscriptions to events, and receives the events.
pub(super) mod subscriber {
    wasmtime::component::bindgen!({
        inline: "package wharf:host-subscriber; world role { export wharf:events/subscriber@0.1.0; }",
        path: "../wit",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// Declares jobs and schedules, and runs the jobs.
pub(super) mod worker {
    wasmtime::component::bindgen!({
        inline: "package wharf:host-worker; world role { export wharf:jobs/worker@0.1.0; }",
        path: "../wit",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}
