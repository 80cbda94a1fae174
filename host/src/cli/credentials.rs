//! The stored logins of the person at the command line: one token per host, in a file that only they can read.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::failure::Failure;

/// The file's content.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    #[serde(default)]
    hosts: BTreeMap<String, StoredLogin>,
}

/// A login of one host. The refresh token is not stored, so it cannot be stolen, and signing in again is easy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredLogin {
    pub(super) email: String,
    pub(super) access_token: String,
}

/// `$XDG_CONFIG_HOME/wharf/credentials.toml`, or below `~/.config` if that is unset.
pub(super) struct Credentials {
    path: PathBuf,
}

impl Credentials {
    /// Locates the file of the person who runs this process.
    pub(super) fn of_person() -> Result<Self, Failure> {
        let base = std::env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| std::env::home_dir().map(|home| home.join(".config")))
            .ok_or_else(|| {
                Failure::new("no home directory").next("Set XDG_CONFIG_HOME, or give WHARF_TOKEN instead.")
            })?;
        Ok(Self { path: base.join("wharf").join("credentials.toml") })
    }

    /// Returns the login of a host, if there is one.
    pub(super) fn find(&self, url: &str) -> Result<Option<StoredLogin>, Failure> {
        Ok(self.read()?.hosts.remove(url))
    }

    /// Stores a login.
    pub(super) fn store(&self, url: &str, login: StoredLogin) -> Result<(), Failure> {
        let mut content = self.read()?;
        content.hosts.insert(url.to_owned(), login);
        self.write(&content)
    }

    /// Deletes a login. Returns whether there was one.
    pub(super) fn delete(&self, url: &str) -> Result<bool, Failure> {
        let mut content = self.read()?;
        let found = content.hosts.remove(url).is_some();
        if found {
            self.write(&content)?;
        }
        Ok(found)
    }

    fn read(&self) -> Result<Content, Failure> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Content::default()),
            Err(error) => return Err(self.failure(&error)),
        };
        toml::from_str(&text).map_err(|_| {
            // The parser's error is not shown: it quotes the line, and with it a token.
            Failure::new(format!("{} does not hold credentials", self.path.display()))
                .next("Remove it and run `wharf login`.")
        })
    }

    fn write(&self, content: &Content) -> Result<(), Failure> {
        let text =
            toml::to_string(content).map_err(|error| Failure::new(format!("cannot write credentials: {error}")))?;
        // A new file first, then a rename, so that a full disk does not destroy the stored logins.
        let fresh = self.path.with_extension("toml.new");
        let write = || {
            if let Some(directory) = self.path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            }
            match std::fs::remove_file(&fresh) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&fresh, &self.path)
        };
        write().map_err(|error: std::io::Error| self.failure(&error))
    }

    fn failure(&self, error: &std::io::Error) -> Failure {
        Failure::new(format!("{}: {error}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_login_is_stored_per_host_and_only_its_owner_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let credentials = Credentials { path: directory.path().join("wharf/credentials.toml") };
        assert!(credentials.find("http://a").unwrap().is_none());
        for url in ["http://a", "http://b"] {
            credentials.store(url, StoredLogin { email: "x@y.org".into(), access_token: url.into() }).unwrap();
        }
        assert_eq!(credentials.path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(credentials.find("http://a").unwrap().unwrap().access_token, "http://a");
        assert!(credentials.delete("http://a").unwrap());
        assert!(!credentials.delete("http://a").unwrap());
        assert!(credentials.find("http://b").unwrap().is_some());
    }
}
