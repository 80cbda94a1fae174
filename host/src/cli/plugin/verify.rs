//! `wharf plugin verify`: who signed a component, when, and whether that holds. Asks no host.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::terminal::Terminal;
use super::read_component;
use super::sign::{read, read_signatures, small};
use crate::clock::{Clock, Timestamp};
use crate::plugin::artifact::Digest;
use crate::plugin::signature::{Broken, ComponentDigest, Signature};
use crate::public_key::TrustedKey;

/// Check the signatures of a component.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The component
    file: PathBuf,
    /// Keys that you trust: wharf-ed25519:…, NAME=wharf-ed25519:…, or a file with one; without any, who signed is only told
    #[arg(long, value_name = "PUBLIC")]
    key: Vec<String>,
    /// A signature beside the component
    #[arg(long, value_name = "FILE.sig")]
    signature: Option<PathBuf>,
}

/// A signature and what is known of it.
struct Checked {
    signature: Signature,
    detached: bool,
    /// The key as it was given with `--key`.
    trusted: Option<TrustedKey>,
    holds: Result<(), Broken>,
}

impl Verify {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let file = read_component(&self.file)?;
        let keys = self.key.iter().map(|text| trusted_key(text)).collect::<Result<Vec<_>, _>>()?;
        let beside = self.signature.as_deref().map(read_signatures).transpose()?.unwrap_or_default();
        let signed = read(&self.file, &file)?;
        let component = ComponentDigest::of(signed.component);
        let now = Clock::System.now();
        let inside = signed.signatures.into_iter().map(|signature| (signature, false));
        let checked: Vec<_> = inside
            .chain(beside.into_iter().map(|signature| (signature, true)))
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
                    "{} no --key was given: nothing was altered since it was signed, and whether that key may be \
                     trusted is yours to know",
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
            .next("Give wharf-ed25519:…, or the .pub file of `wharf plugin keygen`.")
    };
    match text.parse() {
        Ok(key) => Ok(key),
        // A file, and then what is wrong with the file is told.
        Err(_) if Path::new(text).is_file() => small(Path::new(text))?.parse().map_err(wrong),
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
    let holds = signature.check(component, now);
    Checked { signature, detached, trusted, holds }
}

/// Why the component is not verified, if it is not. As a host has it: a trusted key's signature must hold, other keys' say
/// nothing. Where no key is trusted, all must hold.
fn refusal(checked: &[Checked], keys_given: bool) -> Option<String> {
    if checked.is_empty() {
        return Some("it is not signed".to_owned());
    }
    let mut counting = checked.iter().filter(|one| !keys_given || one.trusted.is_some()).peekable();
    if counting.peek().is_none() {
        return Some("no key that you trust signed it".to_owned());
    }
    counting.find_map(|one| one.holds.err()).map(|broken| broken.to_string())
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
                "holds": one.holds.is_ok(),
                "reason": one.holds.err().map(|broken| broken.to_string()),
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
        let outcome = match (&one.holds, one.trusted.is_some()) {
            (Err(broken), _) => terminal.warning(&format!("does not hold: {broken}")),
            (Ok(()), true) => terminal.good("holds, trusted"),
            (Ok(()), false) => "holds".to_owned(),
        };
        terminal.line(format!("signed  {} by {name}: {outcome}", one.signature.at));
    }
}
