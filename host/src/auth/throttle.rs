//! Throttling: bounds how often an action may be tried that can be guessed or that costs much. Owns the limits of each
//! action, for each account and for each network of clients, and their states in memory.
//!
//! A limit is a token bucket: a burst, and then one attempt in each interval. An attempt takes a token before its work
//! begins, so attempts at the same time cannot exceed the limit together. [`Attempt::succeeded`] returns the tokens, so
//! only failures count where the caller reports successes. Secrets that nobody can guess, such as refresh tokens, are
//! looked up first and counted if they are wrong, so that a flood of wrong ones does not stop a right one.
//!
//! An account is named by its address, whether or not it exists, so a refusal tells nothing about it. (A change of the
//! address itself names it by its id.) The states are bounded in number ([`CAPACITY`]) and contain no address, only
//! digests. A restart forgets them. The module never decides who a client is, and never asks the database.

mod bucket;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::bucket::{Bucket, States, Token};
use crate::address::AddressKey;
use crate::clock::Clock;
use crate::config;
use crate::error::{Code, Error, Kind, RateLimit, Result, code};
use crate::id::UserId;
use crate::network::Network;

/// The most states that are kept, about 20 MiB. Beyond it, the rarest ones are forgotten first.
const CAPACITY: u64 = 100_000;

/// The most states of clients that may be known. They have a store of their own, so that a flood of them makes no other
/// state forgotten.
const KNOWN_CAPACITY: u64 = 20_000;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// An action that is throttled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A sign-in with a password. Failures count.
    SignIn,
    /// A refresh of a session. Failures count.
    Refresh,
    /// A request for a link to set a password.
    Recovery,
    /// A request for a link to verify an address. It sends no recovery mail, so it must not use up recoveries: otherwise
    /// somebody could keep the owner of an account from the way back in.
    Verification,
    /// The use of a link to set a password or to verify an address. Failures count.
    PasswordReset,
    /// The creation of an account by its owner.
    SignUp,
    /// A code of a second factor. Failures count.
    SecondFactor,
    /// A request with an API key. Failures count.
    ApiKey,
    /// A check of the password of an account that is signed in. Failures count.
    PasswordCheck,
    /// A request to use a passkey, which the host keeps until it is used or expires.
    PasskeyRequest,
    /// The beginning or the end of a visit at an issuer. Failures count.
    IssuerSignIn,
    /// A change of the address of one's own account. Each sends a mail to an address that the user chose.
    AddressChange,
}

impl Action {
    /// Every action, in the order of the variants.
    pub const ALL: [Self; 12] = [
        Self::SignIn,
        Self::Refresh,
        Self::Recovery,
        Self::Verification,
        Self::PasswordReset,
        Self::SignUp,
        Self::SecondFactor,
        Self::ApiKey,
        Self::PasswordCheck,
        Self::PasskeyRequest,
        Self::IssuerSignIn,
        Self::AddressChange,
    ];

    /// Returns the name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SignIn => "sign_in",
            Self::Refresh => "refresh",
            Self::Recovery => "recovery",
            Self::Verification => "verification",
            Self::PasswordReset => "password_reset",
            Self::SignUp => "sign_up",
            Self::SecondFactor => "second_factor",
            Self::ApiKey => "api_key",
            Self::PasswordCheck => "password_check",
            Self::PasskeyRequest => "passkey_request",
            Self::IssuerSignIn => "issuer_sign_in",
            Self::AddressChange => "address_change",
        }
    }

    /// Returns the limits of one account and of one network: the name, the burst and the interval of each.
    fn limits(self, settings: &config::Auth) -> (Limit, Limit) {
        let (account, network) = (settings.account_attempts, settings.network_attempts);
        match self {
            Self::SignIn => (Limit("sign-in-account", account, MINUTE), Limit("sign-in-network", network, 3 * SECOND)),
            Self::Refresh => (Limit("refresh-session", 30, 2 * SECOND), Limit("refresh-network", network, SECOND)),
            Self::Recovery => (Limit("recovery-account", 3, 5 * MINUTE), Limit("recovery-network", 20, MINUTE)),
            Self::Verification => {
                (Limit("verification-account", 3, 5 * MINUTE), Limit("verification-network", 20, MINUTE))
            }
            Self::PasswordReset => {
                (Limit("reset-account", account, MINUTE), Limit("reset-network", network, 3 * SECOND))
            }
            Self::SignUp => (Limit("sign-up-account", 5, 5 * MINUTE), Limit("sign-up-network", 60, 20 * SECOND)),
            // `auth::factor` bounds the guesses of one account, across restarts.
            Self::SecondFactor => {
                (Limit("second-factor-account", 5, 5 * MINUTE), Limit("second-factor-network", network, 3 * SECOND))
            }
            Self::ApiKey => (Limit("key-account", network, SECOND), Limit("key-network", network, SECOND)),
            Self::PasswordCheck => {
                (Limit("password-account", account, MINUTE), Limit("password-network", network, 3 * SECOND))
            }
            // No account is known yet, so only the network counts.
            Self::PasskeyRequest => {
                (Limit("passkey-account", network, SECOND), Limit("passkey-network", network, SECOND))
            }
            Self::IssuerSignIn => {
                (Limit("issuer-account", network, 3 * SECOND), Limit("issuer-network", network, 3 * SECOND))
            }
            Self::AddressChange => (Limit("address-account", 5, 5 * MINUTE), Limit("address-network", 20, MINUTE)),
        }
    }
}

/// A limit: its name, the number of attempts at once, and the interval of further ones.
struct Limit(&'static str, u32, Duration);

/// The throttle. Cheap to clone.
#[derive(Clone)]
pub struct Throttle(Option<Arc<Inner>>);

struct Inner {
    actions: [Buckets; Action::ALL.len()],
    /// Sign-ins to an account from a network where its owner signed in before.
    known: Bucket,
    /// All such sign-ins from one network, because each costs a query.
    known_network: Bucket,
}

struct Buckets {
    action: Action,
    account: Bucket,
    network: Bucket,
    refused: AtomicU64,
}

/// An attempt that may be made. Dropping it means that it counts.
#[derive(Debug)]
#[must_use = "an attempt that succeeded returns its tokens"]
pub struct Attempt(Vec<Token>);

impl Attempt {
    /// Does not count the attempt.
    pub fn succeeded(self) {
        self.0.into_iter().for_each(Token::give_back);
    }

    /// Counts the attempt if its result is an error with the given code. Other errors, such as an outage of the
    /// database, are not a guess.
    pub fn settle<T>(self, result: &Result<T>, failure: &Code) {
        self.settle_any(result, std::slice::from_ref(failure));
    }

    /// Counts the attempt if its result is an error with one of the given codes.
    pub fn settle_any<T>(self, result: &Result<T>, failures: &[Code]) {
        match result {
            Err(error) if failures.contains(error.code()) => {}
            Ok(_) | Err(_) => self.succeeded(),
        }
    }
}

impl Throttle {
    /// Creates the throttle. If `auth.throttle` is off, it refuses nothing.
    pub fn new(settings: &config::Auth, clock: &Clock) -> Self {
        if !settings.throttle {
            return Self(None);
        }
        let limits = Action::ALL.map(|action| action.limits(settings));
        let known = Limit("sign-in-known-client", settings.account_attempts, MINUTE);
        let known_network = Limit("sign-in-known-network", settings.network_attempts, 3 * SECOND);
        let all = limits.iter().flat_map(|(account, network)| [account, network]).chain([&known, &known_network]);
        let longest = all.map(|Limit(_, burst, interval)| interval.saturating_mul(*burst)).max().unwrap_or(MINUTE);
        let (states, known_states) = (States::new(CAPACITY, longest), States::new(KNOWN_CAPACITY, longest));
        let in_store = |store: &States, Limit(name, burst, interval)| Bucket::new(name, burst, interval, store, clock);
        let bucket = |limit| in_store(&states, limit);
        let mut limits = limits.into_iter();
        let actions = Action::ALL.map(|action| {
            let (account, network) = limits.next().unwrap_or_else(|| action.limits(settings));
            Buckets { action, account: bucket(account), network: bucket(network), refused: AtomicU64::new(0) }
        });
        let (known, known_network) = (in_store(&known_states, known), in_store(&known_states, known_network));
        Self(Some(Arc::new(Inner { actions, known, known_network })))
    }

    /// Counts an attempt, whether it succeeds or not.
    ///
    /// # Errors
    /// 429 `too_many_attempts`.
    pub fn check(&self, action: Action, account: Option<&AddressKey>, address: IpAddr) -> Result<()> {
        self.begin(action, account, address).map(drop)
    }

    /// Begins an attempt, which counts unless it is reported as a success.
    ///
    /// # Errors
    /// 429 `too_many_attempts`: the attempt does not count, and must not be made.
    pub fn begin(&self, action: Action, account: Option<&AddressKey>, address: IpAddr) -> Result<Attempt> {
        self.begin_as(action, account.map(|account| account.as_str().as_bytes()), address)
    }

    /// Counts an attempt of an account that is named by its id, because the action changes its address.
    ///
    /// # Errors
    /// 429 `too_many_attempts`.
    pub fn check_user(&self, action: Action, user: UserId, address: IpAddr) -> Result<()> {
        self.begin_as(action, Some(user.0.as_bytes().as_slice()), address).map(drop)
    }

    fn begin_as(&self, action: Action, account: Option<&[u8]>, address: IpAddr) -> Result<Attempt> {
        let Some((_, buckets)) = self.buckets(action) else { return Ok(Attempt(Vec::new())) };
        let network = Network::of_client(address).to_string();
        let mut taken = Attempt(vec![buckets.take(&buckets.network, network.as_bytes())?]);
        if let Some(account) = account {
            match buckets.take(&buckets.account, account) {
                Ok(token) => taken.0.push(token),
                // No work was done, so the network has not used its token.
                Err(refused) => {
                    taken.succeeded();
                    return Err(refused);
                }
            }
        }
        Ok(taken)
    }

    /// Counts an attempt of an account, a session or a key that is named by any bytes, from whatever network.
    ///
    /// # Errors
    /// 429 `too_many_attempts`.
    pub fn check_subject(&self, action: Action, subject: &[u8]) -> Result<()> {
        match self.buckets(action) {
            Some((_, buckets)) => buckets.take(&buckets.account, subject).map(drop),
            None => Ok(()),
        }
    }

    /// Counts an attempt with a secret that nobody can guess if its result is an error with the given code.
    ///
    /// # Errors
    /// The error of the result; 429 `too_many_attempts` in place of it.
    pub fn after<T>(&self, action: Action, address: IpAddr, failure: &Code, result: Result<T>) -> Result<T> {
        if result.as_ref().is_err_and(|error| error.code() == failure) {
            self.check(action, None, address)?;
        }
        result
    }

    /// Begins a sign-in that [`Throttle::begin`] refused, for a client that may be known to the account. The limit is
    /// that of the account and this network alone, so clients elsewhere cannot use it up. A second limit bounds the
    /// accounts of one network together. The caller must not continue unless the client is known.
    ///
    /// # Errors
    /// As [`Throttle::begin`].
    pub fn begin_as_known(&self, account: &AddressKey, address: IpAddr) -> Result<Attempt> {
        let Some((inner, buckets)) = self.buckets(Action::SignIn) else { return Ok(Attempt(Vec::new())) };
        let network = Network::of_client(address).to_string();
        let token = buckets.take(&inner.known_network, network.as_bytes())?;
        let pair = format!("{network} {}", account.as_str());
        match buckets.take(&inner.known, pair.as_bytes()) {
            Ok(other) => Ok(Attempt(vec![token, other])),
            Err(refused) => {
                token.give_back();
                Err(refused)
            }
        }
    }

    /// Returns the number of refused attempts, by action.
    pub fn refusals(&self) -> [(&'static str, u64); Action::ALL.len()] {
        Action::ALL.map(|action| {
            let refused = self.buckets(action).map(|(_, buckets)| buckets.refused.load(Ordering::Relaxed));
            (action.as_str(), refused.unwrap_or_default())
        })
    }

    fn buckets(&self, action: Action) -> Option<(&Inner, &Buckets)> {
        let inner = self.0.as_deref()?;
        inner.actions.iter().find(|buckets| buckets.action == action).map(|buckets| (inner, buckets))
    }
}

impl Buckets {
    /// Takes a token of a limit of this action.
    fn take(&self, bucket: &Bucket, subject: &[u8]) -> Result<Token> {
        bucket.take(subject).map_err(|wait| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let text = "Too many attempts. Try again later.";
            Error::new(Kind::TooManyRequests(wait), code::TOO_MANY_ATTEMPTS, text).with_rate_limit(RateLimit {
                policy: bucket.name(),
                quota: bucket.burst(),
                window: bucket.window(),
                wait,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn throttle() -> (Throttle, Clock) {
        let clock = Clock::manual(Timestamp(1_800_000_000_000_000));
        (Throttle::new(&config::Auth::default(), &clock), clock)
    }

    fn account(name: &str) -> AddressKey {
        AddressKey::of(&format!("{name}@example.com")).unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Returns the wait of a refused attempt.
    fn wait(result: Result<Attempt>) -> Option<Duration> {
        let error = result.err()?;
        assert_eq!(*error.code(), code::TOO_MANY_ATTEMPTS);
        match error.kind() {
            Kind::TooManyRequests(wait) => Some(*wait),
            kind => panic!("{kind:?}"),
        }
    }

    #[test]
    fn failures_of_an_account_are_bounded_from_all_addresses_together() {
        let (throttle, clock) = throttle();
        for index in 0..10 {
            let from = address(&format!("192.0.2.{index}"));
            throttle.check(Action::SignIn, Some(&account("jane")), from).unwrap();
        }
        let from = address("198.51.100.1");
        let refused = throttle.begin(Action::SignIn, Some(&account("jane")), from);
        assert_eq!(wait(refused), Some(MINUTE));
        // Other accounts, and other actions of this one, have limits of their own.
        throttle.check(Action::SignIn, Some(&account("john")), from).unwrap();
        throttle.check(Action::SecondFactor, Some(&account("jane")), from).unwrap();
        clock.advance(MINUTE);
        throttle.check(Action::SignIn, Some(&account("jane")), from).unwrap();
        assert!(throttle.begin(Action::SignIn, Some(&account("jane")), from).is_err());
        assert_eq!(throttle.refusals().first(), Some(&("sign_in", 2)));
    }

    #[test]
    fn successes_do_not_count() {
        let (throttle, _) = throttle();
        let (jane, from) = (account("jane"), address("192.0.2.1"));
        for _ in 0..1000 {
            throttle.begin(Action::SignIn, Some(&jane), from).unwrap().succeeded();
        }
        for _ in 0..10 {
            let wrong: Result<()> = Err(Error::bad_request(code::INCORRECT_CREDENTIALS, "x"));
            let attempt = throttle.begin(Action::SignIn, Some(&jane), from).unwrap();
            attempt.settle(&wrong, &code::INCORRECT_CREDENTIALS);
        }
        assert!(throttle.begin(Action::SignIn, Some(&jane), from).is_err());
        // An outage is no guess.
        let john = account("john");
        for _ in 0..1000 {
            let outage: Result<()> = Err(Error::internal("x"));
            let attempt = throttle.begin(Action::SignIn, Some(&john), from).unwrap();
            attempt.settle(&outage, &code::INCORRECT_CREDENTIALS);
        }
    }

    #[test]
    fn attempts_at_the_same_time_count_before_they_end() {
        let (throttle, _) = throttle();
        let begin = || throttle.begin(Action::SignIn, Some(&account("jane")), address("192.0.2.1"));
        let running: Vec<_> = std::iter::from_fn(|| begin().ok()).collect();
        assert_eq!(running.len(), 10);
        running.into_iter().for_each(Attempt::succeeded);
        assert!(begin().is_ok());
    }

    #[test]
    fn a_network_is_bounded_for_all_accounts_together() {
        let (throttle, clock) = throttle();
        let attempt =
            |from: &str, name: usize| throttle.begin(Action::SignIn, Some(&account(&name.to_string())), address(from));
        // The addresses of one IPv6 network are one client.
        for index in 0..100 {
            drop(attempt(&format!("2001:db8:0:1{index:02}::{index}"), index).unwrap());
        }
        assert_eq!(wait(attempt("2001:db8:0:1ff::1", 100)), Some(3 * SECOND));
        assert!(attempt("2001:db8:0:200::1", 100).is_ok());
        clock.advance(3 * SECOND);
        assert!(attempt("2001:db8:0:100::1", 101).is_ok());
        // One address is the same in either form.
        for index in 0..100 {
            drop(attempt("192.0.2.1", index + 1000).unwrap());
        }
        assert!(attempt("::ffff:192.0.2.1", 2000).is_err());
    }

    #[test]
    fn an_attempt_that_one_limit_refuses_uses_no_other_limit() {
        let (throttle, _) = throttle();
        let from = address("192.0.2.1");
        for _ in 0..1000 {
            let _ = throttle.check(Action::SignIn, Some(&account("jane")), from);
        }
        for index in 0..90 {
            throttle.check(Action::SignIn, Some(&account(&index.to_string())), from).unwrap();
        }
        assert!(throttle.check(Action::SignIn, Some(&account("last")), from).is_err());
    }

    #[test]
    fn a_known_client_has_a_limit_of_its_own() {
        let (throttle, _) = throttle();
        let (jane, home) = (account("jane"), address("192.0.2.1"));
        for _ in 0..1000 {
            let _ = throttle.check(Action::SignIn, Some(&jane), address("198.51.100.1"));
        }
        assert!(throttle.begin(Action::SignIn, Some(&jane), home).is_err());
        for _ in 0..10 {
            drop(throttle.begin_as_known(&jane, home).unwrap());
        }
        assert!(throttle.begin_as_known(&jane, home).is_err());
        assert!(throttle.begin_as_known(&jane, address("192.0.2.2")).is_ok());
        assert!(throttle.begin_as_known(&account("john"), home).is_ok());
    }

    #[test]
    fn a_network_asks_a_bounded_number_of_times_whether_it_is_known() {
        let (throttle, clock) = throttle();
        let begin =
            |name: usize, from: &str| throttle.begin_as_known(&account(&name.to_string()), address(from)).map(drop);
        for index in 0..100 {
            begin(index, "192.0.2.1").unwrap();
        }
        assert!(begin(100, "192.0.2.1").is_err());
        begin(100, "192.0.2.2").unwrap();
        clock.advance(3 * SECOND);
        begin(100, "192.0.2.1").unwrap();
    }

    #[test]
    fn the_states_are_bounded() {
        let (throttle, _) = throttle();
        for index in 0..u32::try_from(CAPACITY).unwrap() + 50_000 {
            let from = IpAddr::from(index.to_be_bytes());
            throttle.check(Action::ApiKey, None, from).unwrap();
        }
        let inner = throttle.0.unwrap();
        let (states, known) = (inner.actions[0].account.states(), inner.known.states());
        assert!(states <= CAPACITY && known == 0, "{states} {known}");
    }

    #[test]
    fn a_throttle_that_is_off_refuses_nothing() {
        let settings = config::Auth { throttle: false, ..config::Auth::default() };
        let throttle = Throttle::new(&settings, &Clock::default());
        for _ in 0..1000 {
            throttle.check(Action::Recovery, Some(&account("jane")), address("192.0.2.1")).unwrap();
            drop(throttle.begin_as_known(&account("jane"), address("192.0.2.1")).unwrap());
        }
        assert_eq!(throttle.refusals()[0], ("sign_in", 0));
    }

    #[test]
    fn every_action_is_throttled() {
        let (throttle, _) = throttle();
        for (index, action) in Action::ALL.into_iter().enumerate() {
            let from = IpAddr::from([10, 0, 0, u8::try_from(index).unwrap()]);
            let limited = (0..1000).find_map(|_| throttle.begin(action, Some(&account("jane")), from).err());
            assert!(limited.is_some(), "{action:?}");
        }
    }
}
