//! Plugins: uploads become releases, releases answer calls.
//!
//! One way through: `compile` (machine code, made outside this process and kept on disk) → `artifact` (what does it
//! import) → `declaration` (what it says of itself) → `release` (compiled, linked, admitted) → `generation` (the table
//! requests are dispatched through) → `instance` (one call in a fresh sandbox) → `answer` (what it may say). `registry` owns the set and swaps generations; `deploy` is the
//! only way in, past `signature` (who vouches for the file). Never knows HTTP: what a status is on the wire is `http`'s
//! business.

pub mod answer;
mod archive;
pub mod artifact;
pub mod breaker;
pub mod bulkhead;
pub mod canary;
pub mod compile;
pub mod declaration;
pub mod deploy;
pub mod drain;
pub mod engine;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod generation;
pub mod inspection;
pub mod instance;
mod interface;
pub mod limits;
pub mod load;
pub mod registry;
pub mod release;
pub mod schema;
pub mod signature;
mod supervisor;
pub mod switch;
pub mod tally;
pub mod trial;

pub use answer::Answer;
pub use compile::Compile;
pub use generation::{Generation, Target};
pub use instance::Request;
pub use registry::Registry;
pub use release::Release;
