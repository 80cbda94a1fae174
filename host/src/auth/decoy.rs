//! Decoys: the hashes against which passwords for unknown addresses are checked, so that the time of a sign-in does not
//! tell whether an account exists. Owns their choice.
//!
//! One fixed hash is not enough while some accounts still have hashes of another system or of another cost, which take
//! another time. So an unknown address gets the hash of a real account as its decoy, always the same one: among unknown
//! addresses, the kinds of hashes are as frequent as among accounts. The result of such a check is never used.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use sha2::{Digest as _, Sha256};

use crate::address::AddressKey;
use crate::clock::{Random, Timestamp};
use crate::db::{self, Db};
use crate::error::Result;

/// How long a sample is used: another process imports accounts, and new passwords replace their hashes.
const MAX_AGE: Duration = Duration::from_secs(600);

/// The number of hashes to choose from.
const SAMPLE: i64 = 64;

/// The decoys.
pub(super) struct Decoys {
    hashes: ArcSwap<Vec<String>>,
    read_at: AtomicI64,
    /// Nobody else can compute which decoy an address has.
    secret: [u8; 32],
}

impl Decoys {
    /// Reads the first sample.
    pub(super) async fn open(db: &Db, random: &Random, now: Timestamp) -> Result<Self> {
        let read_at = AtomicI64::new(now.0);
        let hashes = ArcSwap::from_pointee(db::user::sample_hashes(db, SAMPLE).await?);
        Ok(Self { hashes, read_at, secret: random.bytes()? })
    }

    /// Reads the sample again if it is old. Must be called for every sign-in, whether its address is known or not.
    pub(super) async fn renew(&self, db: &Db, now: Timestamp) -> Result<()> {
        if now >= Timestamp(self.read_at.load(Ordering::Relaxed)).plus(MAX_AGE) {
            self.read_at.store(now.0, Ordering::Relaxed);
            self.hashes.store(db::user::sample_hashes(db, SAMPLE).await?.into());
        }
        Ok(())
    }

    /// Makes the next sign-in read the sample again, because this one replaced an outdated hash. Until then, the account would
    /// be the only one with its kind of hash.
    pub(super) fn expire(&self) {
        self.read_at.store(i64::MIN, Ordering::Relaxed);
    }

    /// Returns the decoy of an address. `None` means that there are no accounts.
    pub(super) fn find(&self, address: &str) -> Option<String> {
        let hashes = self.hashes.load();
        let address = AddressKey::of(address);
        let address = address.as_ref().map_or("", AddressKey::as_str);
        let digest = Sha256::new().chain_update(self.secret).chain_update(address).finalize();
        let number = digest.iter().take(8).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
        let length = u64::try_from(hashes.len()).ok().filter(|length| *length > 0)?;
        hashes.get(usize::try_from(number % length).ok()?).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_addresses_have_decoys_of_all_kinds_and_keep_them() {
        let hashes = ["argon2", "bcrypt", "bcrypt", "bcrypt"].map(str::to_owned).to_vec();
        let decoys = Decoys { hashes: ArcSwap::from_pointee(hashes), read_at: 0.into(), secret: [7; 32] };
        let decoy = |index: usize| decoys.find(&format!("nobody{index}@example.com")).unwrap();
        let bcrypt = (0..1000).filter(|index| decoy(*index) == "bcrypt").count();
        assert!((650..850).contains(&bcrypt), "{bcrypt}");
        assert_eq!(decoys.find("Nobody1@EXAMPLE.com"), Some(decoy(1)));
        let none = Decoys { hashes: ArcSwap::default(), read_at: 0.into(), secret: [7; 32] };
        assert_eq!(none.find("nobody@example.com"), None);
    }
}
