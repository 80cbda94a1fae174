//! Outgoing mail: a durable queue in the host database, and the workers that empty it.
//!
//! A request only adds an entry to the queue, which takes the same time whether the address is known or not. The worker
//! looks up the account, issues the link and sends the mail. It retries later if that fails, unless the mail server
//! refuses the mail permanently. A mail that was refused, or that failed for too long, is dead: it is kept for operators.
//! An entry names the recipient but holds no token: tokens are issued just before sending and are only stored as hashes in
//! their own tables. The queue has a bound. Of mails that others can cause, one waits for each recipient and kind, and it is
//! not sent again for `email.repeat_after`. The way of a mail: [`Mailer::enqueue`] → `mail_queue` → [`Mailer::run`] →
//! `email::templates` → `email::smtp`. Never knows HTTP.
//!
//! Mails of plugins (`capability::email`) are in the same queue (`db::email::plugin_mail`). They have a worker of their own,
//! and plugins take turns, so no mail of a plugin delays one of the host.

mod credential_change;
pub mod kept_mails;
pub mod letter;
mod mail;
mod outcomes;
mod plugin_mail;
mod smtp;
mod templates;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use credential_change::CredentialChange;
pub use mail::Mail;
pub use templates::{Message, Template, Templates};

use self::kept_mails::{KeptMail, KeptMails};
use self::letter::Letter;
pub use self::outcomes::OutcomeCounts;
use self::outcomes::{Outcome, Outcomes};
use self::plugin_mail::Delivered;
use self::smtp::{Failure, SendError, Smtp};
use self::templates::Values;
use crate::address::Address;
use crate::auth::{AddressMail, Auth, Caller, User};
use crate::clock::{Clock, Random};
use crate::config::Config;
use crate::db::email::{DeadBounds, HOST, MailRow, NewMail};
use crate::db::{self, Db};
use crate::error::{Error, Result, code};
use crate::id::{MailId, PluginName, UserId};
use crate::initiator::Initiator;
use crate::message::PluginMail;

/// A mail of the host that failed is given up after this time: its reader has long tried something else.
const HOST_PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);
/// The same for a mail of a plugin.
const PLUGIN_PATIENCE: Duration = Duration::from_secs(3 * 24 * 60 * 60);
/// A mail is given up after this number of attempts, whatever its age: each of them may have ended with its process.
const MAX_ATTEMPTS: i64 = 100;
/// A mail that the mail server has and does not confirm is given up after this number of attempts: each may have arrived.
const MAX_UNCONFIRMED: i64 = 10;
/// The wait after the first failure. It doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(15);
/// The longest wait between two attempts.
const LONGEST_BACKOFF: Duration = Duration::from_secs(3600);
/// How long other nodes leave a claimed mail alone. Longer than an attempt can take (`email::smtp`).
const LEASE: Duration = Duration::from_secs(180);
/// The wait of a worker after the mail server was away. Each mail would fail in the same way.
const AWAY_PAUSE: Duration = Duration::from_secs(1);
/// How long an attempt may go on after the end of the host began.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// How often the queue is checked for retries and for mails of other nodes.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The wait after the queue could not be read.
const QUEUE_ERROR_PAUSE: Duration = Duration::from_secs(5);
/// The time between two deletions of dead mails beyond their bounds.
const PRUNE_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// The bytes of mails that become dead before the bounds are kept early, so that a flood of them does not pass the bounds far.
const PRUNE_BYTES: usize = 16 << 20;
/// The share of the smallest dead mail in them.
const PRUNE_LEAST: usize = 16 << 10;
/// The bounds of dead mails.
const DEAD_BOUNDS: DeadBounds =
    DeadBounds { keep: Duration::from_secs(30 * 24 * 60 * 60), mails: 1_000, bytes: 64 << 20 };
/// The longest part of the reason of a failure that is stored, in characters.
const MAX_REASON: usize = 300;

/// How mail is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// By SMTP.
    Smtp,
    /// To the log, with working links: development without a mail server.
    Log,
    /// Not at all: mail is dropped with a warning.
    Off,
}

impl Delivery {
    /// Returns how a host with these settings delivers mail.
    pub fn of(config: &Config) -> Self {
        match (&config.email.smtp_url, &config.email.from, config.server.development) {
            (Some(_), Some(_), _) => Self::Smtp,
            (_, _, true) => Self::Log,
            (_, _, false) => Self::Off,
        }
    }
}

/// The mails that one worker sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// Those of the host.
    Host,
    /// Those of all plugins.
    Plugins,
}

/// The mail service. Cheap to clone.
#[derive(Clone)]
pub struct Mailer(Arc<Inner>);

struct Inner {
    db: Db,
    auth: Auth,
    clock: Clock,
    random: Random,
    templates: Templates,
    delivery: Delivery,
    smtp: Option<Smtp>,
    /// Whether the mail server was away at the last attempt.
    is_away: AtomicBool,
    /// The bound of the queue.
    bound: i64,
    repeat_after: Duration,
    wake: Notify,
    /// The bytes of the mails that became dead since the bounds were kept, and the signal that there are many.
    buried: AtomicUsize,
    many_buried: Notify,
    outcomes: Outcomes,
    kept: KeptMails,
}

impl Mailer {
    /// Opens the queue. Logs a message if mail will not be sent.
    ///
    /// # Errors
    /// `email.smtp_url` or `email.from` is not valid, or a template has an error. The text never contains the URL.
    pub fn open(config: &Config, db: Db, auth: Auth, clock: Clock, random: Random) -> Result<Self> {
        let smtp = match (&config.email.smtp_url, &config.email.from) {
            (Some(url), Some(from)) => Some(Smtp::open(url, &config.server.project_name, from)?),
            (None, None) => None,
            _ => {
                tracing::warn!("mail needs both email.smtp_url and email.from; only one of them is set");
                None
            }
        };
        let delivery = Delivery::of(config);
        match delivery {
            Delivery::Smtp => {}
            Delivery::Log => tracing::info!("no mail server is configured: mail is written to the log"),
            Delivery::Off => tracing::warn!("no mail server is configured: users cannot recover a password by mail"),
        }
        let templates = Templates::new(config)?;
        let inner = Inner {
            db,
            auth,
            clock,
            random,
            templates,
            delivery,
            smtp,
            is_away: AtomicBool::new(false),
            bound: i64::from(config.email.queue),
            repeat_after: config.email.repeat_after,
            wake: Notify::new(),
            buried: AtomicUsize::new(0),
            many_buried: Notify::new(),
            outcomes: Outcomes::default(),
            kept: KeptMails::default(),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Returns how mail is delivered.
    pub fn delivery(&self) -> Delivery {
        self.0.delivery
    }

    /// Returns the latest mails of a host that delivers to the log.
    pub fn kept_mails(&self) -> &KeptMails {
        &self.0.kept
    }

    /// Returns the number of mails that were sent or given up, by outcome.
    pub fn outcomes(&self) -> OutcomeCounts {
        self.0.outcomes.all()
    }

    /// Returns the number of attempts to send mails of each plugin, by outcome.
    pub fn plugin_outcomes(&self) -> Vec<(PluginName, OutcomeCounts)> {
        self.0.outcomes.of_plugins()
    }

    /// Returns the number of mails of the host that may wait.
    pub fn queue_bound(&self) -> i64 {
        self.0.bound
    }

    /// Checks that mail is delivered, for an operation that makes no sense without.
    ///
    /// # Errors
    /// A conflict `mail_off`.
    pub fn require_delivery(&self) -> Result<()> {
        if self.0.delivery == Delivery::Off {
            return Err(Error::conflict(code::MAIL_OFF, "No mail server is configured, so no mail can be sent"));
        }
        Ok(())
    }

    /// Adds a mail to the queue, unless the same one waits.
    ///
    /// # Errors
    /// `mail_queue_full`; the database fails.
    pub async fn enqueue(&self, mail: &Mail) -> Result<()> {
        db::email::insert(&self.0.db, &self.new_mail(mail)?).await?;
        self.wake();
        Ok(())
    }

    /// Tells the owner of an account of a change that decides who can sign in. A failure is only logged, because the
    /// change has succeeded: no full queue keeps anybody from it.
    pub async fn announce(&self, user: UserId, change: CredentialChange) {
        if self.0.delivery == Delivery::Off {
            return;
        }
        if let Err(error) = self.enqueue(&Mail::CredentialChanged { user_id: user, change }).await {
            let change = change.as_str();
            tracing::warn!(%user, change, error = error.report(), "the owner of an account was not told of a change");
        }
    }

    /// Returns a mail that is queued together with a change of an account. Call [`Mailer::wake`] after the change. `None`
    /// means that no mail is delivered.
    ///
    /// # Errors
    /// The mail cannot be written as JSON.
    pub fn for_change(&self, mail: &Mail) -> Result<Option<NewMail>> {
        if self.0.delivery == Delivery::Off { Ok(None) } else { self.new_mail(mail).map(Some) }
    }

    /// Returns the mail for a new account, which is queued together with the account.
    ///
    /// # Errors
    /// As [`Mailer::for_change`].
    pub fn for_new_account(&self, user_id: UserId) -> Result<Option<NewMail>> {
        self.for_change(&Mail::NewAccount { user_id })
    }

    /// Returns the mail of an invitation, which is queued together with the account.
    ///
    /// # Errors
    /// As [`Mailer::for_change`].
    pub fn for_invitation(&self, user_id: UserId) -> Result<NewMail> {
        self.new_mail(&Mail::Invitation { user_id })
    }

    /// Returns a mail about the address of an account, which is queued together with the change.
    ///
    /// # Errors
    /// As [`Mailer::for_change`].
    pub fn for_address(&self, mail: AddressMail<'_>) -> Result<Option<NewMail>> {
        self.for_change(&match mail {
            AddressMail::Confirm { user, new } => Mail::AddressChange { user_id: user, email: new.to_owned() },
            AddressMail::Taken { address } => Mail::AccountExists { email: address.to_owned() },
            AddressMail::Announce { old, new } => Mail::AddressChanged { old: old.to_owned(), new: new.to_owned() },
        })
        // All have the same bound. A fuller queue would otherwise tell which address has an account.
        .map(|mail| mail.map(|mail| NewMail { bound: self.0.bound, ..mail }))
    }

    /// Looks for new mail of the host in the queue now.
    pub fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// Looks for all mail in the queue now: an operator changed it.
    pub fn wake_all(&self) {
        self.wake();
        self.0.db.signals().mails_stored();
    }

    fn new_mail(&self, mail: &Mail) -> Result<NewMail> {
        let payload =
            serde_json::to_string(mail).map_err(|error| Error::internal("a mail's payload").with_source(error))?;
        // An attacker without an account must not be able to keep operators from sending mail.
        let bound = if mail.is_anonymous() { self.0.bound.saturating_mul(3) / 4 } else { self.0.bound };
        let kind = mail.template().as_str();
        let repeat_key = mail.repeat_key().filter(|_| !self.0.repeat_after.is_zero());
        let id = MailId(self.0.random.uuid()?);
        Ok(NewMail { id, kind, payload, at: self.0.clock.now(), repeat_key, bound })
    }

    /// Returns the recovery mail of an account with a working link, as a preview for a caller who has every permission
    /// of the account. Does not send it.
    ///
    /// # Errors
    /// 403 `exceeds_own_permissions`.
    pub async fn preview_recovery(&self, caller: &Caller, user: &User, by: &Initiator) -> Result<Message> {
        let token = self.0.auth.issue_reset_token_for(caller, user.id, by).await?;
        self.0.templates.render(Template::Recovery, Values::of(&user.email, Some(&token)))
    }

    /// Sends queued mails until `stop`, and finishes the mails that are being sent then. Any number of nodes may run it.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(self.work(Lane::Host, &stop), self.work(Lane::Plugins, &stop), self.keep_bounds(&stop));
    }

    /// Sends the mails of a lane until `stop`.
    async fn work(&self, lane: Lane, stop: &CancellationToken) {
        // The plugin whose mail was sent last.
        let mut last = String::new();
        while !stop.is_cancelled() {
            let step = async {
                match lane {
                    Lane::Host => self.send_next(HOST).await,
                    Lane::Plugins => self.send_of_next_plugin(&mut last).await,
                }
            };
            let step = tokio::select! {
                step = step => step,
                // A mail server that hangs does not hold up the end. The lease gives the mail back.
                () = grace(stop) => return,
            };
            let (wait, is_paused) = match step {
                Ok(true) if self.0.is_away.load(Ordering::Relaxed) => (AWAY_PAUSE, true),
                Ok(true) => continue,
                Ok(false) => {
                    if let Some(smtp) = &self.0.smtp {
                        smtp.close_idle().await;
                    }
                    (POLL_INTERVAL, false)
                }
                Err(error) => {
                    tracing::error!(error = error.report(), "the mail queue cannot be read");
                    (QUEUE_ERROR_PAUSE, false)
                }
            };
            let woken = async {
                match lane {
                    _ if is_paused => std::future::pending().await,
                    Lane::Host => self.0.wake.notified().await,
                    Lane::Plugins => self.0.db.signals().mails_added().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = woken => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Deletes dead mails beyond their bounds, from time to time and when there are many new ones, until `stop`.
    async fn keep_bounds(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            self.0.buried.store(0, Ordering::Relaxed);
            match db::email::prune(&self.0.db, DEAD_BOUNDS, self.0.clock.now()).await {
                Ok(0) => {}
                Ok(mails) => tracing::info!(mails, "dead mails were deleted"),
                Err(error) => tracing::warn!(error = error.report(), "dead mails cannot be deleted now"),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.0.many_buried.notified() => {}
                () = tokio::time::sleep(PRUNE_INTERVAL) => {}
            }
        }
    }

    /// Handles one mail that is due, of the plugin whose turn it is. Returns false if there is none.
    async fn send_of_next_plugin(&self, last: &mut String) -> Result<bool> {
        let due = db::email::plugin_mail::due(&self.0.db, self.0.clock.now()).await?;
        for plugin in turns(due, last) {
            last.clone_from(&plugin);
            // Another node may have taken its mails.
            if self.send_next(&plugin).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Handles one mail of a source that is due. Returns false if there is none.
    async fn send_next(&self, source: &str) -> Result<bool> {
        let Inner { db, clock, outcomes, repeat_after, .. } = &*self.0;
        let now = clock.now();
        let Some(row) = db::email::claim(db, source, now, now.plus(LEASE)).await? else { return Ok(false) };
        let plugin = row.source.parse::<PluginName>().ok();
        let (id, kind) = (row.id, row.kind.as_str());
        if let Some(plugin) = &plugin
            && let Some(reason) = plugin_mail::withdrawal(db, plugin, &row).await?
        {
            tracing::info!(%plugin, mail = id, "mail given up: {reason}");
            self.bury(&row, reason).await?;
            return Ok(true);
        }
        // A mail that crashes the process never reports a failure, but its attempts are counted.
        let result = if row.attempts > MAX_ATTEMPTS {
            Err(Error::internal("no attempt ever ended").into())
        } else if let Some(key) = &row.repeat_key
            && db::email::was_sent(db, key, now).await?
        {
            tracing::info!(mail = id, kind, "mail not sent: the same one was sent a short time ago");
            Ok(Outcome::Repeated)
        } else if let Some(plugin) = &plugin {
            self.attempt_of_plugin(plugin, &row).await
        } else {
            self.attempt(&row).await
        };
        match (result, &row.repeat_key) {
            (Ok(Outcome::Sent), Some(key)) => {
                outcomes.record(plugin.as_ref(), Outcome::Sent);
                let now = clock.now();
                db::email::delete_sent(db, id, key, now, now.plus(*repeat_after)).await?;
            }
            (Ok(outcome), _) => {
                outcomes.record(plugin.as_ref(), outcome);
                db::email::delete(db, id).await?;
            }
            (Err(failure), _) => self.fail(&row, plugin.as_ref(), &failure).await?,
        }
        Ok(true)
    }

    /// Decides about a mail that was not sent: it is tried again later, or it is dead.
    async fn fail(&self, row: &MailRow, plugin: Option<&PluginName>, failure: &SendError) -> Result<()> {
        let Inner { db, clock, outcomes, .. } = &*self.0;
        let MailRow { id, kind, attempts, waiting_since, .. } = row;
        let SendError { error, failure } = failure;
        let report = without_tokens(&error.report());
        // Without the text that clients would see.
        let reason = report.strip_prefix("Internal Server Error: ").unwrap_or(&report);
        let reason: String = reason.chars().take(MAX_REASON).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let now = clock.now();
        let patience = if plugin.is_some() { PLUGIN_PATIENCE } else { HOST_PATIENCE };
        let source = plugin.map_or("host", PluginName::as_str);
        let is_over = *attempts >= MAX_ATTEMPTS || now.since(*waiting_since) >= patience;
        let given_up = match failure {
            Failure::Refused => Some((Outcome::Refused, "mail given up: it was refused permanently")),
            Failure::Unconfirmed if *attempts >= MAX_UNCONFIRMED => {
                Some((Outcome::Expired, "mail given up: the mail server never confirms it"))
            }
            _ if is_over => Some((Outcome::Expired, "mail given up after the last attempt")),
            _ => None,
        };
        if let Some((outcome, text)) = given_up {
            tracing::error!(mail = id, source, kind, attempts, error = report, "{text}");
            outcomes.record(plugin, outcome);
            return self.bury(row, &reason).await;
        }
        // A plugin can have thousands of mails, which all fail while the mail server is away.
        if plugin.is_none() || outcomes.may_warn(clock.monotonic()) {
            tracing::warn!(mail = id, source, kind, attempts, error = report, "mail not sent; trying again later");
        } else {
            tracing::debug!(mail = id, source, attempts, error = report, "mail not sent; trying again later");
        }
        outcomes.record(plugin, Outcome::Retried);
        db::email::postpone(db, *id, now.plus(backoff(*attempts)), &reason).await
    }

    /// Makes a mail dead.
    async fn bury(&self, row: &MailRow, reason: &str) -> Result<()> {
        let Inner { db, clock, buried, many_buried, .. } = &*self.0;
        db::email::bury(db, row.id, reason, clock.now()).await?;
        let bytes = row.payload.len().max(PRUNE_LEAST);
        if buried.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) >= PRUNE_BYTES {
            many_buried.notify_one();
        }
        Ok(())
    }

    async fn attempt(&self, row: &MailRow) -> Result<Outcome, SendError> {
        let mail: Mail = serde_json::from_str(&row.payload)
            .map_err(|error| Error::internal("the queued mail is from another version of Wharf").with_source(error))?;
        if self.0.delivery == Delivery::Off {
            tracing::warn!(kind = mail.template().as_str(), "mail dropped: no mail server is configured");
            return Ok(Outcome::Dropped);
        }
        // The account does not exist, or not any more.
        let Some(message) = self.compose(&mail).await? else { return Ok(Outcome::NoAccount) };
        self.deliver(None, Letter::of_host(row.mail_id(), message)).await
    }

    async fn attempt_of_plugin(&self, plugin: &PluginName, row: &MailRow) -> Result<Outcome, SendError> {
        let mail: PluginMail = serde_json::from_str(&row.payload)
            .map_err(|error| Error::internal("the queued mail is from another version of Wharf").with_source(error))?;
        if self.0.delivery == Delivery::Off {
            return Err(Error::internal("no mail server is configured").into());
        }
        match plugin_mail::address(&self.0.db, &mail.to).await? {
            Delivered::To(address) => self.deliver(Some(plugin), plugin_mail::letter(mail, address)?).await,
            Delivered::Nowhere(reason) => {
                tracing::info!(%plugin, mail = row.id, "mail not sent: {reason}");
                Ok(Outcome::NoAccount)
            }
        }
    }

    /// Sends a mail to the mail server, or writes it to the log.
    async fn deliver(&self, plugin: Option<&PluginName>, letter: Letter) -> Result<Outcome, SendError> {
        match &self.0.smtp {
            Some(smtp) => {
                let sent = smtp.send(&letter, self.0.clock.now()).await;
                let is_away = sent.as_ref().is_err_and(|error| error.failure == Failure::Away);
                self.0.is_away.store(is_away, Ordering::Relaxed);
                sent?;
            }
            None => {
                tracing::info!("mail to {} - {}\n{}", letter.to, letter.subject, letter.text);
                self.0.kept.keep(KeptMail { at: self.0.clock.now(), plugin: plugin.cloned(), letter });
            }
        }
        Ok(Outcome::Sent)
    }

    /// Renders a mail, with a new token if it has a link. Returns `None` if the account does not exist or needs no such
    /// mail any more.
    async fn compose(&self, mail: &Mail) -> Result<Option<Message>> {
        let Inner { auth, templates, .. } = &*self.0;
        let (user, token) = match mail {
            Mail::Recovery { email } => {
                let Some(user) = auth.user_by_email(email).await? else { return Ok(None) };
                let token = auth.issue_reset_token(user.id).await?;
                (user, Some(token))
            }
            Mail::NewAccount { user_id } => {
                let Some(user) = self.user(*user_id).await? else { return Ok(None) };
                let token = auth.issue_reset_token(user.id).await?;
                (user, Some(token))
            }
            Mail::Invitation { user_id } => {
                let Some(user) = self.user(*user_id).await? else { return Ok(None) };
                let Some(token) = auth.issue_invitation_token(user.id).await? else { return Ok(None) };
                (user, Some(token))
            }
            Mail::Verification { email } => {
                let Some((user, token)) = auth.issue_verification_token(email).await? else { return Ok(None) };
                (user, Some(token))
            }
            Mail::AccountExists { email } => {
                let Some(user) = auth.user_by_email(email).await? else { return Ok(None) };
                (user, None)
            }
            Mail::AddressChange { user_id, email } => {
                let Some(user) = self.user(*user_id).await? else { return Ok(None) };
                let Ok(address) = email.parse::<Address>() else { return Ok(None) };
                let token = auth.issue_address_change_token(user.id, &address).await?;
                let Some(token) = token else { return Ok(None) };
                let values = Values { to: email, ..Values::of(&user.email, Some(&token)) };
                return templates.render(Template::AddressChange, values).map(Some);
            }
            Mail::AddressChanged { old, new } => {
                let values = Values { new_address: Some(new), ..Values::of(old, None) };
                return templates.render(Template::AddressChanged, values).map(Some);
            }
            Mail::CredentialChanged { user_id, change } => {
                let Some(user) = self.user(*user_id).await? else { return Ok(None) };
                let values = Values { change: Some(*change), ..Values::of(&user.email, None) };
                return templates.render(Template::CredentialChanged, values).map(Some);
            }
            Mail::Test { email } => return templates.render(Template::Test, Values::of(email, None)).map(Some),
        };
        templates.render(mail.template(), Values::of(&user.email, token.as_ref())).map(Some)
    }

    async fn user(&self, id: UserId) -> Result<Option<User>> {
        match self.0.auth.user(id).await {
            Ok(user) => Ok(Some(user)),
            Err(error) if *error.code() == code::USER_NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Waits until the time is over that an attempt has at the end of the host.
async fn grace(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(STOP_GRACE).await;
}

/// Hides the tokens of links in the response of a mail server, which may quote the mail that it refuses.
fn without_tokens(text: &str) -> String {
    let is_of_token = |c: char| c.is_ascii_alphanumeric() || "-_.~%=".contains(c);
    let mut parts = text.split("token=");
    let mut hidden = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        hidden.push_str("token=…");
        hidden.push_str(part.trim_start_matches(is_of_token));
    }
    hidden
}

/// Returns the plugins in the order of their turns, after the last one. Orders them itself, because a database may order
/// names by the rules of a language.
fn turns(mut due: Vec<String>, last: &str) -> Vec<String> {
    due.sort_unstable();
    let served = due.partition_point(|plugin| plugin.as_str() <= last);
    due.rotate_left(served);
    due
}

/// Returns the wait after the given number of attempts.
fn backoff(attempts: i64) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(16);
    FIRST_BACKOFF.saturating_mul(1 << doublings).min(LONGEST_BACKOFF)
}

#[cfg(test)]
mod tests;
