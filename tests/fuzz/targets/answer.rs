//! See `wharf_fuzz::answer`.

#![cfg_attr(fuzzing, no_main)]

wharf_fuzz::target!(answer);
