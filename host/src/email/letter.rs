//! A mail that is ready to be sent, of the host or of a plugin: recipient, texts and files.

use bytes::Bytes;

use super::templates::Message;
use crate::id::MailId;

/// See the module. It can contain a working link, so it has no `Debug`.
#[derive(Clone)]
pub struct Letter {
    /// The same at each attempt to send it.
    pub id: MailId,
    /// The address of the recipient.
    pub to: String,
    /// The subject, one line.
    pub subject: String,
    /// The body as plain text.
    pub text: String,
    /// The body as HTML.
    pub html: Option<String>,
    /// The files.
    pub attachments: Vec<Attachment>,
}

/// A file in a mail.
#[derive(Clone)]
pub struct Attachment {
    /// The name.
    pub name: String,
    /// The media type.
    pub content_type: String,
    /// The content.
    pub content: Bytes,
}

impl Letter {
    /// Creates a mail of the host from its rendered templates.
    pub(super) fn of_host(id: MailId, message: Message) -> Self {
        let Message { to, subject, html, text } = message;
        Self { id, to, subject, text, html: Some(html), attachments: Vec::new() }
    }

    /// Returns the memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        let texts = [self.to.len(), self.subject.len(), self.text.len(), self.html.as_ref().map_or(0, String::len)];
        let file = |file: &Attachment| [file.name.len(), file.content_type.len(), file.content.len()];
        texts.into_iter().chain(self.attachments.iter().flat_map(file)).fold(0, usize::saturating_add)
    }
}
