//! `wharf.toml`. The input is the file's text.
//!
//! Holds: a file is taken or everything that is wrong is told, each on a line; a value that is in force, written as `config
//! show` writes it, means the same.

use std::path::Path;

use wharf::config::{Flag, Sources, load};

use crate::input::assert_line;

/// Checks one file.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut sources = Sources::default();
    sources.add_file(Path::new("wharf.toml"), text);
    let loaded = match load(&sources) {
        Ok(loaded) => loaded,
        Err(refused) => {
            assert!(!refused.0.is_empty());
            for finding in refused.0 {
                let told = finding.to_string();
                assert!(!told.contains(['\r', '\0', '\x1b']), "a control character: {told:?}");
            }
            return;
        }
    };
    let shown = |setting: &wharf::config::Setting| setting.value.clone().filter(|value| value != "[redacted]");
    let flags = loaded.settings.iter().filter_map(|setting| {
        shown(setting).map(|value| {
            // The path of a directory is as the operator has it.
            if !setting.key.ends_with("_dir") {
                assert_line(&value);
            }
            Flag { key: setting.key, name: "--flag", value }
        })
    });
    let mut again = Sources::default();
    again.add_flags(flags.collect());
    let again = match load(&again) {
        Ok(again) => again,
        // A secret that was left out may have been needed.
        Err(refused) => {
            let secret = loaded.settings.iter().any(|setting| setting.value.as_deref() == Some("[redacted]"));
            assert!(secret, "what is shown is not read again: {refused}");
            return;
        }
    };
    for (setting, other) in loaded.settings.iter().zip(&again.settings) {
        if setting.value.as_deref() != Some("[redacted]") {
            assert_eq!(setting.value, other.value, "{} is not what it is shown as", setting.key);
        }
    }
}
