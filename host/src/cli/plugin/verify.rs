//! `wharf plugin verify`: checks the signatures of a component and shows their keys and times. It needs no host.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::component_file::read_component;
use super::sign::{read, read_signatures, read_small_text};
use crate::cli::failure::Failure;
use crate::cli::terminal::Terminal;
use crate::clock::{Clock, Timestamp};
use crate::plugin::artifact::Digest;
use crate::plugin::signature::{ComponentDigest, InvalidSignature, Signature};
use crate::public_key::TrustedKey;

/// Verify the signatures of a component.
#[derive(Debug, Args)]
pub(crate) struct VerifyCommand {
    /// The component
    file: PathBuf,
    /// Trusted keys: wharf-ed25519:…, NAME=wharf-ed25519:…, or a file with one. Without any, all signatures are shown
    /// and must be valid
    #[arg(long, value_name = "PUBLIC")]
    key: Vec<String>,
    /// A file with detached signatures
    #[arg(long, value_name = "FILE.sig")]
    signature: Option<PathBuf>,
}

/// A signature and the result of its check.
struct Checked {
    signature: Signature,
    detached: bool,
    /// The trusted key of `--key`, if one matches.
    trusted: Option<TrustedKey>,
    validity: Result<(), InvalidSignature>,
}

impl VerifyCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let file = read_component(&self.file)?;
        let keys = self.key.iter().map(|text| trusted_key(text)).collect::<Result<Vec<_>, _>>()?;
        let detached = self.signature.as_deref().map(read_signatures).transpose()?.unwrap_or_default();
        let signed = read(&self.file, &file)?;
        let component = ComponentDigest::of(signed.component);
        let now = Clock::System.now();
        let inside = signed.signatures.into_iter().map(|signature| (signature, false));
        let checked: Vec<_> = inside
            .chain(detached.into_iter().map(|signature| (signature, true)))
            .map(|(signature, detached)| check(signature, detached, &keys, component, now))
            .collect();

        let reason = refusal(&checked, !keys.is_empty());
        let digest = Digest::of(&file);
        if terminal.is_json() {
            terminal.json(&report(&self.file, &digest, component, &checked, reason.is_none()));
        } else {
            show(&digest, &checked, terminal);
        }
        match reason {
            Some(reason) => Err(Failure::new(format!("{} is not verified: {reason}", self.file.display()))),
            None if keys.is_empty() => {
                terminal.note(format!(
                    "{} no --key was given: the signatures are valid, but no key was checked against keys that you \
                     trust",
                    terminal.warning("note:")
                ));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn trusted_key(text: &str) -> Result<TrustedKey, Failure> {
    let wrong = |error| {
        Failure::usage(format!("--key {text:?} {error}"))
            .next("Pass wharf-ed25519:…, or the .pub file of `wharf plugin keygen`.")
    };
    match text.parse() {
        Ok(key) => Ok(key),
        // It is a file, so the error is about its content.
        Err(_) if Path::new(text).is_file() => read_small_text(Path::new(text))?.parse().map_err(wrong),
        Err(error) => Err(wrong(error)),
    }
}

fn check(
    signature: Signature,
    detached: bool,
    keys: &[TrustedKey],
    component: ComponentDigest,
    now: Timestamp,
) -> Checked {
    let trusted = keys.iter().find(|trusted| trusted.key == signature.key).cloned();
    let validity = signature.check(component, now);
    Checked { signature, detached, trusted, validity }
}

/// Returns the reason why the component is not verified, or `None`. The rule is a host's: signatures of trusted keys
/// must be valid, and other keys are ignored. If no key is given, all signatures must be valid.
fn refusal(checked: &[Checked], keys_given: bool) -> Option<String> {
    if checked.is_empty() {
        return Some("it is not signed".to_owned());
    }
    let mut relevant = checked.iter().filter(|one| !keys_given || one.trusted.is_some()).peekable();
    if relevant.peek().is_none() {
        return Some("no key that you trust signed it".to_owned());
    }
    relevant.find_map(|one| one.validity.err()).map(|broken| broken.to_string())
}

fn report(path: &Path, digest: &Digest, component: ComponentDigest, checked: &[Checked], verified: bool) -> Value {
    let signatures: Vec<Value> = checked
        .iter()
        .map(|one| {
            json!({
                "key": one.signature.key.to_string(),
                "name": one.trusted.as_ref().and_then(|trusted| trusted.name.clone()),
                "trusted": one.trusted.is_some(),
                "signed_at": one.signature.at,
                "detached": one.detached,
                "holds": one.validity.is_ok(),
                "reason": one.validity.err().map(|broken| broken.to_string()),
            })
        })
        .collect();
    json!({
        "file": path,
        "verified": verified,
        "digest": digest,
        "component_digest": component.to_string(),
        "signatures": signatures,
    })
}

fn show(digest: &Digest, checked: &[Checked], terminal: &Terminal) {
    terminal.line(format!("digest  {digest}"));
    for one in checked {
        let name = one.trusted.as_ref().map_or_else(|| one.signature.key.to_string(), ToString::to_string);
        let outcome = match (&one.validity, one.trusted.is_some()) {
            (Err(broken), _) => terminal.warning(&format!("not valid: {broken}")),
            (Ok(()), true) => terminal.good("valid, trusted"),
            (Ok(()), false) => "valid".to_owned(),
        };
        terminal.line(format!("signed  {} by {name}: {outcome}", one.signature.at));
    }
}
