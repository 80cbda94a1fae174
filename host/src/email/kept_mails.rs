//! The latest mails of a host in development without a mail server, which a developer looks at instead of a mailbox. They
//! are in memory only, and bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::letter::Letter;
use crate::clock::Timestamp;
use crate::id::{MailId, PluginName};

/// The most mails.
const MAX_MAILS: usize = 200;

/// The most bytes of all mails together.
const MAX_BYTES: usize = 32 << 20;

/// A mail that was not sent.
pub struct KeptMail {
    /// When it would have been sent.
    pub at: Timestamp,
    /// The plugin; `None`: the host.
    pub plugin: Option<PluginName>,
    /// The mail.
    pub letter: Letter,
}

/// See the module.
#[derive(Default)]
pub struct KeptMails(Mutex<VecDeque<Arc<KeptMail>>>);

impl KeptMails {
    /// Keeps a mail, and forgets the oldest ones beyond the bounds.
    pub(super) fn keep(&self, mail: KeptMail) {
        let mut mails = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        mails.push_front(Arc::new(mail));
        let mut bytes = 0_usize;
        let fits = |mail: &Arc<KeptMail>| {
            bytes = bytes.saturating_add(mail.letter.bytes());
            bytes <= MAX_BYTES
        };
        let kept = mails.iter().take(MAX_MAILS).map(fits).take_while(|fits| *fits).count();
        mails.truncate(kept);
    }

    /// Returns the mails, the newest first.
    pub fn list(&self) -> Vec<Arc<KeptMail>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Returns a mail, if it is kept.
    pub fn find(&self, id: MailId) -> Option<Arc<KeptMail>> {
        let mails = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        mails.iter().find(|mail| mail.letter.id == id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn mail(number: u128, text: String) -> KeptMail {
        let letter = Letter {
            id: MailId(Uuid::from_u128(number)),
            to: "jane@example.com".to_owned(),
            subject: String::new(),
            text,
            html: None,
            attachments: Vec::new(),
        };
        KeptMail { at: Timestamp(0), plugin: None, letter }
    }

    #[test]
    fn the_latest_mails_are_kept_within_bounds() {
        let kept = KeptMails::default();
        for number in 0..250 {
            kept.keep(mail(number, String::new()));
        }
        let ids: Vec<u128> = kept.list().iter().map(|mail| mail.letter.id.0.as_u128()).collect();
        assert_eq!((ids.len(), ids.first(), ids.last()), (200, Some(&249), Some(&50)));
        assert!(kept.find(MailId(Uuid::from_u128(100))).is_some() && kept.find(MailId(Uuid::from_u128(1))).is_none());
        for number in 300..303 {
            kept.keep(mail(number, "x".repeat(MAX_BYTES / 2 - 100)));
        }
        assert_eq!(kept.list().len(), 2);
        kept.keep(mail(400, "x".repeat(MAX_BYTES)));
        assert!(kept.list().is_empty(), "it alone is too large");
    }
}
