//! `wharf plugin keygen`: a pair of keys in two files. The private one is for its owner only, and neither replaces a file
//! that is there: a lost key cannot be made again.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::super::failure::Failure;
use super::super::terminal::Terminal;
use crate::clock::Random;
use crate::plugin::signature::PrivateKey;

/// Make a pair of keys to sign with.
#[derive(Debug, Args)]
pub(crate) struct Keygen {
    /// Where to write the private key; the public one is written to FILE.pub
    #[arg(long, value_name = "FILE", default_value = "wharf-signing.key")]
    out: PathBuf,
}

impl Keygen {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let private = self.out;
        let mut public = private.clone().into_os_string();
        public.push(".pub");
        let public = PathBuf::from(public);
        let key = PrivateKey::generate(&Random::System).map_err(|error| Failure::host(&error))?;
        let pem = key.to_pem().map_err(|error| Failure::host(&error))?;
        // The public file first: where it cannot be made, there is no private key without its other half.
        create(&public, 0o644, &format!("{}\n", key.public_key()))?;
        if let Err(failure) = create(&private, 0o600, pem.expose()) {
            let _ = std::fs::remove_file(&public);
            return Err(failure);
        }
        if terminal.is_json() {
            let public_key = key.public_key().to_string();
            terminal.json(&json!({ "private_file": private, "public_file": public, "public_key": public_key }));
            return Ok(());
        }
        terminal.line(key.public_key().to_string());
        terminal.note(format!("{} {} and {}", terminal.good("Wrote"), private.display(), public.display()));
        terminal.hint(format!(
            "Keep {} secret: whoever has it signs in your name. Operators put the public key into plugins.trusted_keys; \
             `wharf plugin sign FILE --key {}` signs",
            private.display(),
            private.display()
        ));
        Ok(())
    }
}

fn create(path: &Path, mode: u32, text: &str) -> Result<(), Failure> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::new(format!("{} is there already", path.display()))
            .next("A key that is in use is never overwritten; give another name with --out."),
        _ => Failure::new(format!("{}: {error}", path.display())),
    })
}
