//! `wharf plugin keygen`: writes a key pair to two files. Only the owner may read the private key. An existing file is
//! never overwritten, because a lost key cannot be recovered.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::terminal::Terminal;
use crate::clock::Random;
use crate::plugin::signature::PrivateKey;

/// Create a key pair for signatures.
#[derive(Debug, Args)]
pub(crate) struct KeygenCommand {
    /// The file for the private key; the public key is written to FILE.pub
    #[arg(long, value_name = "FILE", default_value = "wharf-signing.key")]
    out: PathBuf,
}

impl KeygenCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let private = self.out;
        let mut public = private.clone().into_os_string();
        public.push(".pub");
        let public = PathBuf::from(public);
        let key = PrivateKey::generate(&Random::System).map_err(|error| Failure::host(&error))?;
        let pem = key.to_pem().map_err(|error| Failure::host(&error))?;
        // The public key is written first, so that a private key never exists without it.
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
            "Keep {} secret: anybody who has it can sign in your name. Operators add the public key to \
             plugins.trusted_keys; `wharf plugin sign FILE --key {}` signs a component",
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
        ErrorKind::AlreadyExists => Failure::new(format!("{} exists already", path.display()))
            .next("A key file is never overwritten; choose another name with --out."),
        _ => Failure::new(format!("{}: {error}", path.display())),
    })
}
