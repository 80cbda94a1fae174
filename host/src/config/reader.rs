//! Reads settings one by one out of layered sources. Each key is named once, where its section is filled; from those
//! calls come the error messages, the list of known keys, `config show` and the check for keys that nobody knows.

use std::fmt;

use super::kind::Kind;
use super::source::{Origin, PREFIX, Raw, Sort, Sources};

/// A setting that cannot be used, or a key that is none.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Where it stands.
    pub origin: Origin,
    /// Which setting, if it is about one.
    pub key: Option<String>,
    /// What is wrong with it and what would be right.
    pub text: String,
}

impl Finding {
    pub(super) fn of_file(path: &std::path::Path, line: Option<usize>, text: impl Into<String>) -> Self {
        Self { origin: Origin::File(path.to_owned(), line), key: None, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if let Some(key) = &self.key {
            write!(f, "{key} ")?;
        }
        f.write_str(&self.text)
    }
}

/// One setting as it is in force.
#[derive(Debug, Clone)]
pub struct Setting {
    /// `server.listen`
    pub key: &'static str,
    /// `WHARF_LISTEN`
    pub env: &'static str,
    /// As it is in force; none: not set. Secrets are redacted.
    pub value: Option<String>,
    /// Who set it.
    pub origin: Origin,
    /// What it takes.
    pub accepted: String,
}

/// Reads keys and collects what is wrong.
pub(super) struct Reader<'a> {
    sources: &'a Sources,
    settings: Vec<Setting>,
    findings: Vec<Finding>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sources: &'a Sources) -> Self {
        Self { sources, settings: Vec::new(), findings: sources.findings.clone() }
    }

    /// A setting with a default.
    pub(super) fn read<T>(&mut self, key: &'static str, env: &'static str, kind: &Kind<T>, default: T) -> T {
        let value = self.take(key, env, kind).unwrap_or(default);
        self.note(key, env, kind, Some((kind.show)(&value)));
        value
    }

    /// A setting that may be left out.
    pub(super) fn find<T>(&mut self, key: &'static str, env: &'static str, kind: &Kind<T>) -> Option<T> {
        let value = self.take(key, env, kind);
        self.note(key, env, kind, value.as_ref().map(kind.show));
        value
    }

    fn raw(&self, key: &str, env: &str) -> Option<&'a Raw> {
        let sources = self.sources;
        sources.flags.get(key).or_else(|| sources.environment.get(env)).or_else(|| sources.file.get(key))
    }

    fn take<T>(&mut self, key: &'static str, env: &'static str, kind: &Kind<T>) -> Option<T> {
        let raw = self.raw(key, env)?;
        let parsed = match raw.sort {
            Sort::Other(sort) => Err(format!("is a TOML {sort}")),
            Sort::List if !kind.takes(Sort::List) => Err("is a TOML array".to_owned()),
            sort if !kind.takes(sort) => Err("must be written as text, in quotes".to_owned()),
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

    fn note<T>(&mut self, key: &'static str, env: &'static str, kind: &Kind<T>, value: Option<String>) {
        let origin = self.raw(key, env).map_or(Origin::Default, |raw| raw.origin.clone());
        self.settings.push(Setting { key, env, value, origin, accepted: kind.accepted.clone() });
    }

    /// Where the value of a key that was read came from.
    pub(super) fn origin(&self, key: &str) -> Origin {
        let setting = self.settings.iter().find(|setting| setting.key == key);
        setting.map_or(Origin::Default, |setting| setting.origin.clone())
    }

    /// Whether there is a finding about a key.
    pub(super) fn is_refused(&self, key: &str) -> bool {
        self.findings.iter().any(|finding| finding.key.as_deref() == Some(key))
    }

    /// Adds a finding about a key.
    pub(super) fn refuse(&mut self, key: &str, origin: Origin, text: impl Into<String>) {
        self.findings.push(Finding { origin, key: Some(key.to_owned()), text: text.into() });
    }

    /// Refuses what nobody read, and hands over what was read.
    pub(super) fn finish(mut self) -> (Vec<Setting>, Vec<Finding>) {
        self.refuse_unknown_keys();
        self.refuse_unknown_variables();
        (self.settings, self.findings)
    }

    fn refuse_unknown_keys(&mut self) {
        let mut unknown_table: Option<String> = None;
        // Sorted, so a table comes before its members, and one misspelt section is one finding.
        for (key, raw) in &self.sources.file {
            let inside = |table: &String| key.strip_prefix(table.as_str()).is_some_and(|rest| rest.starts_with('.'));
            if unknown_table.as_ref().is_some_and(inside) || self.knows_key(key) {
                continue;
            }
            let section = format!("{key}.");
            if raw.sort == Sort::Other("table") {
                if self.settings.iter().any(|setting| setting.key.starts_with(&section)) {
                    continue;
                }
                unknown_table = Some(key.clone());
            }
            let (what, hint) = match raw.sort {
                Sort::Other("table") if !key.contains('.') => ("section", nearest(key, self.sections())),
                _ => ("key", nearest_key(key, self.settings.iter().map(|setting| setting.key))),
            };
            let text = format!("unknown {what} {key:?}{hint}");
            self.findings.push(Finding { origin: raw.origin.clone(), key: None, text });
        }
    }

    fn refuse_unknown_variables(&mut self) {
        for (name, raw) in &self.sources.environment {
            if self.settings.iter().all(|setting| setting.env != name) {
                // Compared without the prefix, which would make all of them alike.
                let bare = name.trim_start_matches(PREFIX);
                let known = self.settings.iter().map(|setting| setting.env.trim_start_matches(PREFIX));
                let hint = closest(bare, known).map_or_else(String::new, |env| did_you_mean(&format!("{PREFIX}{env}")));
                let text = format!("is no setting of Wharf's{hint}");
                self.findings.push(Finding { origin: raw.origin.clone(), key: None, text });
            }
        }
    }

    fn knows_key(&self, key: &str) -> bool {
        self.settings.iter().any(|setting| setting.key == key)
    }

    fn sections(&self) -> impl Iterator<Item = &'static str> {
        self.settings.iter().filter_map(|setting| setting.key.split_once('.').map(|(section, _)| section))
    }
}

/// At most 60 characters, so that a message stays a line.
fn shorten(text: &str) -> String {
    if text.chars().count() <= 60 { text.to_owned() } else { text.chars().take(59).chain(['…']).collect() }
}

/// A URL of the wrong scheme or for the wrong setting is still one with a password in it.
fn may_hold_a_password(text: &str) -> bool {
    text.contains("://") && text.contains('@')
}

/// A key without its section, or in the wrong one, is the likelier mistake than a misspelt letter.
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
