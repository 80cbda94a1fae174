//! Mails of a plugin under test: they are kept for the test, and nothing is sent.

use super::TestPlugin;
use crate::Uuid;
use crate::bindings::imports::wharf::email::outbox as wit;
use crate::email::Attachment;
use crate::host::stand_in::messages::StoredMail;

/// The recipient of a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// An account of the host, by its id.
    Account(Uuid),
    /// An address.
    Address(String),
}

/// A mail that the host would send.
#[derive(Clone, Debug, PartialEq)]
pub struct TestMail {
    /// The id that sending it returned.
    pub id: Uuid,
    /// The recipient.
    pub to: Recipient,
    /// The subject.
    pub subject: String,
    /// The body.
    pub text: String,
    /// The body for mail programs that show HTML.
    pub html: Option<String>,
    /// The attachments.
    pub attachments: Vec<Attachment>,
    /// The deduplication key.
    pub dedup_key: Option<String>,
}

impl TestPlugin {
    /// Allows mails to the addresses of a domain, as an operator would with `email.domains`. Mails to other addresses are
    /// denied. A mail to an account needs no domain.
    ///
    /// ```
    /// use wharf_sdk::email;
    /// use wharf_sdk::prelude::*;
    /// use wharf_sdk::testing::{Recipient, TestPlugin};
    ///
    /// plugin! { name: "contact", summary: "Passes messages on", routes: [contact] }
    ///
    /// #[post("/", access = public)]
    /// fn contact(Text(text): Text) -> Result<()> {
    ///     email::Message::to_address("office@example.com").subject("A message").text(text).send()?;
    ///     Ok(())
    /// }
    ///
    /// let plugin = TestPlugin::new(&PLUGIN);
    /// assert_eq!(plugin.post("/").body("Hello").send().status(), 500);
    /// let plugin = TestPlugin::new(&PLUGIN).mail_domain("example.com");
    /// assert_eq!(plugin.post("/").body("Hello").send().status(), 204);
    /// assert_eq!(plugin.mails()[0].to, Recipient::Address("office@example.com".to_owned()));
    /// ```
    #[must_use]
    pub fn mail_domain(self, domain: &str) -> Self {
        self.host.borrow_mut().mail_domains.push(domain.to_owned());
        self
    }

    /// Returns the mails that the plugin has sent so far. Those of a transaction that was rolled back and those that a
    /// deduplication key dropped are not among them.
    pub fn mails(&self) -> Vec<TestMail> {
        self.host.borrow().messages.mails.iter().cloned().map(TestMail::from).collect()
    }
}

impl From<StoredMail> for TestMail {
    fn from(StoredMail { id, message, .. }: StoredMail) -> Self {
        let wit::Message { to, subject, text, html, attachments, dedup_key } = message;
        let to = match to {
            wit::Recipient::Account(account) => {
                Recipient::Account(Uuid::parse_str(&account).expect("the SDK writes UUIDs"))
            }
            wit::Recipient::Address(address) => Recipient::Address(address),
        };
        Self { id, to, subject, text, html, attachments, dedup_key }
    }
}
