//! The messages that authors see for their mistakes, each at the tokens that are wrong.
//!
//! `TRYBUILD=overwrite cargo test -p wharf-sdk --test compile_fail` writes them anew; read the difference.

#![allow(missing_docs, reason = "tests")]

#[test]
fn mistakes_are_explained_where_they_were_made() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
