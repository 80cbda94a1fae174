//! The audit log as a whole: the task that seals entries and prunes old ones, and what readers get.
//!
//! Owns the retention: how long entries are kept, how many a plugin may have, and the checkpoint that is signed before
//! anything is deleted. Entries are appended by the transaction of the change that they are about (`db::audit`). This
//! module never writes one for others and never changes one. A chain that is broken is not pruned: it is evidence.

mod checkpoint;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use serde_json::json;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

pub use checkpoint::{Checkpoint, InvalidCheckpoint};

use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::db::audit::chain::{self, NewCheckpoint, StoredChain, StrayEntry};
use crate::db::audit::link::{HOST_CHAIN, Link, Position};
use crate::db::audit::seal::{self, Heads};
use crate::db::audit::search::{self, Filter, FoundEntry, Page};
use crate::db::audit::{self, Entry};
use crate::db::{Db, signing_key};
use crate::error::{Error, Result};
use crate::initiator::Initiator;

/// The time between two looks for entries that are not sealed.
const SEAL_INTERVAL: Duration = Duration::from_secs(1);
/// The time between two looks for entries that are too old.
const PRUNE_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// How many links or chains are in memory at once.
const PAGE: i64 = 500;
/// A plugin may exceed its bound by one entry in this number before its oldest entries are deleted. Each deletion is an
/// entry of the host, and a plugin that writes all the time must not cause one each second.
const SLACK: i64 = 100;

/// The most entries without a place in a chain that are reported at once.
const MAX_STRAYS: u8 = 100;
/// How long a reader of the chains waits for a pruning.
const PRUNE_WAIT: Duration = Duration::from_secs(5);

/// The audit log. Cheap to clone.
#[derive(Clone)]
pub struct AuditLog(Arc<Inner>);

struct Inner {
    db: Db,
    clock: Clock,
    node: Arc<str>,
    keep: Duration,
    plugin_entries: i64,
    state: Mutex<State>,
    counts: Counts,
}

/// The state that one task at a time uses.
#[derive(Default)]
struct State {
    heads: Heads,
    /// Chains that are known to be broken.
    broken: HashSet<String>,
    pruned_at: Option<Timestamp>,
}

/// A page of the chains.
#[derive(Debug)]
pub struct ChainsPage {
    /// The chains in the order of their names, each with its checkpoint.
    pub chains: Vec<(StoredChain, Option<Checkpoint>)>,
    /// The number of entries that are not sealed yet.
    pub unsealed: i64,
    /// Sealed entries that name one of these chains and have no place in it. The first page also has those of chains
    /// that do not exist. At most 100.
    pub strays: Vec<StrayEntry>,
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Counts {
    sealed: AtomicU64,
    pruned: AtomicU64,
    broken: AtomicU64,
}

impl Counts {
    /// Returns the number of sealed entries.
    pub fn sealed(&self) -> u64 {
        self.sealed.load(Ordering::Relaxed)
    }

    /// Returns the number of deleted entries.
    pub fn pruned(&self) -> u64 {
        self.pruned.load(Ordering::Relaxed)
    }

    /// Returns the number of chains that were found broken.
    pub fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }
}

impl AuditLog {
    /// Creates the audit log of this node.
    pub fn new(db: Db, clock: Clock, node: Arc<str>, config: &Config) -> Self {
        let plugin_entries = i64::try_from(config.plugins.audit_entries).unwrap_or(i64::MAX);
        let (state, counts) = Default::default();
        Self(Arc::new(Inner { db, clock, node, keep: config.audit.keep, plugin_entries, state, counts }))
    }

    /// Returns the counts.
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Seals and prunes until `stopping`.
    pub async fn run(self, stopping: CancellationToken) {
        let mut failing = false;
        self.log_head().await;
        loop {
            // A large log may take long, and must not delay the shutdown.
            let Some(done) = stopping.run_until_cancelled(self.tick()).await else { break };
            if let Err(error) = &done
                && !failing
            {
                // Entries stay unsealed until the database works again.
                tracing::warn!(error = error.report(), "the audit log cannot be sealed at present");
            }
            failing = done.is_err();
            if stopping.run_until_cancelled(tokio::time::sleep(SEAL_INTERVAL)).await.is_none() {
                break;
            }
        }
    }

    /// Seals the last entries at the shutdown.
    ///
    /// # Errors
    /// The database fails.
    pub async fn finish(&self) -> Result<()> {
        self.seal().await?;
        self.log_head().await;
        Ok(())
    }

    async fn tick(&self) -> Result<()> {
        self.seal().await?;
        let now = self.0.clock.now();
        let due = self.0.state.lock().await.pruned_at.is_none_or(|last| last.plus(PRUNE_INTERVAL) <= now);
        if due {
            self.prune(&Initiator::host()).await?;
        }
        Ok(())
    }

    /// Writes the head of the host's chain to the log, which is often stored elsewhere: a chain that lacks this entry
    /// was cut off.
    async fn log_head(&self) {
        if let Ok(Some(head)) = chain::find(&self.0.db, HOST_CHAIN).await {
            tracing::info!(sequence = head.sequence, hash = head.hash, "the audit log is sealed up to this entry");
        }
    }

    /// Seals all entries that are not sealed yet, and deletes the oldest entries of plugins that have too many.
    ///
    /// # Errors
    /// The database fails.
    pub async fn seal(&self) -> Result<()> {
        let Inner { db, node, counts, plugin_entries, .. } = &*self.0;
        let slack = (plugin_entries / SLACK).max(1);
        let mut state = self.0.state.lock().await;
        loop {
            let mut pruned = 0_u64;
            let sealed = seal::seal(db, node, &mut state.heads).await?;
            counts.sealed.fetch_add(u64::try_from(sealed.entries).unwrap_or_default(), Ordering::Relaxed);
            for chain in sealed.broken {
                self.report_broken(&mut state, &chain, "its end was cut off or changed while this host was running");
            }
            for name in sealed.chains.iter().filter(|name| *name != HOST_CHAIN) {
                let Some(chain) = chain::find(db, name).await? else { continue };
                let up_to = chain.sequence.saturating_sub(*plugin_entries);
                if up_to.saturating_sub(chain.checkpoint_sequence) >= slack {
                    let deleted = self.prune_chain(&mut state, &chain, up_to, &Initiator::host()).await?;
                    pruned = pruned.saturating_add(deleted);
                }
            }
            // The entry about a deletion is sealed at once, also at the shutdown.
            if !sealed.more && pruned == 0 {
                return Ok(());
            }
        }
    }

    /// Deletes the entries that are older than the configured time, after a signed checkpoint. Returns their number.
    ///
    /// # Errors
    /// The database fails.
    pub async fn prune(&self, by: &Initiator) -> Result<u64> {
        let Inner { db, clock, keep, .. } = &*self.0;
        let now = clock.now();
        let mut state = self.0.state.lock().await;
        let mut deleted = 0_u64;
        let mut after = String::new();
        loop {
            let chains = chain::list(db, &after, PAGE).await?;
            let Some(last) = chains.last() else { break };
            last.chain.clone_into(&mut after);
            for chain in chains {
                let begun = chain.checkpoint_sequence;
                let first = chain::first_since(db, &chain.chain, begun, now.minus(*keep)).await?;
                let up_to = first.map_or(chain.sequence, |first| first.saturating_sub(1));
                deleted = deleted.saturating_add(self.prune_chain(&mut state, &chain, up_to, by).await?);
            }
        }
        state.pruned_at = Some(now);
        drop(state);
        // Each deletion has an entry of its own, in the transaction of its checkpoint.
        if deleted == 0 && (by.actor.is_some() || by.key.is_some()) {
            let entry = Entry::of(by, now, "audit.prune", "audit").with_detail(json!({ "entries": 0 }));
            audit::insert(db, &entry).await?;
        }
        Ok(deleted)
    }

    /// Deletes the links of a chain up to a place, after a signed checkpoint and an entry about it. Returns their
    /// number.
    async fn prune_chain(&self, state: &mut State, chain: &StoredChain, up_to: i64, by: &Initiator) -> Result<u64> {
        let Inner { db, clock, counts, .. } = &*self.0;
        if state.broken.contains(&chain.chain) {
            return Ok(0);
        }
        let Some(begun) = self.begin(state, chain).await? else { return Ok(0) };
        // Nothing is deleted beyond a signed place.
        let mut signed = begun.sequence;
        if up_to > signed {
            let first = signed.saturating_add(1);
            let Some(position) = self.verify(state, chain, begun, up_to).await? else { return Ok(0) };
            signed = position.sequence;
            let now = clock.now();
            let checkpoint = Checkpoint::sign(&chain.chain, &position, now, &signing_key(db).await?);
            let text = json!(checkpoint).to_string();
            let new = NewCheckpoint {
                chain: &chain.chain,
                sequence: signed,
                checkpoint: &text,
                public_key: &checkpoint.public_key,
            };
            let entries = signed.saturating_sub(first).saturating_add(1);
            let detail = json!({ "entries": entries, "first": first, "last": signed });
            let object = format!("audit:{}", chain.chain);
            let entry = Entry::of(by, now, "audit.prune", object).with_detail(detail);
            if !chain::set_checkpoint(db, &new, &entry).await? {
                // Another node was faster.
                return Ok(0);
            }
        } else if signed == 0 {
            return Ok(0);
        }
        // A host that stopped after a checkpoint may have left some behind.
        let mut deleted = 0_u64;
        loop {
            let some = chain::delete_pruned(db, &chain.chain, signed).await?;
            if some == 0 {
                break;
            }
            deleted = deleted.saturating_add(some);
        }
        counts.pruned.fetch_add(deleted, Ordering::Relaxed);
        Ok(deleted)
    }

    /// Returns the place of the stored checkpoint. Returns `None` if the host did not sign it, or if the database
    /// permits deletions up to another place: then the chain is broken.
    async fn begin(&self, state: &mut State, chain: &StoredChain) -> Result<Option<Position>> {
        let begun = match chain.checkpoint.as_deref().map(read_checkpoint) {
            None => Ok(Position::default()),
            Some(Err(reason)) => Err(reason.to_string()),
            Some(Ok(checkpoint)) => match chain::is_checkpoint_key(&self.0.db, &checkpoint.public_key).await? {
                true => checkpoint.verify(&chain.chain).map_err(|reason| reason.to_string()),
                false => Err("the checkpoint was not signed by a key of this host".to_owned()),
            },
        };
        let checked = begun.and_then(|position| match position.sequence == chain.checkpoint_sequence {
            true => Ok(position),
            false => Err("the place of the checkpoint is not the signed one".to_owned()),
        });
        match checked {
            Ok(position) => Ok(Some(position)),
            Err(reason) => {
                self.report_broken(state, &chain.chain, &reason);
                Ok(None)
            }
        }
    }

    /// Verifies a chain from its checkpoint up to a place, so that no checkpoint hides a change. Returns `None` if the
    /// chain is broken.
    async fn verify(
        &self,
        state: &mut State,
        chain: &StoredChain,
        mut position: Position,
        up_to: i64,
    ) -> Result<Option<Position>> {
        while position.sequence < up_to {
            let limit = PAGE.min(up_to.saturating_sub(position.sequence));
            let links = chain::links(&self.0.db, &chain.chain, position.sequence, limit).await?;
            let checked = links.iter().try_for_each(|link| position.advance(link)).map_err(|reason| reason.to_string());
            let ended = checked.and_then(|()| match links.is_empty() {
                true => Err(format!("entry {} is missing", position.sequence.saturating_add(1))),
                false => Ok(()),
            });
            if let Err(reason) = ended {
                self.report_broken(state, &chain.chain, &reason);
                return Ok(None);
            }
        }
        Ok(Some(position))
    }

    fn report_broken(&self, state: &mut State, chain: &str, reason: &str) {
        if state.broken.insert(chain.to_owned()) {
            self.0.counts.broken.fetch_add(1, Ordering::Relaxed);
            tracing::error!(chain, reason, "a chain of the audit log is broken; it is not pruned any more");
        }
    }

    /// Returns a page of the entries that fit `filter`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn search(&self, filter: &Filter, page: Page) -> Result<Vec<FoundEntry>> {
        search::search(&self.0.db, filter, page).await
    }

    /// Returns a page of the chains, after the name `after`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn chains(&self, after: &str, limit: i64) -> Result<ChainsPage> {
        let db = &self.0.db;
        let unsealed = seal::count_unsealed(db).await?;
        // During a pruning, entries up to the new checkpoint are still there.
        let state = tokio::time::timeout(PRUNE_WAIT, self.0.state.lock()).await.ok();
        let mut chains = Vec::new();
        let mut strays = match after {
            "" => chain::strays_without_chain(db, MAX_STRAYS.into()).await?,
            _ => Vec::new(),
        };
        for chain in chain::list(db, after, limit).await? {
            let checkpoint = chain.checkpoint.as_deref().and_then(|text| read_checkpoint(text).ok());
            if strays.len() < usize::from(MAX_STRAYS) {
                let begun = checkpoint.as_ref().filter(|_| state.is_some()).map_or(0, |checkpoint| checkpoint.sequence);
                strays.extend(chain::strays_of(db, &chain.chain, begun, MAX_STRAYS.into()).await?);
            }
            chains.push((chain, checkpoint));
        }
        drop(state);
        strays.truncate(MAX_STRAYS.into());
        Ok(ChainsPage { chains, unsealed, strays })
    }

    /// Returns links of a chain in order, behind the place `after`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn links(&self, chain: &str, after: i64, limit: i64) -> Result<Vec<Link>> {
        chain::links(&self.0.db, chain, after, limit).await
    }
}

fn read_checkpoint(text: &str) -> Result<Checkpoint, InvalidCheckpoint> {
    serde_json::from_str(text).map_err(|_| InvalidCheckpoint)
}

/// Returns the key that signs access tokens. Its signatures of checkpoints are of another form than tokens.
async fn signing_key(db: &Db) -> Result<SigningKey> {
    let key = signing_key::list(db).await?.pop().ok_or_else(|| Error::internal("there is no signing key"))?;
    SigningKey::from_pkcs8_der(&key.private_key)
        .map_err(|error| Error::internal("the signing key cannot be used").with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_checkpoint_counts_only_with_a_key_of_the_host_and_at_the_signed_place() {
        let (_directory, db) = crate::db::tests::sqlite().await;
        let clock = Clock::manual(Timestamp(1_800_000_000_000_000));
        let log = AuditLog::new(db.clone(), clock.clone(), "node".into(), &Config::default());
        let entry = Entry::of(&Initiator::host(), clock.now(), "test.act", "test");
        audit::insert(&db, &entry).await.unwrap();
        log.seal().await.unwrap();

        let position = Position { sequence: 7, hash: "a".repeat(64) };
        let checkpoint = Checkpoint::sign(HOST_CHAIN, &position, clock.now(), &SigningKey::from_bytes(&[7; 32]));
        let text = json!(checkpoint).to_string();
        let stored = StoredChain {
            chain: HOST_CHAIN.to_owned(),
            sequence: 9,
            hash: "b".repeat(64),
            checkpoint_sequence: 7,
            checkpoint: Some(text.clone()),
        };
        let mut state = State::default();
        assert_eq!(log.begin(&mut state, &stored).await.unwrap(), None, "the key is another one");
        assert!(state.broken.contains(HOST_CHAIN));

        let new =
            NewCheckpoint { chain: HOST_CHAIN, sequence: 7, checkpoint: &text, public_key: &checkpoint.public_key };
        assert!(chain::set_checkpoint(&db, &new, &entry).await.unwrap());
        assert!(!chain::set_checkpoint(&db, &new, &entry).await.unwrap(), "it does not move");
        assert_eq!(log.begin(&mut State::default(), &stored).await.unwrap(), Some(position));
        let moved = StoredChain { checkpoint_sequence: 1_000_000_000, ..stored };
        assert_eq!(log.begin(&mut State::default(), &moved).await.unwrap(), None, "the place is not the signed one");
    }
}
