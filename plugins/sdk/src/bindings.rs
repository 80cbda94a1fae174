//! The Rust side of `wit/`: the imports that a plugin may use and the roles that it can export. All of it is generated.
//!
//! Each role is a world of its own, so that a component exports exactly the roles it has. The imports are one more
//! world, of which the linker keeps the functions that are called. Authors never name these types: the modules above
//! wrap them. On targets other than WebAssembly the types are the same, but the imported functions panic; native tests
//! call `crate::host::stand_in` instead.

#![allow(unsafe_code, missing_docs, unreachable_pub, dead_code, clippy::all, clippy::unwrap_used)]
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::string_slice)]

/// `wharf:sql`, `wharf:cache`, `wharf:http`, `wharf:log`, `wharf:auth`, `wharf:config`, `wharf:users`, `wharf:events`,
/// `wharf:jobs`, `wharf:email`.
pub mod imports {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "wharf:plugin/capabilities",
        generate_all,
        additional_derives: [PartialEq],
    });
}

/// `wharf:plugin/descriptor` and `wharf:plugin/http`, the roles of every plugin of this SDK.
pub mod http_role {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package wharf:sdk-http; world http-role {
            export wharf:plugin/descriptor@0.1.0;
            export wharf:plugin/http@0.1.0;
        }",
        generate_all,
        additional_derives: [PartialEq],
        pub_export_macro: true,
        export_macro_name: "export_http",
        default_bindings_module: "wharf_sdk::__private::http_role",
    });
}

/// `wharf:sql/migrations`, the role of plugins that own tables.
pub mod migrations_role {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package wharf:sdk-migrations; world migrations-role { export wharf:sql/migrations@0.1.0; }",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_migrations",
        default_bindings_module: "wharf_sdk::__private::migrations_role",
    });
}

/// `wharf:events/topics`, the role of plugins that publish events.
pub mod topics_role {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package wharf:sdk-topics; world topics-role { export wharf:events/topics@0.1.0; }",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_topics",
        default_bindings_module: "wharf_sdk::__private::topics_role",
    });
}

/// `wharf:events/subscriber`, the role of plugins that receive events.
pub mod subscriber_role {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package wharf:sdk-subscriber; world subscriber-role { export wharf:events/subscriber@0.1.0; }",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_subscriber",
        default_bindings_module: "wharf_sdk::__private::subscriber_role",
    });
}

/// `wharf:jobs/worker`, the role of plugins that run jobs.
pub mod worker_role {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package wharf:sdk-worker; world worker-role { export wharf:jobs/worker@0.1.0; }",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_worker",
        default_bindings_module: "wharf_sdk::__private::worker_role",
    });
}
