//! See `wharf_fuzz::grant`.

#![cfg_attr(fuzzing, no_main)]

wharf_fuzz::target!(grant);
