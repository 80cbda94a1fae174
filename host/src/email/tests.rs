mod delivery;
mod plugin_mails;
mod sink;
mod waiting_mails;

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;

use self::sink::{Refusals, Sink};
use super::letter::Letter;
use super::smtp::{Failure, SendError};
use super::worker::{
    DEAD_BOUNDS, FIRST_BACKOFF, HOST_PATIENCE, LEASE, LEAST_ATTEMPTS, LONGEST_BACKOFF, LONGEST_WAIT, MAX_UNCONFIRMED,
    PREPARE_TIME, PRUNE_BYTES, RETURNED_ATTEMPTS, backoff, without_tokens,
};
use super::*;
use crate::auth::tests::{World, client};
use crate::config::Secret;
use crate::db::email::operator::{self, Change, Page, QueuedMail};
use crate::db::email::{DeadBounds, HOST};
use crate::message::{self, MailAttachment, MailRecipient, PluginMail};

impl Mailer {
    /// Handles one mail of the host that is due.
    async fn step(&self) -> Result<bool> {
        self.send_next(HOST).await
    }
}

fn mailer(world: &World, change: impl FnOnce(&mut Config)) -> Result<Mailer> {
    let mut config = Config::default();
    change(&mut config);
    Mailer::open(&config, world.db.clone(), world.auth.clone(), world.clock.clone(), Random::System)
}

fn with_server(url: &str) -> impl FnOnce(&mut Config) {
    let url = Secret::new(url);
    |config| {
        config.email.smtp_url = Some(url);
        config.email.from = Some("wharf@example.com".to_owned());
    }
}

fn recovery(email: &str) -> Mail {
    Mail::Recovery { email: email.to_owned() }
}

/// Decodes the soft line breaks and escapes of quoted-printable that occur in links.
fn readable(mail: &str) -> String {
    mail.replace("=\n", "").replace("=3D", "=")
}

/// Returns the number of mails of the host that wait or are being sent.
async fn waiting(world: &World) -> i64 {
    let counts = operator::counts(&world.db).await.unwrap();
    let of_host = counts.iter().find(|count| count.plugin.is_none() && count.state == "waiting");
    of_host.map_or(0, |count| count.mails)
}

/// Returns the dead mails, the oldest first.
async fn dead(world: &World) -> Vec<QueuedMail> {
    let page = Page { after: None, oldest_first: true, limit: 100 };
    operator::list(&world.db, None, Some("dead"), page).await.unwrap()
}

/// Queues a mail of a plugin, and returns its id.
async fn queue(world: &World, plugin: &str, to: MailRecipient, change: impl FnOnce(&mut PluginMail)) -> MailId {
    let mut mail = PluginMail {
        id: MailId(Random::System.uuid().unwrap()),
        to,
        subject: "Your items".to_owned(),
        text: "You have\r\n3 items".to_owned(),
        html: None,
        attachments: Vec::new(),
        dedup_key: None,
        request_id: None,
        at: world.clock.now(),
    };
    change(&mut mail);
    let id = mail.id;
    let message = message::Message::Mail(mail);
    db::intake::store(&world.db, &plugin.parse().unwrap(), &[message]).await.unwrap();
    id
}

fn address(text: &str) -> MailRecipient {
    MailRecipient::Address(text.parse().unwrap())
}

/// Handles all mails of plugins that are due.
async fn send_of_plugins(mailer: &Mailer) {
    let mut turns = VecDeque::new();
    while mailer.send_of_next_plugin(&mut turns).await.unwrap() {}
}
