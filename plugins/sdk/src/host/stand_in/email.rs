//! The mails of a test: they are kept, and nothing is sent. Owns the rules of the host about a mail.

use super::messages::{Message, StoredMail, check_key};
use super::state::{HostState, with};
use crate::Uuid;
use crate::bindings::imports::wharf::email::outbox::{self, Attachment, Error, Recipient};

pub(crate) fn send(message: &outbox::Message) -> Result<String, Error> {
    with(|host| {
        check_recipient(host, &message.to)?;
        check_line("subject", &message.subject)?;
        for Attachment { name, content_type, .. } in &message.attachments {
            check_line("attachments: name", name)?;
            check_line("attachments: content-type", content_type)?;
            if name.is_empty() || name.contains(['/', '\\']) {
                return Err(Error::Invalid("attachments: a name is not empty and has no path".to_owned()));
            }
            if !content_type.contains('/') {
                return Err(Error::Invalid(format!("attachments: `{content_type}` is no content type")));
            }
        }
        check_key(message.dedup_key.as_deref()).map_err(|reason| Error::Invalid(format!("dedup-key: {reason}")))?;
        let id = Uuid::new_v4();
        host.hand_over(Message::Mail(StoredMail { id, queued_at: host.clock, message: message.clone() }));
        Ok(id.to_string())
    })
}

fn check_recipient(host: &HostState, recipient: &Recipient) -> Result<(), Error> {
    match recipient {
        // The host looks the account up when it sends the mail.
        Recipient::Account(_) => Ok(()),
        Recipient::Address(address) => {
            check_line("to", address)?;
            let parts = address.rsplit_once('@').filter(|(local, domain)| !local.is_empty() && !domain.is_empty());
            let (_, domain) = parts.ok_or_else(|| Error::Invalid(format!("to: `{address}` is no address")))?;
            match host.mail_domains.iter().any(|allowed| allowed.eq_ignore_ascii_case(domain)) {
                true => Ok(()),
                false => Err(Error::Denied(format!("domains: `{domain}`"))),
            }
        }
    }
}

/// A line break in a header would begin another header.
fn check_line(member: &str, text: &str) -> Result<(), Error> {
    match text.contains(char::is_control) {
        true => Err(Error::Invalid(format!("{member}: a control character"))),
        false => Ok(()),
    }
}
