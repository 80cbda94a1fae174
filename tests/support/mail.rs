//! A mail server that stores the mails it receives.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use mailparse::{MailHeaderMap as _, ParsedMail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::polling::until;

/// A mail as its receiver reads it.
#[derive(Debug, Clone)]
pub(crate) struct Mail {
    /// The recipient in the envelope.
    pub(crate) receiver: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) subject: String,
    pub(crate) html: String,
    pub(crate) text: String,
    pub(crate) message_id: String,
    /// The names of all headers, in order.
    pub(crate) headers: Vec<String>,
    /// Names and contents.
    pub(crate) attachments: Vec<(String, Vec<u8>)>,
}

/// The end of the subject of a note about a change of the sign-in.
const NOTE: &str = " - The sign-in to your account was changed";

/// The mails that the server took.
#[derive(Default)]
struct Taken {
    mails: Vec<Mail>,
    /// The notes about changes of the sign-in, which come between the other mails.
    notes: Vec<Mail>,
}

/// The server, which ends when it is dropped.
pub(crate) struct MailServer {
    addr: SocketAddr,
    taken: Arc<Mutex<Taken>>,
    is_down: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl MailServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let taken: Arc<Mutex<Taken>> = Arc::default();
        let is_down: Arc<AtomicBool> = Arc::default();
        let (received, closes) = (Arc::clone(&taken), Arc::clone(&is_down));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(receive(stream, Arc::clone(&received), Arc::clone(&closes)));
            }
        });
        Self { addr, taken, is_down, task }
    }

    /// Ends or begins an outage: the server closes each connection at the first word of its client.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::SeqCst);
    }

    /// Returns the value for `email.smtp_url`.
    pub(crate) fn url(&self) -> String {
        format!("smtp://{}?tls=none", self.addr)
    }

    /// Returns the mails so far, without the notes about changes of the sign-in.
    pub(crate) fn received(&self) -> Vec<Mail> {
        self.taken.lock().unwrap().mails.clone()
    }

    /// Waits for a mail to a recipient, but not for a note about a change of the sign-in, and removes it from the server.
    pub(crate) async fn take(&self, receiver: &str) -> Mail {
        until(&format!("a mail for {receiver}"), async || remove(&mut self.taken.lock().unwrap().mails, receiver)).await
    }

    /// Waits for a note about a change of the sign-in, and removes it from the server.
    pub(crate) async fn take_note(&self, receiver: &str) -> Mail {
        until(&format!("a note for {receiver}"), async || remove(&mut self.taken.lock().unwrap().notes, receiver)).await
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn remove(mails: &mut Vec<Mail>, receiver: &str) -> Option<Mail> {
    let position = mails.iter().position(|mail| mail.receiver == receiver)?;
    Some(mails.remove(position))
}

impl Mail {
    /// Returns the token of the link that sets a password.
    pub(crate) fn reset_token(&self) -> String {
        self.token("/reset-password?token=")
    }

    /// Returns the token of the link that proves an address.
    pub(crate) fn verification_token(&self) -> String {
        self.token("/verify-email?token=")
    }

    /// Returns the token of a link, found as a browser test would find it.
    fn token(&self, link: &str) -> String {
        let (_, rest) = self.html.split_once(link).unwrap_or_else(|| panic!("no link in {}", self.html));
        rest.split('"').next().unwrap().to_owned()
    }

    fn parse(receiver: String, raw: &[u8]) -> Self {
        let parsed = mailparse::parse_mail(raw).unwrap();
        let header = |name: &str| parsed.headers.get_first_value(name).unwrap_or_default();
        Self {
            receiver,
            from: header("From"),
            to: header("To"),
            subject: header("Subject"),
            html: part(&parsed, "text/html"),
            text: part(&parsed, "text/plain"),
            message_id: header("Message-ID"),
            headers: parsed.headers.iter().map(mailparse::MailHeader::get_key).collect(),
            attachments: parsed.parts().filter_map(attachment).collect(),
        }
    }
}

fn attachment(part: &ParsedMail<'_>) -> Option<(String, Vec<u8>)> {
    let disposition = part.get_content_disposition();
    let is_file = disposition.disposition == mailparse::DispositionType::Attachment;
    is_file.then(|| (disposition.params.get("filename").cloned().unwrap_or_default(), part.get_body_raw().unwrap()))
}

fn part(mail: &ParsedMail<'_>, kind: &str) -> String {
    mail.parts().find(|part| part.ctype.mimetype == kind).map(|part| part.get_body().unwrap()).unwrap_or_default()
}

/// Speaks enough of RFC 5321 for one client.
async fn receive(stream: TcpStream, taken: Arc<Mutex<Taken>>, is_down: Arc<AtomicBool>) {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 test\r\n").await.ok();
    let mut receiver = String::new();
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|length| length > 0) {
        let command = line.trim_end().to_owned();
        line.clear();
        if is_down.load(Ordering::SeqCst) {
            return;
        }
        let word = command.get(..4).unwrap_or_default().to_ascii_uppercase();
        let reply: &[u8] = match word.as_str() {
            "RCPT" => {
                receiver =
                    command.split_once('<').map(|(_, rest)| rest.trim_end_matches('>')).unwrap_or_default().into();
                b"250 ok\r\n"
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await.ok();
                let mut raw = Vec::new();
                loop {
                    let begun = raw.len();
                    if stream.read_until(b'\n', &mut raw).await.unwrap_or(0) == 0 {
                        return;
                    }
                    if &raw[begun..] == b".\r\n" {
                        raw.truncate(begun);
                        break;
                    }
                    if raw[begun..].starts_with(b"..") {
                        raw.remove(begun);
                    }
                }
                let mail = Mail::parse(receiver.clone(), &raw);
                let mut taken = taken.lock().unwrap();
                let kind = if mail.subject.ends_with(NOTE) { &mut taken.notes } else { &mut taken.mails };
                kind.push(mail);
                b"250 kept\r\n"
            }
            "QUIT" => b"221 bye\r\n",
            "EHLO" => b"250-test\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
            _ => b"250 ok\r\n",
        };
        if stream.write_all(reply).await.is_err() {
            return;
        }
    }
}
