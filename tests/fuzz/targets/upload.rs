//! See `wharf_fuzz::upload`.

#![cfg_attr(fuzzing, no_main)]

wharf_fuzz::target!(upload);
