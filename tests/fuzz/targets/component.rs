//! See `wharf_fuzz::component`.

#![cfg_attr(fuzzing, no_main)]

wharf_fuzz::target!(component);
