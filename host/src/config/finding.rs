//! Findings of the configuration, and the origins of its values. Owns their texts for people; knows no setting.

use std::fmt;
use std::path::PathBuf;

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// No source set it.
    Default,
    /// A line of the file; `None` means the file as a whole.
    File(PathBuf, Option<usize>),
    /// A variable.
    Environment(String),
    /// A flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, Some(line)) => write!(f, "{}:{line}", path.display()),
            Self::File(path, None) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A setting with a wrong value, or an unknown key.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Where it was found.
    pub origin: Origin,
    /// The setting that it is about, if any.
    pub key: Option<String>,
    /// The reason, and the accepted values.
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
