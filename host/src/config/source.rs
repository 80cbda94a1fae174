//! The sources of settings: a TOML file, the environment and flags. Owns reading all three into one form, a text with
//! its origin. Never knows which keys exist. `config::load` layers the sources.
//!
//! Files and secrets of container platforms end with a line ending, which is no part of a value. So one line ending at
//! the end of a variable or of the file of a secret is removed; any other control character is refused.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::finding::{Finding, Origin};
use super::kind::{SEPARATOR, ValueType};

/// The file that is read when neither `--config` nor `WHARF_CONFIG` names one.
pub const DEFAULT_FILE: &str = "wharf.toml";

/// The prefix of every variable of Wharf.
pub(super) const PREFIX: &str = "WHARF_";

/// Maximum size of the file. A larger one is not a configuration.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The end of the name of a variable that names the file of a secret.
pub(super) const FILE_SUFFIX: &str = "_FILE";

/// Maximum size of the file of a secret.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// A value as it was written.
#[derive(Debug, Clone)]
pub(super) struct RawValue {
    pub(super) text: String,
    pub(super) value_type: ValueType,
    pub(super) origin: Origin,
}

/// A setting given on the command line.
#[derive(Debug, Clone)]
pub struct Flag {
    /// The setting, `server.listen`.
    pub key: &'static str,
    /// The flag as it was typed, `--listen`.
    pub name: &'static str,
    /// Its value.
    pub value: String,
}

/// Everything that was set, not parsed yet.
#[derive(Debug, Default)]
pub struct Sources {
    /// The file that was read.
    pub(super) path: Option<PathBuf>,
    /// Dotted key → value of the file. Includes tables, so that a misspelt section is found.
    pub(super) file: BTreeMap<String, RawValue>,
    /// Variable → value.
    pub(super) environment: BTreeMap<String, RawValue>,
    /// Key → value.
    pub(super) flags: BTreeMap<&'static str, RawValue>,
    /// Input that could not be read at all.
    pub(super) findings: Vec<Finding>,
}

impl Sources {
    /// Reads `file` (or `./wharf.toml` if it exists) and the process's environment. `not_settings` are the variables
    /// that the command line itself uses.
    pub fn of_process(file: Option<&Path>, not_settings: &[&str], flags: Vec<Flag>) -> Self {
        let mut sources = Self::default();
        match file {
            Some(path) => sources.read_file(path),
            None if Path::new(DEFAULT_FILE).exists() => sources.read_file(Path::new(DEFAULT_FILE)),
            None => {}
        }
        sources.add_environment(std::env::vars_os(), not_settings);
        sources.add_flags(flags);
        sources
    }

    /// Returns the file that was read, if any.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn read_file(&mut self, path: &Path) {
        let read = || {
            let mut text = String::new();
            std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
            Ok::<_, std::io::Error>(text)
        };
        match read() {
            Ok(text) if text.len() as u64 > MAX_FILE_BYTES => {
                self.findings.push(Finding::of_file(path, None, "is larger than 1 MiB; is it the right file?"));
            }
            Ok(text) => self.add_file(path, &text),
            Err(error) => self.findings.push(Finding::of_file(path, None, format!("cannot be read: {error}"))),
        }
    }

    /// Adds the settings of a file's text.
    pub fn add_file(&mut self, path: &Path, text: &str) {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let line = error.span().map(|span| line_of(text, span.start));
            self.findings.push(Finding::of_file(path, line, format!("is not valid TOML: {}", error.message())));
        }
        self.flatten(path, text, "", table.get_ref());
        self.path = Some(path.to_owned());
    }

    fn flatten(&mut self, path: &Path, text: &str, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let key =
                if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
            let origin = Origin::File(path.to_owned(), Some(line_of(text, name.span().start)));
            if let Some(inner) = value.get_ref().as_table() {
                self.flatten(path, text, &key, inner);
            }
            self.file.insert(key, raw(value, origin));
        }
    }

    /// Adds the variables that begin with `WHARF_`, without `not_settings`. An empty one counts as unset, also if it holds
    /// a line ending.
    pub fn add_environment(
        &mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        not_settings: &[&str],
    ) {
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)).map(str::to_owned) else { continue };
            if not_settings.contains(&name.as_str()) || is_service_link(&name) {
                continue;
            }
            let origin = Origin::Environment(name.clone());
            let text = value.to_str().ok_or("is not text in UTF-8").and_then(one_line);
            match text.map(str::to_owned) {
                Ok(text) if text.is_empty() => {}
                Ok(text) => drop(self.environment.insert(name, RawValue { text, value_type: ValueType::Text, origin })),
                Err(reason) => self.findings.push(Finding { origin, key: None, text: reason.into() }),
            }
        }
    }

    /// Adds settings given on the command line.
    pub fn add_flags(&mut self, flags: Vec<Flag>) {
        for Flag { key, name, value } in flags {
            self.flags.insert(key, RawValue { text: value, value_type: ValueType::Text, origin: Origin::Flag(name) });
        }
    }
}

/// Removes one line ending at the end. Refuses any other control character.
fn one_line(text: &str) -> Result<&str, &'static str> {
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    match line.chars().any(char::is_control) {
        true => Err("contains a control character, such as a tab or a line break in the middle"),
        false => Ok(line),
    }
}

/// Returns whether a message may name the path of a secret's file. Otherwise the text may be the secret itself, put
/// there by mistake.
pub(crate) fn may_be_named(path: &Path) -> bool {
    path.is_absolute() || path.exists()
}

/// Reads the file of a secret.
///
/// # Errors
/// The reason why it is not the file of a secret, without its content.
pub(crate) fn read_secret(path: &Path) -> Result<String, String> {
    let read = || {
        // Opening a pipe waits for its writer.
        if !std::fs::metadata(path)?.is_file() {
            return Err(std::io::Error::other("it is not a regular file"));
        }
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read().map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err("is larger than 64 KiB; is it the right file?".to_owned());
    }
    let text = String::from_utf8(bytes).map_err(|_| "is not text in UTF-8".to_owned())?;
    match one_line(&text)? {
        "" => Err("is empty".to_owned()),
        line => Ok(line.to_owned()),
    }
}

/// Returns whether Kubernetes or Docker set a variable to describe a service named `wharf` to other containers.
fn is_service_link(name: &str) -> bool {
    name == "WHARF_PORT" || name.starts_with("WHARF_PORT_") || name.starts_with("WHARF_SERVICE_")
}

fn raw(value: &Spanned<DeValue<'_>>, origin: Origin) -> RawValue {
    let (text, value_type) = match value.get_ref() {
        DeValue::String(text) => (text.to_string(), ValueType::Text),
        DeValue::Boolean(value) => (value.to_string(), ValueType::Boolean),
        DeValue::Integer(value) => {
            // Converted to decimal from any radix. A number beyond 128 bits stays as written and is refused later.
            let decimal = i128::from_str_radix(value.as_str(), value.radix());
            (decimal.map_or_else(|_| value.as_str().to_owned(), |value| value.to_string()), ValueType::Integer)
        }
        DeValue::Array(members) => {
            let texts: Option<Vec<&str>> = members.iter().map(|member| member.get_ref().as_str()).collect();
            match texts {
                Some(texts) => (texts.join(&SEPARATOR.to_string()), ValueType::List),
                None => (String::new(), ValueType::Other("array")),
            }
        }
        other => (String::new(), ValueType::Other(other.type_str())),
    };
    RawValue { text, value_type, origin }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count().saturating_add(1)
}
