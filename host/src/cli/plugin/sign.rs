//! `wharf plugin sign`: adds a signature to a component, or to a file of its own. Signatures of other keys stay if they
//! are valid for this component; an earlier signature of the same key is replaced.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::component_file::read_component;
use crate::cli::failure::Failure;
use crate::cli::terminal::Terminal;
use crate::clock::{Clock, Timestamp};
use crate::plugin::artifact::Digest;
use crate::plugin::signature::{ComponentDigest, MAX_SIGNATURES, PrivateKey, Signature, SignedFile, Unreadable};

/// The largest key file or signature file, in bytes.
const MAX_SMALL_FILE: u64 = 64 * 1024;

/// Sign a component.
#[derive(Debug, Args)]
pub(crate) struct SignCommand {
    /// The component
    file: PathBuf,
    /// The private key, as `wharf plugin keygen` writes it
    #[arg(long, value_name = "KEYFILE")]
    key: PathBuf,
    /// Write the signature to a file of its own and leave the component unchanged
    #[arg(long)]
    detached: bool,
    /// The file for the signed component, or for the signature [default: FILE itself, with --detached FILE.sig]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl SignCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let file = read_component(&self.file)?;
        let signed = read(&self.file, &file)?;
        let key = read_key(&self.key, terminal)?;
        let component = ComponentDigest::of(signed.component);
        let now = Clock::System.now();
        let signature = Signature::sign(&key, component, now);
        let (out, digest) = if self.detached {
            let out = self.out.unwrap_or_else(|| detached_path(&self.file));
            let (kept, left_out) = others(&out, &signature, component, now)?;
            if left_out > 0 {
                terminal.note(format!("Removed from {}: {left_out} signatures of another component", out.display()));
            }
            replace(&out, lines(&with(kept, &signature)?).as_bytes(), None)?;
            (out, Digest::of(&file))
        } else {
            check_others(&self.file, &signed, &signature, now)?;
            let signatures = with(signed.signatures, &signature)?;
            let bytes = SignedFile { component: signed.component, signatures }.write();
            let permissions = std::fs::metadata(&self.file).map(|metadata| metadata.permissions()).ok();
            let out = self.out.unwrap_or(self.file);
            replace(&out, &bytes, permissions)?;
            (out, Digest::of(&bytes))
        };
        if terminal.is_json() {
            terminal.json(&json!({
                "file": out, "detached": self.detached, "digest": digest, "component_digest": component.to_string(),
                "key": signature.key.to_string(), "signed_at": signature.at,
            }));
            return Ok(());
        }
        terminal.line(format!("{} {}", terminal.good("Signed"), out.display()));
        terminal.line(format!("  by      {}", signature.key));
        terminal.line(format!("  at      {}", signature.at));
        terminal.line(format!("  digest  {digest}"));
        Ok(())
    }
}

/// Returns the default file of a detached signature, `FILE.sig`.
fn detached_path(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// Splits a file into the component and its signatures.
pub(super) fn read<'f>(path: &Path, file: &'f [u8]) -> Result<SignedFile<'f>, Failure> {
    SignedFile::read(file).map_err(|error| {
        let failure = Failure::new(format!("{}: {error}", path.display()));
        match error {
            Unreadable::Preamble | Unreadable::Cut(_) => failure.next("Is the file complete?"),
            _ => failure.next("The file was altered after it was signed; build it again, then sign it."),
        }
    })
}

/// Reads a file of detached signatures.
pub(super) fn read_signatures(path: &Path) -> Result<Vec<Signature>, Failure> {
    let text = read_small_text(path)?;
    Signature::read_lines(&text)
        .map_err(|(line, error)| Failure::new(format!("{}:{line} is not a signature: {error}", path.display())))
}

/// Reads a text file, and refuses one that is too large to be the right one.
pub(super) fn read_small_text(path: &Path) -> Result<String, Failure> {
    let failure = |reason: String| Failure::usage(format!("{}: {reason}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| failure(error.to_string()))?.len();
    if length > MAX_SMALL_FILE {
        return Err(failure("it is too large; is it the right file?".to_owned()));
    }
    std::fs::read_to_string(path).map_err(|error| failure(error.to_string()))
}

fn read_key(path: &Path, terminal: &Terminal) -> Result<PrivateKey, Failure> {
    let key = PrivateKey::from_pem(&read_small_text(path)?).map_err(|error| {
        Failure::usage(format!("{}: {error}", path.display())).next("`wharf plugin keygen` creates one.")
    })?;
    let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode()).unwrap_or_default();
    if mode & 0o077 != 0 {
        terminal.note(format!(
            "{} {} can be read by other users; run chmod 600, and create a new key if anybody read it",
            terminal.warning("note:"),
            path.display()
        ));
    }
    Ok(key)
}

/// Refuses a file with an invalid signature of another key, because a host would refuse it too.
fn check_others(path: &Path, signed: &SignedFile<'_>, ours: &Signature, now: Timestamp) -> Result<(), Failure> {
    let component = ComponentDigest::of(signed.component);
    for other in signed.signatures.iter().filter(|other| other.key != ours.key) {
        other.check(component, now).map_err(|error| {
            Failure::new(format!("{}: the signature of {} is not valid: {error}", path.display(), other.key))
                .next("Build the component again, then sign it.")
        })?;
    }
    Ok(())
}

/// Returns the valid signatures of other keys in the output file, and the number of those that are dropped because they
/// are of another component, such as an earlier build.
fn others(
    out: &Path,
    ours: &Signature,
    component: ComponentDigest,
    now: Timestamp,
) -> Result<(Vec<Signature>, usize), Failure> {
    match std::fs::metadata(out) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        _ => {}
    }
    let found =
        read_signatures(out).map_err(|failure| failure.next("Remove it, or choose another file with --out."))?;
    let others: Vec<_> = found.into_iter().filter(|other| other.key != ours.key).collect();
    let count = others.len();
    let kept: Vec<_> = others.into_iter().filter(|other| other.check(component, now).is_ok()).collect();
    let left_out = count - kept.len();
    Ok((kept, left_out))
}

/// Adds a signature, or replaces the one of the same key.
fn with(mut signatures: Vec<Signature>, ours: &Signature) -> Result<Vec<Signature>, Failure> {
    match signatures.iter_mut().find(|other| other.key == ours.key) {
        Some(other) => ours.clone_into(other),
        None => signatures.push(ours.clone()),
    }
    if signatures.len() > MAX_SIGNATURES {
        return Err(Failure::new(format!("it has {MAX_SIGNATURES} signatures already, and a host reads no more")));
    }
    Ok(signatures)
}

fn lines(signatures: &[Signature]) -> String {
    signatures.iter().map(|signature| format!("{signature}\n")).collect()
}

/// Writes a file atomically: a new file first, then a rename.
fn replace(path: &Path, bytes: &[u8], permissions: Option<Permissions>) -> Result<(), Failure> {
    // The target of a symbolic link is replaced, not the link.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let write = || {
        let mut file = File::create(&fresh)?;
        file.write_all(bytes)?;
        if let Some(permissions) = permissions {
            file.set_permissions(permissions)?;
        }
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    };
    write().map_err(|error: std::io::Error| {
        let _ = std::fs::remove_file(&fresh);
        Failure::new(format!("cannot write {}: {error}", path.display()))
    })
}
