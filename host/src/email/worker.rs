//! The workers that empty the queue of mails: one for those of the host, one for those of plugins, and one that keeps the
//! bounds of waits and of dead mails. Owns the decision whether a mail that was not sent is tried again or is dead.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::kept_mails::KeptMail;
use super::letter::Letter;
use super::outcomes::Outcome;
use super::plugin_mail::{self, Delivered};
use super::smtp::{Failure, LONGEST_ATTEMPT, SendError};
use super::templates::Values;
use super::{Delivery, EndedMail, Inner, Mail, Mailer, Message, Template};
use crate::address::Address;
use crate::auth::User;
use crate::db;
use crate::db::email::{DeadBounds, HOST, MailRow, WaitsFor};
use crate::error::{Error, Result, code};
use crate::id::{PluginName, UserId};
use crate::message::PluginMail;
use crate::outage::Outage;

/// A mail of the host that failed is given up after this time: its reader has long tried something else.
pub(super) const HOST_PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);
/// The same for a mail of a plugin.
const PLUGIN_PATIENCE: Duration = Duration::from_secs(3 * 24 * 60 * 60);
/// A mail is given up after this number of attempts, whatever its age: each of them may have ended with its process.
const MAX_ATTEMPTS: i64 = 100;
/// A mail is not given up because of its age before this number of attempts: the host may have been off, or the plugin
/// paused.
pub(super) const LEAST_ATTEMPTS: i64 = 5;
/// A mail that the mail server has and does not confirm is given up after this number of attempts: each may have arrived.
pub(super) const MAX_UNCONFIRMED: i64 = 10;
/// The wait after the first failure. It doubles with each further one.
pub(super) const FIRST_BACKOFF: Duration = Duration::from_secs(15);
/// The longest wait between two attempts.
pub(super) const LONGEST_BACKOFF: Duration = Duration::from_secs(3600);
/// A mail that would wait longer is due: the clock was set back. Nodes may have clocks that differ a little.
pub(super) const LONGEST_WAIT: Duration = LONGEST_BACKOFF.saturating_add(Duration::from_secs(300));
/// How long other nodes leave a claimed mail alone.
pub(super) const LEASE: Duration = Duration::from_secs(240);
/// The time from the claim of a mail until it is sent. If the database is slower, the mail is not sent in this attempt.
pub(super) const PREPARE_TIME: Duration = Duration::from_secs(30);
/// The time that is left to record the end of an attempt.
const RECORD_TIME: Duration = Duration::from_secs(40);
// Otherwise another node would send a mail that is still being sent.
const _: () = assert!(
    PREPARE_TIME.as_secs() + LONGEST_ATTEMPT.as_secs() + RECORD_TIME.as_secs() <= LEASE.as_secs(),
    "the lease of a mail is longer than its longest attempt"
);
/// The wait of a worker after the mail server was away. Each mail would fail in the same way.
const AWAY_PAUSE: Duration = Duration::from_secs(1);
/// The most mails that become due at once when the mail server is back. Further ones do when the next mail was sent.
const RETURNED: i64 = 1_000;
/// A mail with this number of attempts waits on then. A mail server that comes and goes, or takes one mail a minute, would
/// otherwise use up [`MAX_ATTEMPTS`] in a short time.
pub(super) const RETURNED_ATTEMPTS: i64 = MAX_ATTEMPTS / 2;
/// How long an attempt may go on after the end of the host began.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// How often the queue is checked for retries and for mails of other nodes.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The wait after the queue could not be read.
const QUEUE_ERROR_PAUSE: Duration = Duration::from_secs(5);
/// The time between two checks of the bounds of waits and of dead mails.
const PRUNE_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// The bytes of mails that become dead before the bounds are kept early, so that a flood of them does not pass the bounds far.
pub(super) const PRUNE_BYTES: usize = 16 << 20;
/// The share of the smallest dead mail in them.
const PRUNE_LEAST: usize = 16 << 10;
/// The bounds of dead mails.
pub(super) const DEAD_BOUNDS: DeadBounds =
    DeadBounds { keep: Duration::from_secs(30 * 24 * 60 * 60), mails: 1_000, bytes: 64 << 20 };
/// The longest part of the reason of a failure that is stored, in characters.
const MAX_REASON: usize = 300;

/// The mails that one worker sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// Those of the host.
    Host,
    /// Those of all plugins.
    Plugins,
}

impl Lane {
    /// Returns the name of the work in the log.
    fn work(self) -> &'static str {
        match self {
            Self::Host => "sending mails of the host",
            Self::Plugins => "sending mails of plugins",
        }
    }
}

impl Mailer {
    /// Sends queued mails until `stop`, and finishes the mails that are being sent then. Any number of nodes may run it.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(self.work(Lane::Host, &stop), self.work(Lane::Plugins, &stop), self.keep_bounds(&stop));
    }

    /// Sends the mails of a lane until `stop`.
    async fn work(&self, lane: Lane, stop: &CancellationToken) {
        let mut outage = Outage::of(lane.work());
        let mut turns = VecDeque::new();
        while !stop.is_cancelled() {
            let step = async {
                match lane {
                    Lane::Host => self.send_next(HOST).await,
                    Lane::Plugins => self.send_of_next_plugin(&mut turns).await,
                }
            };
            let step = tokio::select! {
                step = step => step,
                // A mail server that hangs does not hold up the end. The lease gives the mail back.
                () = grace(stop) => return,
            };
            if step.is_ok() {
                outage.over();
            }
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
                    outage.failed(&error);
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

    /// Keeps the bounds of waits and of dead mails, from time to time and when there are many new dead ones, until `stop`.
    pub(super) async fn keep_bounds(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            self.0.buried.store(0, Ordering::Relaxed);
            match db::email::end_long_waits(&self.0.db, self.0.clock.now(), LONGEST_WAIT).await {
                Ok(0) => {}
                Ok(mails) => {
                    tracing::warn!(mails, "the clock was set back; mails that would have waited for it are due");
                    self.wake_all();
                }
                Err(error) => tracing::warn!(error = error.report(), "the waits of mails cannot be checked now"),
            }
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

    /// Handles one mail that is due, of the plugin whose turn it is. `turns` has the plugins that follow; when it is empty,
    /// each plugin with a due mail gets one more turn. Returns false if there is no due mail.
    pub(super) async fn send_of_next_plugin(&self, turns: &mut VecDeque<String>) -> Result<bool> {
        let mut is_filled = false;
        loop {
            while let Some(plugin) = turns.pop_front() {
                // Another node may have taken its mails, or it was paused.
                if self.send_next(&plugin).await? {
                    return Ok(true);
                }
            }
            if is_filled {
                return Ok(false);
            }
            turns.extend(db::email::plugin_mail::due(&self.0.db, self.0.clock.now()).await?);
            is_filled = true;
        }
    }

    /// Handles one mail of a source that is due. Returns false if there is none.
    pub(super) async fn send_next(&self, source: &str) -> Result<bool> {
        let Inner { db, clock, outcomes, repeat_after, .. } = &*self.0;
        self.delete_ended().await?;
        let (now, begun) = (clock.now(), clock.monotonic());
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
            && db::email::was_sent(db, key, now, *repeat_after).await?
        {
            tracing::info!(mail = id, kind, "mail not sent: the same one was sent a short time ago");
            Ok(Outcome::Repeated)
        } else if let Some(plugin) = &plugin {
            // Boxed, because it is large.
            Box::pin(self.attempt_of_plugin(plugin, &row, begun)).await
        } else {
            Box::pin(self.attempt(&row, begun)).await
        };
        match result {
            Ok(outcome) => {
                outcomes.record(plugin.as_ref(), outcome);
                let is_sent = outcome == Outcome::Sent;
                self.add_ended(EndedMail { id, repeat_key: row.repeat_key.filter(|_| is_sent) });
                self.delete_ended().await?;
                if is_sent {
                    self.end_outage().await?;
                }
            }
            Err(failure) => self.fail(&row, plugin.as_ref(), &failure).await?,
        }
        Ok(true)
    }

    /// Deletes the mails that ended. One that cannot be deleted now is deleted before a mail is claimed: when its lease ends,
    /// it would be sent again.
    async fn delete_ended(&self) -> Result<()> {
        let Inner { db, clock, repeat_after, .. } = &*self.0;
        while let Some(mail) = self.take_ended() {
            let now = clock.now();
            let deleted = match &mail.repeat_key {
                Some(key) => db::email::delete_sent(db, mail.id, key, now, now.plus(*repeat_after)).await,
                None => db::email::delete(db, mail.id).await,
            };
            if let Err(error) = deleted {
                self.add_ended(mail);
                return Err(error);
            }
        }
        Ok(())
    }

    fn add_ended(&self, mail: EndedMail) {
        self.0.ended.lock().unwrap_or_else(PoisonError::into_inner).push(mail);
    }

    fn take_ended(&self) -> Option<EndedMail> {
        self.0.ended.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Makes the mails due that wait for the return of the mail server, because it took one.
    async fn end_outage(&self) -> Result<()> {
        let Inner { db, clock, had_outage, .. } = &*self.0;
        if !had_outage.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        let due = db::email::end_outage(db, clock.now(), RETURNED_ATTEMPTS, RETURNED).await;
        if !due.as_ref().is_ok_and(|mails| i64::try_from(*mails).is_ok_and(|mails| mails < RETURNED)) {
            had_outage.store(true, Ordering::SeqCst);
        }
        let mails = due?;
        if mails > 0 {
            tracing::info!(mails, "the mail server is back; mails that waited for it are due");
            self.wake_all();
        }
        Ok(())
    }

    /// Decides about a mail that was not sent: it is tried again later, or it is dead.
    pub(super) async fn fail(&self, row: &MailRow, plugin: Option<&PluginName>, failure: &SendError) -> Result<()> {
        let Inner { db, clock, outcomes, .. } = &*self.0;
        let MailRow { id, kind, attempts, unconfirmed, waiting_since, .. } = row;
        let SendError { error, failure } = failure;
        let report = without_tokens(&error.report());
        // Without the text that clients would see.
        let report = report.strip_prefix("Internal Server Error: ").unwrap_or(&report);
        let reason: String = report.chars().take(MAX_REASON).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let now = clock.now();
        let patience = if plugin.is_some() { PLUGIN_PATIENCE } else { HOST_PATIENCE };
        let source = plugin.map_or("host", PluginName::as_str);
        let is_old = *attempts >= LEAST_ATTEMPTS && now.since(*waiting_since) >= patience;
        let is_over = *attempts >= MAX_ATTEMPTS || is_old;
        let given_up = match failure {
            Failure::Refused => Some((Outcome::Refused, "mail given up: it was refused permanently")),
            Failure::Unconfirmed if unconfirmed.saturating_add(1) >= MAX_UNCONFIRMED => {
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
        let waits_for = match failure {
            Failure::Away => WaitsFor::Server,
            Failure::Unconfirmed => WaitsFor::Unconfirmed,
            Failure::Later | Failure::Refused => WaitsFor::Retry,
        };
        db::email::postpone(db, row, now.plus(backoff(*attempts)), waits_for, &reason).await?;
        if *failure == Failure::Away {
            // Not before: a mail that is sent in between ends the outage for those that wait already.
            self.0.had_outage.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Makes a mail dead.
    async fn bury(&self, row: &MailRow, reason: &str) -> Result<()> {
        let Inner { db, clock, buried, many_buried, .. } = &*self.0;
        db::email::bury(db, row, reason, clock.now()).await?;
        let bytes = row.payload.len().max(PRUNE_LEAST);
        if buried.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) >= PRUNE_BYTES {
            many_buried.notify_one();
        }
        Ok(())
    }

    async fn attempt(&self, row: &MailRow, begun: Duration) -> Result<Outcome, SendError> {
        let mail: Mail = serde_json::from_str(&row.payload)
            .map_err(|error| Error::internal("the queued mail is from another version of Wharf").with_source(error))?;
        if self.0.delivery == Delivery::Off {
            tracing::warn!(kind = mail.template().as_str(), "mail dropped: no mail server is configured");
            return Ok(Outcome::Dropped);
        }
        // The account does not exist, or not any more.
        let Some(message) = self.compose(&mail).await? else { return Ok(Outcome::NoAccount) };
        self.deliver(None, Letter::of_host(row.mail_id(), message), begun).await
    }

    async fn attempt_of_plugin(
        &self,
        plugin: &PluginName,
        row: &MailRow,
        begun: Duration,
    ) -> Result<Outcome, SendError> {
        let mail: PluginMail = serde_json::from_str(&row.payload)
            .map_err(|error| Error::internal("the queued mail is from another version of Wharf").with_source(error))?;
        if self.0.delivery == Delivery::Off {
            return Err(Error::internal("no mail server is configured").into());
        }
        match plugin_mail::address(&self.0.db, &mail.to).await? {
            Delivered::To(address) => self.deliver(Some(plugin), plugin_mail::letter(mail, address)?, begun).await,
            Delivered::Nowhere(reason) => {
                tracing::info!(%plugin, mail = row.id, "mail not sent: {reason}");
                Ok(Outcome::NoAccount)
            }
        }
    }

    /// Sends a mail to the mail server, or writes it to the log. `begun` is the monotonic time of its claim.
    pub(super) async fn deliver(
        &self,
        plugin: Option<&PluginName>,
        letter: Letter,
        begun: Duration,
    ) -> Result<Outcome, SendError> {
        match &self.0.smtp {
            Some(smtp) => {
                if self.0.clock.monotonic().saturating_sub(begun) > PREPARE_TIME {
                    return Err(Error::internal("the host took too long to prepare a mail").into());
                }
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
pub(super) fn without_tokens(text: &str) -> String {
    let is_of_token = |c: char| c.is_ascii_alphanumeric() || "-_.~%=".contains(c);
    let mut parts = text.split("token=");
    let mut hidden = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        hidden.push_str("token=…");
        hidden.push_str(part.trim_start_matches(is_of_token));
    }
    hidden
}

/// Returns the wait after the given number of attempts.
pub(super) fn backoff(attempts: i64) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(16);
    FIRST_BACKOFF.saturating_mul(1 << doublings).min(LONGEST_BACKOFF)
}
