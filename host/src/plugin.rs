//! Plugins: uploads become releases, releases answer calls.
//!
//! One way through: `artifact` (is it a component, what does it import) → `declaration` (what it says of itself) →
//! `release` (compiled, linked, admitted) → `generation` (the table requests are dispatched through) → `instance` (one
//! call in a fresh sandbox) → `answer` (what it may say). `registry` owns the set and swaps generations; `deploy` is the
//! only way in. Never knows HTTP: what a status is on the wire is `http`'s business.

pub mod answer;
mod archive;
pub mod artifact;
pub mod breaker;
pub mod canary;
pub mod declaration;
pub mod deploy;
mod drain;
pub mod engine;
pub mod generation;
pub mod inspection;
pub mod instance;
mod interface;
pub mod registry;
pub mod release;
mod supervisor;
pub mod switch;
pub mod tally;
pub mod trial;

pub use answer::Answer;
pub use generation::{Generation, Target};
pub use instance::Request;
pub use registry::Registry;
pub use release::Release;
