//! `wharf:email`: mails of the plugin. `capability::hand_over` stores them, and `email` sends them with those of the host.
//!
//! The recipient is an account, or an address of a domain that the grant names. The plugin never learns the address of an
//! account, and a mail to one that does not exist looks like any other. The sender is the host's.

mod mail_check;
pub mod mail_domain;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;
use wasmtime::component::{HasSelf, Linker};

use self::mail_domain::MailDomain;
use super::hand_over::{MessageServices, Refusal, convert_refusals};
use super::message_check::check_key;
use super::message_rate::{MessageRate, MessageRates};
use super::parameter::{parameters, printable};
use super::waiting_work::WaitingWork;
use super::{Boot, CallContext, Candidate, Capability, Guest, HostCalls, Limit};
use crate::address::{Address, InvalidAddress};
use crate::config::kind;
use crate::db::email::plugin_mail;
use crate::email::Delivery;
use crate::error::Result;
use crate::id::{MailId, PluginName, UserId};
use crate::message::{MailAttachment, MailRecipient, Message, PluginMail};

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    wasmtime::component::bindgen!({
        inline: "package wharf:host-email; world imports { import wharf:email/outbox@0.1.0; }",
        path: "../wit",
        imports: { default: async | trappable },
    });
}
use bindings::wharf::email::outbox;

/// The most attachments of a mail.
const MAX_ATTACHMENTS: usize = 16;

parameters! {
    /// The limits that a grant may change, and the domains that it allows.
    Quota {
        rate: u32 = email_rate,
        bytes: usize = email_bytes,
        queue: u64 = email_queue,
    }
    sets {
        /// Domains to whose addresses the plugin may send mail, besides accounts.
        domains: MailDomain = kind::set("domains such as example.com"),
    }
}

/// The capability.
pub struct Email {
    services: MessageServices,
    rates: MessageRates,
    waiting: WaitingWork,
    /// Whether this host delivers mail at all.
    is_delivered: bool,
}

/// The state of one release.
pub struct EmailRelease {
    services: MessageServices,
    rate: Arc<MessageRate>,
    waiting: WaitingWork,
    is_delivered: bool,
    quota: Quota,
}

impl Capability for Email {
    const NAME: &'static str = "email";
    const MEANING: &'static str = "may send mail in the name of this host: to every account with a verified address, without \
                                   learning it, and to the addresses of the domains that you name in email.domains";
    const INTERFACES: &'static [&'static str] = &["wharf:email/outbox@0.1.0"];
    type Grant = Quota;
    type Release = Arc<EmailRelease>;
    type Call = Arc<EmailRelease>;

    async fn open(boot: &Boot) -> Result<Self> {
        let Boot { config, clock, random, db, .. } = boot;
        let services = MessageServices::new(db.clone(), clock.clone(), random.clone());
        let rates = MessageRates::per_minute(clock.clone(), config.plugins.email_rate);
        let waiting = WaitingWork::mails(db.clone(), clock.clone());
        Ok(Self { services, rates, waiting, is_delivered: Delivery::of(config) != Delivery::Off })
    }

    fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        outbox::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
    }

    async fn admit(&self, candidate: &Candidate<'_>, quota: Quota) -> Result<Arc<EmailRelease>> {
        let (services, rate) = (self.services.clone(), self.rates.plugin(candidate.plugin));
        let (waiting, is_delivered) = (self.waiting.clone(), self.is_delivered);
        Ok(Arc::new(EmailRelease { services, rate, waiting, is_delivered, quota }))
    }

    fn max_input_bytes(release: &Arc<EmailRelease>) -> usize {
        release.quota.bytes
    }

    fn serve(release: &Arc<EmailRelease>) {
        release.rate.set(release.quota.rate);
    }

    fn enter(release: &Arc<EmailRelease>, _: &Arc<CallContext>) -> Arc<EmailRelease> {
        Arc::clone(release)
    }

    /// The mails that wait are not sent any more. An operator can retry them.
    async fn close(&self, plugin: &PluginName) -> Result<()> {
        let MessageServices { db, clock, .. } = &self.services;
        let given_up = plugin_mail::bury_of_plugin(db, plugin, plugin_mail::REVOKED, clock.now()).await?;
        if given_up > 0 {
            tracing::warn!(%plugin, given_up, "the waiting mails of a plugin were given up: its grant was revoked");
        }
        Ok(())
    }
}

/// Returns the size of a mail.
fn size(message: &outbox::Message) -> usize {
    let contents = message.attachments.iter().map(|file| file.content.len());
    contents.fold(texts_size(message), usize::saturating_add)
}

/// Returns the size of a mail without the contents of its files.
fn texts_size(message: &outbox::Message) -> usize {
    let texts = [message.subject.len(), message.text.len(), message.html.as_ref().map_or(0, String::len)];
    let file = |file: &outbox::Attachment| [file.name.len(), file.content_type.len()];
    texts.into_iter().chain(message.attachments.iter().flat_map(file)).fold(0, usize::saturating_add)
}

/// Checks the recipient of a mail.
fn recipient(to: &outbox::Recipient, domains: &[MailDomain]) -> Result<MailRecipient, outbox::Error> {
    let text = match to {
        outbox::Recipient::Account(id) => {
            let id =
                id.parse::<Uuid>().map_err(|_| outbox::Error::Invalid("to: not the id of an account".to_owned()))?;
            return Ok(MailRecipient::Account(UserId(id)));
        }
        outbox::Recipient::Address(text) => text,
    };
    mail_check::one_line("to", text).map_err(outbox::Error::Invalid)?;
    let address: Address =
        text.parse().map_err(|error: InvalidAddress| outbox::Error::Invalid(format!("to: {error}")))?;
    if address.routes_elsewhere() {
        return Err(outbox::Error::Denied("to: the local part names another address".to_owned()));
    }
    if domains.iter().any(|domain| domain.is_of(&address)) {
        return Ok(MailRecipient::Address(address));
    }
    let domain = printable(address.domain());
    Err(outbox::Error::Denied(format!("to: the grant does not allow the domain {domain} (email.domains)")))
}

/// Checks the texts and the files of a mail.
fn check_content(message: &outbox::Message) -> Result<(), String> {
    mail_check::subject(&message.subject)?;
    mail_check::body("text", &message.text)?;
    mail_check::body("html", message.html.as_deref().unwrap_or_default())?;
    if message.attachments.len() > MAX_ATTACHMENTS {
        return Err(format!("attachments: more than {MAX_ATTACHMENTS}"));
    }
    for (number, file) in message.attachments.iter().enumerate() {
        mail_check::file_name(&format!("attachments.{number}.name"), &file.name)?;
        mail_check::content_type(&format!("attachments.{number}.content-type"), &file.content_type)?;
    }
    Ok(())
}

impl Guest {
    /// Checks the limits, and hands a mail over whose content was checked.
    async fn send_mail(
        &mut self,
        release: &EmailRelease,
        to: MailRecipient,
        message: outbox::Message,
    ) -> Result<MailId, Refusal> {
        check_key("dedup-key", message.dedup_key.as_deref())?;
        release.rate.take().map_err(|per_minute| {
            self.usage.hit(Limit::EmailRate);
            Refusal::Limit(format!("rate: {per_minute}"))
        })?;
        let content = message.attachments.iter().map(|file| file.content.len().div_ceil(3).saturating_mul(4));
        let content = content.fold(0, usize::saturating_add);
        self.check_queue(release, texts_size(&message).saturating_add(content))?;
        let services = &release.services;
        let id = MailId(services.random.uuid().map_err(wasmtime::Error::msg)?);
        let _reservation = self.reserve(content)?;
        let encode = |outbox::Attachment { name, content_type, content }| MailAttachment {
            name,
            content_type,
            content: STANDARD.encode(content),
        };
        let mail = PluginMail {
            id,
            to,
            subject: message.subject,
            text: message.text,
            html: message.html,
            attachments: message.attachments.into_iter().map(encode).collect(),
            dedup_key: message.dedup_key,
            request_id: self.context.request_id.as_deref().map(str::to_owned),
            at: services.clock.now(),
        };
        self.hand_over(services, Message::Mail(mail)).await?;
        Ok(id)
    }

    /// Checks that the plugin has room for another mail that waits, with its size.
    fn check_queue(&mut self, release: &EmailRelease, size: usize) -> Result<(), Refusal> {
        let bytes = u64::try_from(size.max(plugin_mail::LEAST_BYTES)).unwrap_or(u64::MAX);
        if !release.waiting.add(&self.context.plugin, bytes, release.quota.queue) {
            self.usage.hit(Limit::EmailQueue);
            return Err(Refusal::Limit(format!("queue: {}", release.quota.queue)));
        }
        Ok(())
    }
}

impl outbox::Host for Guest {
    async fn send(&mut self, message: outbox::Message) -> wasmtime::Result<Result<String, outbox::Error>> {
        self.charge(HostCalls::email)?;
        let release = match self.entered.email()? {
            Ok(release) => Arc::clone(release),
            Err(_revoked) => return Ok(Err(outbox::Error::Unavailable)),
        };
        let size = size(&message);
        let key = message.dedup_key.as_ref().map_or(0, String::len);
        let _reservation = self.reserve(size.saturating_add(key))?;
        if size > release.quota.bytes {
            self.usage.hit(Limit::EmailBytes);
            return Ok(Err(outbox::Error::Limit(format!("bytes: {}", release.quota.bytes))));
        }
        let to = match recipient(&message.to, &release.quota.domains) {
            Ok(to) => to,
            Err(error) => return Ok(Err(error)),
        };
        if let Err(reason) = check_content(&message) {
            return Ok(Err(outbox::Error::Invalid(reason)));
        }
        // Nothing would ever send it.
        if !release.is_delivered {
            return Ok(Err(outbox::Error::Unavailable));
        }
        match self.send_mail(&release, to, message).await {
            Ok(id) => Ok(Ok(id.to_string())),
            Err(refusal) => outbox::Error::try_from(refusal).map(Err),
        }
    }
}

convert_refusals!(outbox::Error);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::outbox::Host as _;
    use super::*;
    use crate::capability::message_fixture::{Fixture, hits};

    const ACCOUNT: &str = "6f9619ff-8b86-d011-b42d-00cf4fc964ff";

    fn mail() -> outbox::Message {
        outbox::Message {
            to: outbox::Recipient::Account(ACCOUNT.to_owned()),
            subject: "Hello".to_owned(),
            text: "Hello".to_owned(),
            html: None,
            attachments: Vec::new(),
            dedup_key: None,
        }
    }

    fn file(name: &str, content_type: &str) -> outbox::Attachment {
        outbox::Attachment { name: name.to_owned(), content_type: content_type.to_owned(), content: vec![0; 10] }
    }

    fn to(address: &str) -> outbox::Message {
        outbox::Message { to: outbox::Recipient::Address(address.to_owned()), ..mail() }
    }

    async fn send(guest: &mut Guest, message: outbox::Message) -> Result<String, String> {
        guest.send(message).await.unwrap().map_err(|error| match error {
            outbox::Error::Invalid(reason) => format!("invalid: {reason}"),
            outbox::Error::Denied(reason) => format!("denied: {reason}"),
            outbox::Error::Limit(limit) => format!("limit: {limit}"),
            outbox::Error::Conflict => "conflict".to_owned(),
            outbox::Error::Unavailable => "unavailable".to_owned(),
        })
    }

    /// Opens a host that delivers mail to the log.
    async fn open() -> Fixture {
        Fixture::open(|config| config.server.development = true).await
    }

    async fn waiting(fixture: &Fixture) -> u64 {
        plugin_mail::waiting_bytes(&fixture.boot.db, &fixture.plugin).await.unwrap() / 1024
    }

    #[tokio::test]
    async fn a_mail_of_a_plugin_without_a_database_is_queued_when_it_is_sent() {
        let fixture = open().await;
        let mut guest = fixture.call(&["email"], None).await;
        let id = send(&mut guest, mail()).await.unwrap();
        assert!(fixture.boot.db.signals().mails_added().now_or_never().is_some(), "nobody is woken");
        let now = fixture.boot.clock.now();
        let queued = crate::db::email::claim(&fixture.boot.db, "items", now, now).await.unwrap().unwrap();
        let stored: PluginMail = serde_json::from_str(&queued.payload).unwrap();
        assert_eq!((stored.id.to_string(), stored.at, stored.request_id.as_deref()), (id, now, Some("r1")));
        assert_eq!(stored.to, MailRecipient::Account(UserId(ACCOUNT.parse().unwrap())));
    }

    #[tokio::test]
    async fn a_mail_of_a_plugin_with_a_database_waits_in_its_outbox() {
        let fixture = open().await;
        let mut guest = fixture.call(&["email", "sql"], None).await;
        let id = send(&mut guest, mail()).await.unwrap();
        assert_eq!(waiting(&fixture).await, 0);
        let stored = fixture.boot.data.outbox(&fixture.plugin, 10).await.unwrap();
        let Ok(Message::Mail(stored)) = serde_json::from_str(&stored[0].text) else { panic!("{}", stored[0].text) };
        assert_eq!(stored.id.to_string(), id);
        let filled = fixture.boot.db.signals().filled_outboxes().now_or_never();
        assert_eq!(filled, Some(BTreeSet::from([fixture.plugin.clone()])));
    }

    #[tokio::test]
    async fn a_wrong_mail_is_refused_with_the_name_of_the_member() {
        let fixture = open().await;
        let mut guest = fixture.call(&["email.domains=example.com"], None).await;
        let with = |attachment| outbox::Message { attachments: vec![attachment], ..mail() };
        for (wrong, expected) in [
            (
                outbox::Message { subject: "a\r\nBcc: x@example.com".to_owned(), ..mail() },
                "invalid: subject: contains a line break or a control character",
            ),
            (to("jane@example.com\r\nBcc: x@example.com"), "invalid: to: contains a line break or a control character"),
            (to("jane@example.com\n"), "invalid: to: contains a line break or a control character"),
            (to("Jane <jane@example.com>"), "invalid: to: The email address contains invalid characters "),
            (to("jane@example.com, x@example.com"), "invalid: to: The email address contains invalid characters "),
            (outbox::Message { to: outbox::Recipient::Account("1".to_owned()), ..mail() }, "invalid: to: not the id "),
            (outbox::Message { html: Some("\0".to_owned()), ..mail() }, "invalid: html: contains the character U+0000"),
            (with(file("a\r\nX: y", "text/csv")), "invalid: attachments.0.name: contains a line break"),
            (with(file("../a", "text/csv")), "invalid: attachments.0.name: has a path"),
            (with(file("a", "text/csv\r\nX: y")), "invalid: attachments.0.content-type: not a media type"),
            (with(file("a", "multipart/mixed")), "invalid: attachments.0.content-type: multipart/mixed is for mails"),
            (
                outbox::Message { attachments: (0..17).map(|_| file("a", "text/csv")).collect(), ..mail() },
                "invalid: attachments: more than 16",
            ),
            (
                outbox::Message { dedup_key: Some("k".repeat(201)), ..mail() },
                "invalid: dedup-key: longer than 200 bytes",
            ),
        ] {
            let refused = send(&mut guest, wrong).await.unwrap_err();
            assert!(refused.starts_with(expected), "{refused}");
        }
        assert_eq!(waiting(&fixture).await, 0);
    }

    #[tokio::test]
    async fn an_address_needs_a_grant_of_its_domain_and_an_account_needs_none() {
        let fixture = open().await;
        let mut guest = fixture.call(&["email"], None).await;
        let denied = "denied: to: the grant does not allow the domain example.com (email.domains)";
        assert_eq!(send(&mut guest, to("jane@Example.com")).await, Err(denied.to_owned()));
        send(&mut guest, mail()).await.unwrap();
        let mut guest = fixture.call(&["email.domains=example.com münchen.example"], None).await;
        for address in ["Jane@EXAMPLE.com", "jörg@xn--mnchen-3ya.example"] {
            send(&mut guest, to(address)).await.unwrap();
        }
        for address in [
            "jane@www.example.com",
            "jane@example.com.evil.example",
            "jane%evil.example@example.com",
            "evil.example!jane@example.com",
        ] {
            assert!(send(&mut guest, to(address)).await.unwrap_err().starts_with("denied: "), "{address}");
        }
        assert_eq!(waiting(&fixture).await, 3);
    }

    #[tokio::test]
    async fn the_limits_of_the_grant_are_refusals_that_name_them() {
        let fixture = open().await;
        let mut guest = fixture.call(&["email.rate=2", "email.bytes=1KiB"], None).await;
        let large = outbox::Attachment { content: vec![0; 1_024], ..file("a", "text/csv") };
        let large = outbox::Message { attachments: vec![large], ..mail() };
        assert_eq!(send(&mut guest, large).await, Err("limit: bytes: 1024".to_owned()));
        for _ in 0..2 {
            send(&mut guest, mail()).await.unwrap();
        }
        assert_eq!(send(&mut guest, mail()).await, Err("limit: rate: 2".to_owned()));
        fixture.boot.clock.advance(Duration::from_secs(60));
        send(&mut guest, mail()).await.unwrap();

        let mut guest = fixture.call(&["email.queue=64KiB", "email.rate=1000"], None).await;
        let full = "limit: queue: 65536".to_owned();
        // The waiting mails are counted in the background, and again after a second. In between, one can count twice.
        while waiting(&fixture).await < 64 {
            if let Err(refused) = send(&mut guest, mail()).await {
                assert_eq!(refused, full);
                fixture.boot.clock.advance(Duration::from_secs(1));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let hits_before = hits(&guest, Limit::EmailQueue);
        assert_eq!(send(&mut guest, mail()).await, Err(full));
        assert_eq!(hits(&guest, Limit::EmailQueue), hits_before + 1);
    }

    #[tokio::test]
    async fn a_mail_counts_with_its_files_until_it_was_sent() {
        let fixture = open().await;
        let mut guest = fixture.call(&["email.queue=64KiB"], None).await;
        let large = outbox::Attachment { content: vec![0; 60_000], ..file("a", "text/csv") };
        send(&mut guest, outbox::Message { attachments: vec![large], ..mail() }).await.unwrap();
        assert_eq!(send(&mut guest, mail()).await, Err("limit: queue: 65536".to_owned()));
        let now = fixture.boot.clock.now();
        let sent = crate::db::email::claim(&fixture.boot.db, "items", now, now).await.unwrap().unwrap();
        crate::db::email::delete(&fixture.boot.db, sent.id).await.unwrap();
        while send(&mut guest, mail()).await.is_err() {
            fixture.boot.clock.advance(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(waiting(&fixture).await, 1);
    }

    #[tokio::test]
    async fn a_revocation_ends_everything_and_the_waiting_mails_are_given_up() {
        let fixture = open().await;
        let mut guest = fixture.call(&["email"], None).await;
        send(&mut guest, mail()).await.unwrap();
        fixture.capabilities.forbid(&fixture.plugin, "email");
        for _ in 0..2 {
            fixture.capabilities.close(&fixture.plugin, "email").await.unwrap();
        }
        assert_eq!(send(&mut guest, mail()).await, Err("unavailable".to_owned()));
        assert_eq!(waiting(&fixture).await, 0);
    }

    #[tokio::test]
    async fn a_host_that_delivers_no_mail_takes_none() {
        let fixture = Fixture::open(|_| ()).await;
        let mut guest = fixture.call(&["email"], None).await;
        assert_eq!(send(&mut guest, mail()).await, Err("unavailable".to_owned()));
        assert!(!guest.dependencies.has_failed());
    }
}
