//! See `wharf_fuzz::route`.

#![cfg_attr(fuzzing, no_main)]

wharf_fuzz::target!(route);
