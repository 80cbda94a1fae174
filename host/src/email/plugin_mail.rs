//! The mails of plugins when they are sent: the address of the recipient, and the content as it is stored. `capability::email`
//! checked both when the plugin sent the mail.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::letter::{Attachment, Letter};
use crate::db::email::MailRow;
use crate::db::email::plugin_mail::REVOKED;
use crate::db::{Db, directory, plugin as plugins};
use crate::error::{Error, Result};
use crate::id::PluginName;
use crate::message::{MailAttachment, MailRecipient, PluginMail};

/// The address of a mail.
pub(super) enum Delivered {
    /// The mail goes to this address.
    To(String),
    /// The mail is not sent, for this reason.
    Nowhere(&'static str),
}

/// Returns why a mail is not sent although it waits. A revocation gives the mails up that are in the queue then; one that was
/// still in the outbox of its plugin comes later. A mail that an operator retried is sent.
pub(super) async fn withdrawal(db: &Db, plugin: &PluginName, row: &MailRow) -> Result<Option<&'static str>> {
    if row.waiting_since > row.created_at {
        return Ok(None);
    }
    let Some(stored) = plugins::find(db, plugin).await? else { return Ok(None) };
    if stored.state == "removed" {
        return Ok(Some("the plugin was removed"));
    }
    Ok(stored.revoked()?.iter().any(|capability| capability == "email").then_some(REVOKED))
}

/// Finds the address of a mail. An account gets mail only while it is active, and only at an address that was verified or
/// that an operator vouched for (`users.email_verified_at`): otherwise a plugin could mail people who never signed up.
pub(super) async fn address(db: &Db, to: &MailRecipient) -> Result<Delivered> {
    let account = match to {
        MailRecipient::Address(address) => return Ok(Delivered::To(address.to_string())),
        MailRecipient::Account(account) => *account,
    };
    Ok(match directory::recipient(db, account).await? {
        None => Delivered::Nowhere("its account does not exist"),
        Some(found) if !found.is_active => Delivered::Nowhere("its account is not active"),
        Some(found) if found.email_verified_at.is_none() => {
            Delivered::Nowhere("the address of its account is not verified")
        }
        Some(found) => Delivered::To(found.email),
    })
}

/// Composes a mail as it is sent.
pub(super) fn letter(mail: PluginMail, to: String) -> Result<Letter> {
    let PluginMail { id, subject, text, html, attachments, .. } = mail;
    let decode = |file: MailAttachment| {
        let content = STANDARD.decode(&file.content);
        let content = content.map_err(|error| Error::internal("an attachment is not base64").with_source(error))?;
        Ok(Attachment { name: file.name, content_type: file.content_type, content: Bytes::from(content) })
    };
    let attachments = attachments.into_iter().map(decode).collect::<Result<_>>()?;
    Ok(Letter { id, to, subject, text, html, attachments })
}
