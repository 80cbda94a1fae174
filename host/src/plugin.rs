//! Plugins: uploads become releases, and releases handle calls. Never knows HTTP: `http` decides the status on the
//! wire.
//!
//! A file passes `compile` (machine code, produced by a child process and cached on disk) → `artifact` (imports and
//! exports) → `declaration` (routes, permissions, settings) with `declared_messages` (events, jobs) → `release` (compiled,
//! linked, admitted to its grants). A call passes `generation` (the table that requests are dispatched through) →
//! `bulkhead` (turns, call slots) → `sandbox` (a fresh instance) → `response` (the check of the result); `call_in_progress` counts
//! how it ends.
//!
//! From the bottom up: `live_set` swaps generations and drains replaced releases. `registry` holds the shared services.
//! Above it stand the operations, each in a module of its own: `startup`, `preparation`, `deploy` (the only way in, after
//! `signature` checked the file), `operations`, `rollback`, `canary_rollout`, `supervisor`, and the reading ones,
//! `history` and `limit_usage`.
//!
//! Next to requests, three loops work in the background: `relay` takes messages out of the plugins' outboxes, `tasks` runs
//! what follows from them, and `schedules` adds jobs when their times come.

pub mod artifact;
pub mod breaker;
pub mod bulkhead;
mod call_in_progress;
pub mod call_stats;
pub mod canary;
mod canary_rollout;
pub mod compile;
mod compiled_schemas;
pub mod declaration;
mod declared_json;
mod declared_messages;
mod deploy;
pub mod deploy_job;
mod deploy_turn;
pub mod drain;
pub mod engine;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod generation;
mod history;
mod http_role;
pub mod inspection;
mod interface;
pub mod limit_usage;
pub mod limits;
mod live_set;
pub mod message_report;
mod mounts;
mod operations;
mod outbox_turns;
mod pause;
mod per_plugin;
mod preparation;
mod probation;
mod problem_document;
pub mod refusal;
pub mod registry;
mod relay;
pub mod release;
mod release_store;
pub mod response;
mod response_header;
mod rollback;
mod running_calls;
pub mod sandbox;
pub mod schedules;
pub mod schema_compatibility;
mod shortage;
pub mod signature;
mod startup;
pub mod state_map;
mod supervisor;
mod tasks;
pub mod upload;

pub use compile::Compile;
pub use generation::Generation;
pub use registry::Registry;
pub use release::Release;
pub use response::PluginResponse;
pub use sandbox::Request;
