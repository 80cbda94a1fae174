//! Outgoing mail: the entry to a durable queue in the database of the host. `worker` empties the queue.
//!
//! A request only adds an entry to the queue, which takes the same time whether the address is known or not. A worker
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
mod worker;

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

pub use credential_change::CredentialChange;
pub use mail::Mail;
pub use templates::{Message, Template, Templates};

use self::kept_mails::KeptMails;
pub use self::outcomes::OutcomeCounts;
use self::outcomes::Outcomes;
use self::smtp::Smtp;
use self::templates::Values;
use crate::auth::{AddressMail, Auth, Caller, User};
use crate::clock::{Clock, Random};
use crate::config::Config;
use crate::db::email::NewMail;
use crate::db::{self, Db};
use crate::error::{Error, Result, code};
use crate::id::{MailId, PluginName, UserId};
use crate::initiator::Initiator;

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
    /// Whether mails may wait for its return. They may from the start: an earlier process left them, perhaps with the
    /// settings of another mail server.
    had_outage: AtomicBool,
    /// The bound of the queue.
    bound: i64,
    repeat_after: Duration,
    wake: Notify,
    /// The bytes of the mails that became dead since the bounds were kept, and the signal that there are many.
    buried: AtomicUsize,
    many_buried: Notify,
    /// The mails whose attempts succeeded, and which are still in the queue because the database failed.
    ended: Mutex<Vec<EndedMail>>,
    outcomes: Outcomes,
    kept: KeptMails,
}

/// A mail that was sent, or that nobody gets.
struct EndedMail {
    /// Its number.
    id: i64,
    /// The key of a mail that was sent and is not sent again for a while.
    repeat_key: Option<Vec<u8>>,
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
            Delivery::Log => {
                tracing::info!("no mail server is configured: mail is written to the log and shown at /dev/mail");
            }
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
            had_outage: AtomicBool::new(true),
            bound: i64::from(config.email.queue),
            repeat_after: config.email.repeat_after,
            wake: Notify::new(),
            buried: AtomicUsize::new(0),
            many_buried: Notify::new(),
            ended: Mutex::default(),
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
            let text = "No mail server is configured (email.smtp_url and email.from), so no mail can be sent";
            return Err(Error::conflict(code::MAIL_OFF, text));
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
}

#[cfg(test)]
mod tests;
