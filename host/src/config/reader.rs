//! Reads settings one by one from layered sources. Each key is declared once, in its section. The calls of the sections
//! give the error messages, the list of known keys, `config show` and the check for unknown keys. A secret may also be in
//! a file that a variable names: the variable of the setting, with `_FILE` at the end.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use super::finding::{Finding, Origin};
use super::kind::{Kind, ValueType};
use super::source::{FILE_SUFFIX, PREFIX, RawValue, Sources, may_be_named, read_secret};

/// The effective value of one setting.
#[derive(Debug, Clone)]
pub struct Setting {
    /// `server.listen`
    pub key: Cow<'static, str>,
    /// `WHARF_LISTEN`
    pub env: Cow<'static, str>,
    /// The effective value; `None` means not set. Secrets are redacted.
    pub value: Option<String>,
    /// The source that set it.
    pub origin: Origin,
    /// The accepted values.
    pub accepted: String,
}

/// Reads settings and collects findings.
pub(super) struct Reader<'a> {
    sources: &'a Sources,
    /// The variables that name the file of a secret, with the content of the file if it could be read.
    secret_files: BTreeMap<String, Option<RawValue>>,
    settings: Vec<Setting>,
    findings: Vec<Finding>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sources: &'a Sources) -> Self {
        let (secret_files, settings, findings) = (BTreeMap::new(), Vec::new(), sources.findings.clone());
        Self { sources, secret_files, settings, findings }
    }

    /// Reads a setting. Returns the default if no source gives it, or if its value is wrong.
    pub(super) fn read<T>(
        &mut self,
        key: impl Into<Cow<'static, str>>,
        env: impl Into<Cow<'static, str>>,
        kind: &Kind<T>,
        default: T,
    ) -> T {
        let (key, env) = (key.into(), env.into());
        if kind.secret {
            self.read_file_of(&key, &env);
        }
        let raw = self.raw(&key, &env);
        let origin = raw.as_ref().map_or(Origin::Default, |raw| raw.origin.clone());
        let value = raw.and_then(|raw| self.parse(&key, &raw, kind)).unwrap_or(default);
        let (shown, accepted) = (kind.show(&value), kind.accepted.clone());
        self.settings.push(Setting { key, env, value: shown, origin, accepted });
        value
    }

    /// Reads the file of a secret, if a variable names one.
    fn read_file_of(&mut self, key: &str, env: &str) {
        let name = format!("{env}{FILE_SUFFIX}");
        let Some(path) = self.sources.environment.get(&name) else { return };
        let origin = path.origin.clone();
        let read = match self.sources.environment.contains_key(env) {
            true => Err(format!("and {env} are both set; unset one of them")),
            false => read_secret(Path::new(&path.text)).map_err(|reason| match may_be_named(Path::new(&path.text)) {
                true => format!("is in {:?}, which {reason}", path.text),
                false => "is in a file, but the variable names no file".to_owned(),
            }),
        };
        let content = match read {
            Ok(text) => Some(RawValue { text, value_type: ValueType::Text, origin }),
            Err(reason) => {
                self.refuse(key, origin, reason);
                None
            }
        };
        self.secret_files.insert(name, content);
    }

    fn raw(&self, key: &str, env: &str) -> Option<RawValue> {
        let sources = self.sources;
        let file = || self.secret_files.get(&format!("{env}{FILE_SUFFIX}")).and_then(Option::as_ref);
        let found = sources.flags.get(key).or_else(|| sources.environment.get(env)).or_else(file);
        found.or_else(|| sources.file.get(key)).cloned()
    }

    fn parse<T>(&mut self, key: &str, raw: &RawValue, kind: &Kind<T>) -> Option<T> {
        let parsed = match raw.value_type {
            ValueType::Other(name) => Err(format!("is a TOML {name}")),
            ValueType::List if !kind.takes(ValueType::List) => Err("is a TOML array".to_owned()),
            value_type if !kind.takes(value_type) => Err("must be written as text, in quotes".to_owned()),
            _ => (kind.parse)(&raw.text).map_err(|reason| match kind.secret || may_hold_a_password(&raw.text) {
                true => reason,
                false => format!("= {:?}: {reason}", shorten(&raw.text)),
            }),
        };
        match parsed {
            Ok(value) => Some(value),
            Err(reason) => {
                let text = format!("{reason}; accepted: {}", kind.accepted);
                self.refuse(key, raw.origin.clone(), text);
                None
            }
        }
    }

    /// Returns the source of a setting that was read.
    pub(super) fn origin(&self, key: &str) -> Origin {
        let setting = self.settings.iter().find(|setting| setting.key == key);
        setting.map_or(Origin::Default, |setting| setting.origin.clone())
    }

    /// Returns the keys of the file below a table, without the name of the table.
    pub(super) fn keys_below(&self, table: &str) -> impl Iterator<Item = &str> {
        self.sources.file.keys().filter_map(move |key| key.strip_prefix(table)?.strip_prefix('.'))
    }

    /// Returns the variables that begin with a text, without it.
    pub(super) fn variables(&self, beginning: &str) -> impl Iterator<Item = &str> {
        self.sources.environment.keys().filter_map(move |name| name.strip_prefix(beginning))
    }

    /// Returns whether there is a finding about a key.
    pub(super) fn is_refused(&self, key: &str) -> bool {
        self.findings.iter().any(|finding| finding.key.as_deref() == Some(key))
    }

    /// Adds a finding about a key.
    pub(super) fn refuse(&mut self, key: &str, origin: Origin, text: impl Into<String>) {
        self.findings.push(Finding { origin, key: Some(key.to_owned()), text: text.into() });
    }

    /// Refuses unknown keys and variables. Returns the settings and all findings.
    pub(super) fn finish(mut self) -> (Vec<Setting>, Vec<Finding>) {
        self.refuse_unknown_keys();
        self.refuse_unknown_variables();
        (self.settings, self.findings)
    }

    fn refuse_unknown_keys(&mut self) {
        let mut unknown_table: Option<String> = None;
        // Keys are sorted, so a table precedes its members, and a misspelt section is a single finding.
        for (key, raw) in &self.sources.file {
            let inside = |table: &String| key.strip_prefix(table.as_str()).is_some_and(|rest| rest.starts_with('.'));
            if unknown_table.as_ref().is_some_and(inside) || self.knows_key(key) {
                continue;
            }
            let section = format!("{key}.");
            if raw.value_type == ValueType::Other("table") {
                if self.settings.iter().any(|setting| setting.key.starts_with(&section)) {
                    continue;
                }
                unknown_table = Some(key.clone());
            }
            let (what, hint) = match raw.value_type {
                ValueType::Other("table") if !key.contains('.') => ("section", nearest(key, self.sections())),
                _ => ("key", nearest_key(key, self.settings.iter().map(|setting| &*setting.key))),
            };
            let text = format!("unknown {what} {key:?}{hint}");
            self.findings.push(Finding { origin: raw.origin.clone(), key: None, text });
        }
    }

    fn refuse_unknown_variables(&mut self) {
        for (name, raw) in &self.sources.environment {
            if self.settings.iter().all(|setting| setting.env != *name) && !self.secret_files.contains_key(name) {
                // Compared without the prefix, which makes all names similar.
                let bare = name.trim_start_matches(PREFIX);
                let known = self.settings.iter().map(|setting| setting.env.trim_start_matches(PREFIX));
                let hint = closest(bare, known).map_or_else(String::new, |env| did_you_mean(&format!("{PREFIX}{env}")));
                let text = format!("is not a setting of Wharf{hint}");
                self.findings.push(Finding { origin: raw.origin.clone(), key: None, text });
            }
        }
    }

    fn knows_key(&self, key: &str) -> bool {
        self.settings.iter().any(|setting| setting.key == key)
    }

    fn sections(&self) -> impl Iterator<Item = &str> {
        self.settings.iter().filter_map(|setting| setting.key.split_once('.').map(|(section, _)| section))
    }
}

/// Shortens a text to 60 characters, so that a message stays on one line.
fn shorten(text: &str) -> String {
    if text.chars().count() <= 60 { text.to_owned() } else { text.chars().take(59).chain(['…']).collect() }
}

/// Returns whether a text looks like a URL with a password. Such a URL may be given for the wrong setting.
fn may_hold_a_password(text: &str) -> bool {
    text.contains("://") && text.contains('@')
}

/// Suggests a known key. A missing or wrong section is more likely than a misspelt letter.
fn nearest_key<'k>(key: &str, known: impl Iterator<Item = &'k str> + Clone) -> String {
    let last = key.rsplit_once('.').map_or(key, |(_, last)| last);
    let same_name = known.clone().find(|known| known.rsplit_once('.').is_some_and(|(_, name)| name == last));
    same_name.or_else(|| closest(key, known)).map_or_else(String::new, did_you_mean)
}

fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> String {
    closest(word, known).map_or_else(String::new, did_you_mean)
}

fn closest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let scored = known.map(|known| (strsim::jaro_winkler(word, known), known));
    let best = scored.filter(|(score, _)| *score > 0.8).max_by(|(left, _), (right, _)| left.total_cmp(right));
    best.map(|(_, known)| known)
}

fn did_you_mean(known: &str) -> String {
    format!("; did you mean {known:?}?")
}
