//! The mails of a test: they are kept, and nothing is sent. Owns the rules of the host about a mail, so that a mail which a
//! test sends is one that the host takes.

use super::messages::{Message, StoredMail, check_key};
use super::state::{HostState, with};
use crate::Uuid;
use crate::bindings::imports::wharf::email::outbox::{self, Attachment, Error, Recipient};

/// The largest mail of a grant that says nothing else, in bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// The longest subject, in characters.
const MAX_SUBJECT: usize = 250;

/// The most attachments.
const MAX_ATTACHMENTS: usize = 16;

/// The longest name of an attachment, in characters.
const MAX_NAME: usize = 150;

/// The longest media type of an attachment, in bytes.
const MAX_CONTENT_TYPE: usize = 120;

/// The longest address, in characters.
const MAX_ADDRESS: usize = 254;

/// The longest local part of an address, in bytes.
const MAX_LOCAL: usize = 64;

/// Top-level names that cannot receive mail.
const RESERVED: [&str; 6] = ["arpa", "invalid", "local", "localhost", "onion", "test"];

pub(crate) fn send(message: &outbox::Message) -> Result<String, Error> {
    with(|host| {
        if size(message) > MAX_BYTES {
            return Err(Error::Limit(format!("bytes: {MAX_BYTES}")));
        }
        check_recipient(host, &message.to)?;
        check_content(message).map_err(Error::Invalid)?;
        check_key(message.dedup_key.as_deref()).map_err(|reason| Error::Invalid(format!("dedup-key: {reason}")))?;
        let id = Uuid::new_v4();
        host.hand_over(Message::Mail(StoredMail { id, queued_at: host.clock, message: message.clone() }));
        Ok(id.to_string())
    })
}

fn size(message: &outbox::Message) -> usize {
    let texts = message.subject.len() + message.text.len() + message.html.as_ref().map_or(0, String::len);
    let file = |file: &Attachment| file.name.len() + file.content_type.len() + file.content.len();
    texts + message.attachments.iter().map(file).sum::<usize>()
}

/// Checks that the grant allows a recipient. Compares domains as they are written, while the host knows that Punycode and
/// Unicode are the same.
fn check_recipient(host: &HostState, recipient: &Recipient) -> Result<(), Error> {
    match recipient {
        // The host looks the account up when it sends the mail.
        Recipient::Account(_) => Ok(()),
        Recipient::Address(address) => {
            check_line("to", address).map_err(Error::Invalid)?;
            let parts = parts_of(address.trim());
            let (local, domain) = parts.ok_or_else(|| Error::Invalid(format!("to: `{address}` is no address")))?;
            if local.contains(['%', '!']) {
                return Err(Error::Denied("to: the local part names another address".to_owned()));
            }
            match host.mail_domains.iter().any(|allowed| allowed.eq_ignore_ascii_case(domain)) {
                true => Ok(()),
                false => {
                    Err(Error::Denied(format!("to: the grant does not allow the domain {domain} (email.domains)")))
                }
            }
        }
    }
}

/// Returns the local part and the domain of an address; `None` if the text is none.
fn parts_of(address: &str) -> Option<(&str, &str)> {
    let (local, domain) = address.rsplit_once('@')?;
    let is_combining = |c: char| matches!(c, '\u{300}'..='\u{36f}');
    let in_atom = |c: char| c.is_alphanumeric() || is_combining(c) || "!#$%&'*+-/=?^_`{|}~".contains(c);
    let is_atom = |atom: &str| !atom.is_empty() && !atom.starts_with(is_combining) && atom.chars().all(in_atom);
    let in_label = |c: char| c.is_alphanumeric() || is_combining(c) || c == '-';
    let is_label = |label: &str| !label.is_empty() && label.chars().all(in_label);
    let (_, top) = domain.rsplit_once('.')?;
    let can_receive = !RESERVED.iter().any(|name| name.eq_ignore_ascii_case(top));
    let is_named = !top.ends_with(|last: char| last.is_ascii_digit());
    let is_short = address.chars().count() <= MAX_ADDRESS && local.len() <= MAX_LOCAL;
    let is_valid = local.split('.').all(is_atom) && domain.split('.').all(is_label);
    (is_valid && can_receive && is_named && is_short).then_some((local, domain))
}

fn check_content(message: &outbox::Message) -> Result<(), String> {
    check_line("subject", &message.subject)?;
    if message.subject.trim().is_empty() {
        return Err("subject: empty".to_owned());
    }
    if message.subject.chars().count() > MAX_SUBJECT {
        return Err(format!("subject: longer than {MAX_SUBJECT} characters"));
    }
    for (member, body) in [("text", Some(&message.text)), ("html", message.html.as_ref())] {
        if body.is_some_and(|body| body.contains('\0')) {
            return Err(format!("{member}: contains the character U+0000"));
        }
    }
    if message.attachments.len() > MAX_ATTACHMENTS {
        return Err(format!("attachments: more than {MAX_ATTACHMENTS}"));
    }
    for (number, Attachment { name, content_type, .. }) in message.attachments.iter().enumerate() {
        check_name(&format!("attachments.{number}.name"), name)?;
        check_content_type(&format!("attachments.{number}.content-type"), content_type)?;
    }
    Ok(())
}

/// A line break in a header would begin another header.
fn check_line(member: &str, text: &str) -> Result<(), String> {
    match text.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        true => Err(format!("{member}: contains a line break or a control character")),
        false => Ok(()),
    }
}

fn check_name(member: &str, name: &str) -> Result<(), String> {
    check_line(member, name)?;
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if name.trim().is_empty() || name.trim_matches('.').is_empty() {
        Err(format!("{member}: empty"))
    } else if name.chars().count() > MAX_NAME {
        Err(format!("{member}: longer than {MAX_NAME} characters"))
    } else if name.contains(['/', '\\']) {
        Err(format!("{member}: has a path"))
    } else if name.contains(turns) {
        Err(format!("{member}: contains a character that changes the direction of text"))
    } else {
        Ok(())
    }
}

/// Checks a media type: `TYPE/SUBTYPE`, perhaps with parameters without quotes. The only blanks are those behind a
/// semicolon.
fn check_content_type(member: &str, text: &str) -> Result<(), String> {
    let is_token = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    let is_pair = |text: &str, separator: char| {
        text.split_once(separator).is_some_and(|(one, other)| is_token(one) && is_token(other))
    };
    let mut parts = text.split(';');
    let essence = parts.next().unwrap_or_default();
    let is_parameter = |part: &str| is_pair(part.trim_start_matches(' '), '=');
    if text.len() > MAX_CONTENT_TYPE || !is_pair(essence, '/') || !parts.all(is_parameter) {
        return Err(format!("{member}: not a media type such as text/csv"));
    }
    let kind = essence.split('/').next().unwrap_or_default().to_ascii_lowercase();
    match ["multipart", "message"].contains(&kind.as_str()) {
        true => Err(format!("{member}: {essence} is for mails, not for files")),
        false => Ok(()),
    }
}
