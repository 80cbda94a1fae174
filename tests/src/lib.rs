//! Empty: the tests are in `wharf.rs`.
