//! See `wharf_fuzz::response`.

#![cfg_attr(fuzzing, no_main)]

wharf_fuzz::target!(response);
