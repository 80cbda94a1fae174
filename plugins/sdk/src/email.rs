//! Mail, which the host queues and sends.
//!
//! A mail goes to an account of the host, or to an address in a domain that the grant allows. While a transaction of
//! [`sql`](crate::sql) is open, the mail belongs to it: it is queued if the transaction commits. The host sends it later, and
//! again after a failure of the mail server.
//!
//! A subject and the bodies are everything that implements [`Display`]. So a mail can come from a template that is compiled
//! into the plugin: a type with `askama::Template` implements it. A template whose name ends in `.html` escapes the values
//! that it inserts, and one that ends in `.txt` does not. Add `askama` to your dependencies, and put the files into
//! `templates/` beside `Cargo.toml`.
//!
//! ```
//! use askama::Template;
//! use wharf_sdk::email;
//! use wharf_sdk::prelude::*;
//!
//! plugin! { name: "shop", summary: "Sells things", routes: [order] }
//!
//! #[derive(Template)]
//! #[template(source = "Thank you for ordering {{ title }}.", ext = "txt")]
//! struct Receipt<'a> {
//!     title: &'a str,
//! }
//!
//! #[derive(Template)]
//! #[template(source = "<p>Thank you for ordering <b>{{ title }}</b>.</p>", ext = "html")]
//! struct ReceiptPage<'a> {
//!     title: &'a str,
//! }
//!
//! #[post("/")]
//! fn order(caller: Caller, Text(title): Text) -> Result<()> {
//!     let title = title.as_str();
//!     email::Message::to_account(caller.id)
//!         .subject("Your order")
//!         .text(Receipt { title })
//!         .html(ReceiptPage { title })
//!         .send()?;
//!     Ok(())
//! }
//!
//! use wharf_sdk::testing::{TestPlugin, user};
//! let plugin = TestPlugin::new(&PLUGIN);
//! let alice = user("alice@example.com");
//! assert_eq!(plugin.post("/").by(&alice).body("tea & milk").send().status(), 204);
//! let mails = plugin.mails();
//! assert_eq!(mails[0].text, "Thank you for ordering tea & milk.");
//! assert_eq!(mails[0].html.as_deref(), Some("<p>Thank you for ordering <b>tea &#38; milk</b>.</p>"));
//! ```

use crate::Problem;
use crate::bindings::imports::wharf::email::outbox as wit;
use crate::host::email as host;
use std::fmt::{Display, Write as _};
use uuid::Uuid;

pub use wit::{Attachment, Error};

/// Queues a mail and returns its id. While a transaction is open, the mail belongs to it. The id of a mail whose
/// [`dedup_key`](Message::dedup_key) drops it stays unknown to the host.
///
/// # Errors
/// See [`Error`]; `?` in a handler turns it into a problem response.
pub fn send(message: Message) -> Result<Uuid, Error> {
    let Message { raw, invalid } = message;
    if let Some(reason) = invalid {
        return Err(Error::Invalid(reason));
    }
    let id = host::send(&raw).inspect_err(note_conflict)?;
    Uuid::parse_str(&id).map_err(|_| Error::Invalid("the host returned an id that is no UUID".to_owned()))
}

/// The open transaction has lost if the mail cannot be added to it.
fn note_conflict(error: &Error) {
    if *error == Error::Conflict {
        crate::sql::note_conflict();
    }
}

/// A builder for a mail to one recipient; [`Message::send`] queues it.
#[derive(Clone, Debug)]
#[must_use]
pub struct Message {
    raw: wit::Message,
    /// Why the mail cannot be sent.
    invalid: Option<String>,
}

impl Message {
    /// Starts a mail to an account of the host. It goes to the address that the account has when the host sends it. It goes to
    /// nobody if the account is gone by then, or deactivated, or if its address is not verified.
    pub fn to_account(id: Uuid) -> Self {
        Self::to(wit::Recipient::Account(id.to_string()))
    }

    /// Starts a mail to an address. The grant must allow its domain.
    pub fn to_address(address: &str) -> Self {
        Self::to(wit::Recipient::Address(address.to_owned()))
    }

    fn to(recipient: wit::Recipient) -> Self {
        let raw = wit::Message {
            to: recipient,
            subject: String::new(),
            text: String::new(),
            html: None,
            attachments: Vec::new(),
            dedup_key: None,
        };
        Self { raw, invalid: None }
    }

    /// Sets the subject. It is one line of at most 250 characters, so a text of somebody else in it needs a bound.
    pub fn subject(mut self, subject: impl Display) -> Self {
        self.raw.subject = self.written("subject", subject);
        self
    }

    /// Sets the body.
    pub fn text(mut self, text: impl Display) -> Self {
        self.raw.text = self.written("text", text);
        self
    }

    /// Sets the body for mail programs that show HTML. A template escapes what it inserts; a text of `format!` does not.
    pub fn html(mut self, html: impl Display) -> Self {
        self.raw.html = Some(self.written("html", html));
        self
    }

    /// Adds an attachment, one of at most 16. `name` has no path and at most 150 characters: `summary.pdf`. `content_type` is a
    /// media type such as `text/csv`.
    pub fn attach(
        mut self,
        name: impl Into<String>,
        content_type: impl Into<String>,
        content: impl Into<Vec<u8>>,
    ) -> Self {
        let (name, content_type, content) = (name.into(), content_type.into(), content.into());
        self.raw.attachments.push(wit::Attachment { name, content_type, content });
        self
    }

    /// Drops the mail if the plugin queued another one with this key within a day.
    pub fn dedup_key(mut self, key: impl Display) -> Self {
        self.raw.dedup_key = Some(self.written("dedup-key", key));
        self
    }

    /// Queues the mail and returns its id, as [`send`] does.
    ///
    /// # Errors
    /// As [`send`].
    pub fn send(self) -> Result<Uuid, Error> {
        send(self)
    }

    /// Returns a member of the mail as text. A template that fails makes the mail invalid.
    fn written(&mut self, member: &str, value: impl Display) -> String {
        let mut text = String::new();
        if write!(text, "{value}").is_err() {
            self.invalid.get_or_insert_with(|| format!("{member}: writing the text failed"));
        }
        text
    }
}

/// 409 `transaction_conflict` for a lost transaction, 429 for a rate or a full queue, 503 for another limit and while mails
/// cannot be queued, and 500 `plugin_error` for a mail that is not valid or a recipient that the grant does not allow. The
/// message itself goes to the plugin's log only.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(message) => Self::internal(format_args!("email: {message}")),
            Error::Denied(message) => Self::internal(format_args!("email: the recipient is denied: {message}")),
            Error::Limit(limit) => Self::message_limit("email", &limit),
            Error::Conflict => {
                Self::conflict("transaction_conflict", "The data was changed at the same time, try again")
            }
            Error::Unavailable => Self::new(503, "email_unavailable", "Mails cannot be queued now, try again later"),
        }
    }
}
