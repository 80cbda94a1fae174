//! Known clients: while somebody guesses the password of an account, its owner can still sign in from a network where
//! they signed in before, or set their password by a link. Owns how long a network is known, and the way of a sign-in
//! through the throttle. Never decides that a client is the owner: that takes the password.

use std::net::IpAddr;
use std::time::Duration;

use super::Auth;
use super::throttle::{Action, Attempt};
use crate::address::AddressKey;
use crate::db::known_client;
use crate::error::Result;
use crate::id::UserId;
use crate::network::Network;

/// How long a network is known after that.
const KNOWN_FOR: Duration = Duration::from_secs(90 * 24 * 3600);

impl Auth {
    /// Begins a sign-in with a password.
    ///
    /// # Errors
    /// 429 `too_many_attempts`.
    pub(super) async fn begin_sign_in(&self, email: &str, address: IpAddr) -> Result<Attempt> {
        let Some(account) = AddressKey::of(email) else {
            return self.0.throttle.begin(Action::SignIn, None, address);
        };
        let refused = match self.0.throttle.begin(Action::SignIn, Some(&account), address) {
            Ok(attempt) => return Ok(attempt),
            Err(refused) => refused,
        };
        // Limits of their own come first, so that a flood does not become a flood of queries.
        let Ok(attempt) = self.0.throttle.begin_as_known(&account, address) else { return Err(refused) };
        let since = self.0.clock.now().minus(KNOWN_FOR);
        // The query is the same for an account that does not exist.
        if known_client::exists(&self.0.db, &account, Network::of_client(address), since).await? {
            Ok(attempt)
        } else {
            Err(refused)
        }
    }

    /// Remembers the network of a client that signed in or set the password by a link. A failure is logged, because
    /// that succeeded.
    pub(super) async fn remember_client(&self, user: UserId, address: IpAddr) {
        let now = self.0.clock.now();
        let network = Network::of_client(address);
        if let Err(error) = known_client::record(&self.0.db, user, network, now, now.minus(KNOWN_FOR)).await {
            tracing::warn!(%user, error = error.report(), "the network of an owner was not remembered");
        }
    }
}
