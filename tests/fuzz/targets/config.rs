//! See `wharf_fuzz::config`.

#![cfg_attr(fuzzing, no_main)]

wharf_fuzz::target!(config);
