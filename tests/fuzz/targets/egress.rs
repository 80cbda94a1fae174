//! See `wharf_fuzz::egress`.

#![cfg_attr(fuzzing, no_main)]

wharf_fuzz::target!(egress);
