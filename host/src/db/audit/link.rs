//! A sealed entry of the audit log, and the check of a chain of them. Owns the bytes that a hash is computed from: the
//! host seals with it, and `wharf audit verify` computes the same hashes from the API. Never reads the database.
//!
//! The hash of an entry is the SHA-256, in hexadecimal, over its members in the order of [`Link::hash_after`]. Each
//! member that the entry has contributes its name, a space, the length of its value in bytes, a line feed, the value
//! and a line feed. The first member is the hash of the entry before it.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::entry_row;

/// The chain of the host's own entries.
pub const HOST_CHAIN: &str = "host";

/// The hash before the first entry of a chain.
pub const BEGINNING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

entry_row! {
    /// A sealed entry, with the texts as stored.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
    pub struct Link {
        /// The chain: `host`, or `plugin:` and the name of the plugin that recorded the entry.
        pub chain: String,
        /// The place in the chain, from 1.
        pub sequence: i64,
        /// The id of the entry in this database.
        pub id: i64,
        /// The node that sealed the entry.
        pub node: String,
    } and {
        /// The hash of this entry.
        pub hash: String,
    }
}

impl Link {
    /// Returns the chain that an entry belongs to.
    pub fn chain_of(plugin: Option<&str>, action: &str) -> String {
        // The host refuses actions of plugins that begin so.
        match plugin {
            Some(plugin) if !action.starts_with("plugin.") => format!("plugin:{plugin}"),
            _ => HOST_CHAIN.to_owned(),
        }
    }

    /// Computes the hash of this entry after the entry with the hash `previous`.
    pub fn hash_after(&self, previous: &str) -> String {
        let mut hash = Sha256::new();
        let mut add = |name: &str, value: &str| {
            hash.update(format!("{name} {}\n", value.len()));
            hash.update(value);
            hash.update("\n");
        };
        add("previous", previous);
        add("chain", &self.chain);
        add("sequence", &self.sequence.to_string());
        add("id", &self.id.to_string());
        add("node", &self.node);
        add("at", &self.at.to_string());
        let optional = [
            ("actor", self.actor.map(|actor| actor.to_string())),
            ("key", self.key.map(|key| key.to_string())),
            ("address", self.address.clone()),
            ("plugin", self.plugin.clone()),
            ("action", Some(self.action.clone())),
            ("object", Some(self.object.clone())),
            ("outcome", Some(self.outcome.clone())),
            ("before", self.before.clone()),
            ("after", self.after.clone()),
            ("detail", Some(self.detail.clone())),
            ("request_id", self.request_id.clone()),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                add(name, &value);
            }
        }
        let mut text = String::with_capacity(64);
        for byte in hash.finalize() {
            // Writing to a string never fails.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

/// A place in a chain: everything up to it is known to be complete and unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The place of the last entry.
    pub sequence: i64,
    /// The hash of that entry.
    pub hash: String,
}

impl Default for Position {
    fn default() -> Self {
        Self { sequence: 0, hash: BEGINNING.to_owned() }
    }
}

/// The reason why a chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Entries are missing.
    #[error("entry {expected} is missing: entry {found} follows entry {}", expected.saturating_sub(1))]
    Missing {
        /// The place of the first missing entry.
        expected: i64,
        /// The place of the entry that was found instead.
        found: i64,
    },
    /// An entry was changed, or put in the place of another one.
    #[error("entry {0} was changed, or the entry before it was: its hash does not fit")]
    Changed(i64),
}

impl Position {
    /// Checks that `link` is the next entry of the chain, and moves to it.
    ///
    /// # Errors
    /// It is not.
    pub fn advance(&mut self, link: &Link) -> Result<(), Broken> {
        let expected = self.sequence.saturating_add(1);
        if link.sequence != expected {
            return Err(Broken::Missing { expected, found: link.sequence });
        }
        if link.hash_after(&self.hash) != link.hash {
            return Err(Broken::Changed(link.sequence));
        }
        *self = Self { sequence: link.sequence, hash: link.hash.clone() };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn chain(length: i64) -> Vec<Link> {
        let mut position = Position::default();
        let links = (1..=length).map(|sequence| {
            let mut link = Link {
                chain: HOST_CHAIN.to_owned(),
                sequence,
                id: sequence + 10,
                node: "n-1".to_owned(),
                at: Timestamp(1_800_000_000_123_456 + sequence),
                actor: None,
                key: None,
                address: Some("192.0.2.1".to_owned()),
                plugin: None,
                action: "user.update".to_owned(),
                object: format!("user:{sequence}"),
                outcome: "success".to_owned(),
                before: None,
                after: Some("{}".to_owned()),
                detail: "null".to_owned(),
                request_id: None,
                hash: String::new(),
            };
            link.hash = link.hash_after(&position.hash);
            position.advance(&link).unwrap();
            link
        });
        links.collect()
    }

    fn check(links: &[Link]) -> Result<Position, Broken> {
        let mut position = Position::default();
        links.iter().try_for_each(|link| position.advance(link))?;
        Ok(position)
    }

    #[test]
    fn every_member_of_an_entry_is_part_of_its_hash() {
        let links = chain(3);
        assert_eq!(check(&links).unwrap().sequence, 3);
        let value = serde_json::to_value(&links[1]).unwrap();
        for (name, member) in value.as_object().unwrap().iter().filter(|(name, _)| *name != "sequence") {
            let mut changed = value.clone();
            changed[name] = match (name.as_str(), member) {
                ("id", _) => 99.into(),
                ("at", _) => "2027-01-15T08:00:00Z".into(),
                ("actor" | "key", _) => "00000000-0000-4000-8000-000000000001".into(),
                (_, serde_json::Value::Null) => "".into(),
                (_, text) => format!("{}x", text.as_str().unwrap()).into(),
            };
            let mut links = links.clone();
            links[1] = serde_json::from_value(changed).unwrap();
            assert_eq!(check(&links), Err(Broken::Changed(2)), "{name}");
        }
    }

    #[test]
    fn a_removed_or_moved_entry_shows() {
        let links = chain(4);
        let without = |at: usize| {
            let mut links = links.clone();
            links.remove(at);
            check(&links)
        };
        assert_eq!(without(0), Err(Broken::Missing { expected: 1, found: 2 }));
        assert_eq!(without(2), Err(Broken::Missing { expected: 3, found: 4 }));
        let mut swapped = links.clone();
        swapped.swap(1, 2);
        assert_eq!(check(&swapped), Err(Broken::Missing { expected: 2, found: 3 }));
        let mut renumbered = swapped;
        (renumbered[1].sequence, renumbered[2].sequence) = (2, 3);
        assert_eq!(check(&renumbered), Err(Broken::Changed(2)));
    }

    #[test]
    fn text_cannot_move_from_one_member_to_the_next() {
        let mut link = chain(1).remove(0);
        let before = link.hash_after(BEGINNING);
        (link.action, link.object) = ("user.updat".to_owned(), format!("e{}", link.object));
        assert_ne!(link.hash_after(BEGINNING), before);
    }

    /// The form is public: programs of others compute it too.
    #[test]
    fn the_hash_of_an_entry_is_known() {
        let link = chain(1).remove(0);
        let text = format!(
            "previous 64\n{BEGINNING}\nchain 4\nhost\nsequence 1\n1\nid 2\n11\nnode 3\nn-1\n\
             at 27\n2027-01-15T08:00:00.123457Z\naddress 9\n192.0.2.1\naction 11\nuser.update\nobject 6\nuser:1\n\
             outcome 7\nsuccess\nafter 2\n{{}}\ndetail 4\nnull\n"
        );
        let hash: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(link.hash, hash);
    }
}
