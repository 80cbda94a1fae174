//! See `wharf_fuzz::value`.

#![cfg_attr(fuzzing, no_main)]

wharf_fuzz::target!(value);
