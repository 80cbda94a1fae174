//! See `wharf_fuzz::declaration`.

#![cfg_attr(fuzzing, no_main)]

wharf_fuzz::target!(declaration);
