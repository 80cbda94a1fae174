//! `wharf.toml`. The input is the file's text.
//!
//! Properties: a file is accepted, or every error in it is reported on a line of its own. A value in the form that
//! `config show` prints has the same meaning.

use std::borrow::Cow;
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
                let line = finding.to_string();
                assert!(!line.contains(['\r', '\0', '\x1b']), "a control character: {line:?}");
            }
            return;
        }
    };
    let shown = |setting: &wharf::config::Setting| setting.value.clone().filter(|value| value != "[redacted]");
    let flags = loaded.settings.iter().filter_map(|setting| {
        // A flag cannot name the setting of an issuer.
        let Cow::Borrowed(key) = setting.key else { return None };
        shown(setting).map(|value| {
            // The operator's path of a directory is unchanged.
            if !setting.key.ends_with("_dir") {
                assert_line(&value);
            }
            Flag { key, name: "--flag", value }
        })
    });
    let mut again = Sources::default();
    again.add_flags(flags.collect());
    let again = match load(&again) {
        Ok(again) => again,
        // A redacted secret may have been required.
        Err(refused) => {
            let secret = loaded.settings.iter().any(|setting| setting.value.as_deref() == Some("[redacted]"));
            assert!(secret, "the shown configuration cannot be parsed: {refused}");
            return;
        }
    };
    let constant = loaded.settings.iter().filter(|setting| matches!(setting.key, Cow::Borrowed(_)));
    for (setting, other) in constant.zip(&again.settings) {
        if setting.value.as_deref() != Some("[redacted]") {
            assert_eq!(setting.value, other.value, "{} changed when it was shown and parsed again", setting.key);
        }
    }
}
