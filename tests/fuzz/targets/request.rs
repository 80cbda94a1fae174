//! See `wharf_fuzz::request`.

#![cfg_attr(fuzzing, no_main)]

wharf_fuzz::target!(request);
