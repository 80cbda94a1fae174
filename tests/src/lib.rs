//! Empty: the tests are `wharf.rs`.
