//! `wharf audit verify`: reads each chain from its checkpoint to its end, computes all hashes anew and compares them.

use std::collections::BTreeSet;

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::audit::Checkpoint;
use crate::cli::api::{AUDIT, Api, Remote};
use crate::cli::failure::Failure;
use crate::cli::plugin::view::printable;
use crate::cli::terminal::Terminal;
use crate::db::audit::chain::StrayEntry;
use crate::db::audit::link::{Link, Position};

/// The entries or chains of one request.
const PAGE: usize = 500;

/// Verify the audit log.
#[derive(Debug, Args)]
pub(in crate::cli) struct VerifyCommand {
    /// An entry that must be in the log, as an earlier verification printed it; repeatable. One that was pruned since
    /// needs --key
    #[arg(long, value_name = "CHAIN@SEQUENCE:HASH")]
    contains: Vec<Known>,
    /// A public key that must have signed the checkpoints, kept from an earlier verification or key set; repeatable
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    #[command(flatten)]
    remote: Remote,
}

/// An entry that is known from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    chain: String,
    sequence: i64,
    hash: String,
}

impl std::str::FromStr for Known {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = || {
            let (chain, place) = text.split_once('@')?;
            let (sequence, hash) = place.split_once(':')?;
            let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_hash.then_some(Self {
                chain: chain.to_owned(),
                sequence: sequence.parse().ok()?,
                hash: hash.to_ascii_lowercase(),
            })
        };
        parts().ok_or_else(|| "is not of the form host@17:HASH, with the hash in 64 hexadecimal digits".to_owned())
    }
}

/// A chain as the host reports it.
#[derive(Debug, Deserialize)]
struct Chain {
    chain: String,
    sequence: i64,
    hash: String,
    checkpoint: Option<Checkpoint>,
}

#[derive(Debug, Deserialize)]
struct ChainsPage {
    data: Vec<Chain>,
    unsealed: i64,
    strays: Vec<StrayEntry>,
}

#[derive(Debug, Deserialize)]
struct LinksPage {
    data: Vec<Link>,
}

/// A verified chain.
struct Verified {
    pruned: i64,
    position: Position,
    key: Option<String>,
    /// The places of `--contains` that were pruned, while no key is pinned. Anyone who can write to the database can
    /// sign a checkpoint with a key of their own and delete the entries before it.
    unproven: Vec<i64>,
}

impl VerifyCommand {
    pub(in crate::cli) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let api = Api::open(&self.remote)?;
        let ChainsPage { data: chains, unsealed, strays } = chains(&api)?;
        let mut shown = Vec::new();
        let mut rows = Vec::new();
        let mut findings: Vec<String> = strays.iter().map(stray).collect();
        let mut unproven_entries = Vec::new();
        for chain in &chains {
            match self.verify_twice(&api, chain)? {
                Ok(Verified { pruned, position: Position { sequence, hash }, key, unproven }) => {
                    let name = &chain.chain;
                    unproven_entries.extend(unproven.iter().map(|place| {
                        format!(
                            "{}: entry {place} was pruned; only --key can show that the host did it",
                            printable(name)
                        )
                    }));
                    rows.push([printable(name), pruned.to_string(), sequence.to_string(), hash.clone()]);
                    shown.push(json!({ "chain": name, "pruned": pruned, "sequence": sequence, "hash": hash,
                        "checkpoint_key": key, "anchor": format!("{name}@{sequence}:{hash}") }));
                }
                Err(reason) => findings.push(format!("{}: {reason}", printable(&chain.chain))),
            }
        }
        let absent = |known: &&Known| chains.iter().all(|chain| chain.chain != known.chain);
        findings
            .extend(self.contains.iter().filter(absent).map(|known| format!("{}: the chain is missing", known.chain)));
        let failed = |text: &str, next: &str, details: Vec<String>| {
            let mut failure = Failure::new(text);
            failure.members.insert("chains".to_owned(), Value::Array(shown.clone()));
            failure.details = details;
            Err(failure.next(next))
        };
        if !findings.is_empty() {
            findings.append(&mut unproven_entries);
            let next = "Entries before the named one are intact. Compare the rest with an earlier export.";
            return failed("the audit log was changed", next, findings);
        }
        if !unproven_entries.is_empty() {
            let next =
                "Name the key that an earlier verification printed with --key, or a later entry with --contains.";
            return failed("the audit log cannot be verified", next, unproven_entries);
        }
        if terminal.is_json() {
            terminal.json(&json!({ "valid": true, "chains": shown, "unsealed": unsealed }));
            return Ok(());
        }
        let keys: BTreeSet<&str> =
            shown.iter().filter_map(|chain| chain.get("checkpoint_key").and_then(Value::as_str)).collect();
        let is_trusting = self.key.is_empty() && !keys.is_empty();
        terminal.table(["CHAIN", "PRUNED", "LAST ENTRY", "HASH"], &rows);
        if is_trusting {
            terminal.line(terminal.good("The audit log is complete and unchanged since its checkpoints"));
            for key in keys {
                terminal
                    .hint(format!("A checkpoint is signed by {}; compare it and name it with --key", printable(key)));
            }
        } else {
            terminal.line(terminal.good("The audit log is complete and unchanged"));
        }
        if unsealed > 0 {
            terminal.hint(format!("{unsealed} entries are too new to be sealed yet"));
        }
        terminal.hint("Keep the hashes elsewhere; --contains CHAIN@SEQUENCE:HASH compares with them later");
        Ok(())
    }

    /// Verifies a chain. If the host pruned it meanwhile, entries that were just listed are gone, so a chain counts as
    /// broken only if it is so twice.
    fn verify_twice(&self, api: &Api, chain: &Chain) -> Result<Result<Verified, String>, Failure> {
        let first = self.verify(api, chain)?;
        if first.is_ok() {
            return Ok(first);
        }
        match chains(api)?.data.iter().find(|again| again.chain == chain.chain) {
            Some(again) => self.verify(api, again),
            None => Ok(Err("the chain is missing".to_owned())),
        }
    }

    fn verify(&self, api: &Api, chain: &Chain) -> Result<Result<Verified, String>, Failure> {
        let mut position = match &chain.checkpoint {
            None => Position::default(),
            Some(checkpoint) => match checkpoint.verify(&chain.chain) {
                Ok(position) => position,
                Err(reason) => return Ok(Err(reason.to_string())),
            },
        };
        let key = chain.checkpoint.as_ref().map(|checkpoint| checkpoint.public_key.clone());
        if let Some(key) = key.as_ref().filter(|key| !self.key.is_empty() && !self.key.contains(key)) {
            return Ok(Err(format!("another key signed the checkpoint: {}", printable(key))));
        }
        let pruned = position.sequence;
        let mut known: Vec<&Known> = self.contains.iter().filter(|known| known.chain == chain.chain).collect();
        let unproven: Vec<i64> = match self.key.is_empty() {
            true => known.iter().map(|known| known.sequence).filter(|sequence| *sequence <= pruned).collect(),
            false => Vec::new(),
        };
        known.retain(|known| known.sequence >= pruned);
        let mut compare = |position: &Position| {
            let differs = known.iter().any(|known| known.sequence == position.sequence && known.hash != position.hash);
            known.retain(|known| known.sequence != position.sequence);
            if differs {
                Err(format!("entry {} is not the one that --contains names", position.sequence))
            } else {
                Ok(())
            }
        };
        if let Err(reason) = compare(&position) {
            return Ok(Err(reason));
        }
        let path = utf8_percent_encode(&chain.chain, NON_ALPHANUMERIC).to_string();
        loop {
            // The last entry is read again: an entry of the same place must not hide between two pages.
            let is_begun = position.sequence > pruned;
            let after = position.sequence.saturating_sub(i64::from(is_begun));
            let page: LinksPage = parse(&api.get_text(&format!("{AUDIT}chains/{path}?after={after}&limit={PAGE}"))?)?;
            let known_links = page.data.iter().filter(|link| link.sequence <= chain.sequence);
            for link in known_links.clone().skip(usize::from(is_begun)) {
                if link.chain != chain.chain {
                    return Ok(Err(format!("entry {} belongs to another chain", link.sequence)));
                }
                if let Err(reason) =
                    position.advance(link).map_err(|reason| reason.to_string()).and_then(|()| compare(&position))
                {
                    return Ok(Err(reason));
                }
            }
            if page.data.len() < PAGE || known_links.count() < page.data.len() {
                break;
            }
        }
        if position.sequence < chain.sequence {
            let next = position.sequence.saturating_add(1);
            return Ok(Err(format!("entry {next} is missing, and so are all later ones")));
        }
        if position.hash != chain.hash {
            return Ok(Err(format!("entry {} is not the last one that the host sealed", position.sequence)));
        }
        if let Some(missing) = known.first() {
            return Ok(Err(format!("entry {} is missing: the end was cut off", missing.sequence)));
        }
        Ok(Ok(Verified { pruned, position, key, unproven }))
    }
}

/// Returns a finding about an entry that has no place in a chain.
fn stray(entry: &StrayEntry) -> String {
    let StrayEntry { id, chain, sequence } = entry;
    let what = format!("the entry with the id {id} was added or moved");
    match chain {
        Some(chain) => format!("{}: {what}: the chain has no place {sequence}", printable(chain)),
        None => format!("{what}: it has the place {sequence} of no chain"),
    }
}

/// Returns all chains, with the number of entries that are not sealed, and the entries that have no place.
fn chains(api: &Api) -> Result<ChainsPage, Failure> {
    let mut all = ChainsPage { data: Vec::new(), unsealed: 0, strays: Vec::new() };
    loop {
        let after = all.data.last().map(|chain| utf8_percent_encode(&chain.chain, NON_ALPHANUMERIC).to_string());
        let path = format!("{AUDIT}chains?after={}&limit={PAGE}", after.unwrap_or_default());
        let page: ChainsPage = parse(&api.get_text(&path)?)?;
        let is_last = page.data.len() < PAGE;
        all.data.extend(page.data);
        all.strays.extend(page.strays);
        all.unsealed = page.unsealed;
        if is_last {
            return Ok(all);
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::new(format!("the response is of another form: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_entry_is_read_as_a_verification_prints_it() {
        let hash = "Ab".repeat(32);
        let known = Known { chain: "plugin:items".to_owned(), sequence: 17, hash: "ab".repeat(32) };
        assert_eq!(format!("plugin:items@17:{hash}").parse(), Ok(known));
        for text in ["", "host", "host@17", "host@x:ab", "host@17:ab", &format!("host:17@{hash}")] {
            assert!(text.parse::<Known>().is_err(), "{text}");
        }
    }
}
