//! See `wharf_fuzz::sql`.

#![cfg_attr(fuzzing, no_main)]

wharf_fuzz::target!(sql);
