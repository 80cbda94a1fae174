//! What must hold of the host whatever comes from outside. One module for each fuzz target (`targets/`), each with one
//! function `check` that takes the bytes of a fuzzer and panics where a property does not hold: a panic is a finding.
//!
//! Owns the properties, and naive references to hold the host against; the host's own code is reached as everybody
//! reaches it, or through its `fuzzing` modules where that is not possible. Never opens a file or a socket, so that an
//! input means the same everywhere and every time. Inputs are text where that is possible: seeds can be read and written
//! by hand (`corpus/`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    reason = "a panic is a finding"
)]

#[cfg(fuzzing)]
pub mod component;
#[cfg(fuzzing)]
pub mod config;
#[cfg(fuzzing)]
pub mod declaration;
#[cfg(fuzzing)]
pub mod egress;
#[cfg(fuzzing)]
pub mod grant;
#[cfg(fuzzing)]
mod input;
#[cfg(fuzzing)]
pub mod request;
#[cfg(fuzzing)]
pub mod response;
#[cfg(fuzzing)]
pub mod route;
#[cfg(fuzzing)]
pub mod sql;
#[cfg(fuzzing)]
pub mod upload;
#[cfg(fuzzing)]
pub mod value;

#[cfg(fuzzing)]
#[doc(hidden)]
pub use libfuzzer_sys;

/// The program of a target: what libFuzzer calls, and an empty one in every other build.
#[cfg(fuzzing)]
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::$name::check(data));
    };
}

/// The program of a target: what libFuzzer calls, and an empty one in every other build.
#[cfg(not(fuzzing))]
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        fn main() {}
    };
}
