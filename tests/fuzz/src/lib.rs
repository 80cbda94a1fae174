//! Properties of the host that hold for all untrusted input. There is one module for each fuzz target (`targets/`),
//! each with a function `check` that takes a fuzzer's bytes and panics if a property does not hold. A panic is a
//! finding.
//!
//! This crate owns the properties, and naive references that the host is compared with. It calls the host's public
//! interface, or its `fuzzing` modules where that is not possible. It never opens a file or a socket, so an input has
//! the same result everywhere and every time. Inputs are text where possible, so that seeds can be read and written by
//! hand (`corpus/`).

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

/// Defines the program of a target: the function that libFuzzer calls, or an empty program in every other build.
#[cfg(fuzzing)]
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::$name::check(data));
    };
}

/// Defines the program of a target: the function that libFuzzer calls, or an empty program in every other build.
#[cfg(not(fuzzing))]
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        fn main() {}
    };
}
