//! Sending over SMTP, in a session that stays open while there is mail to send.
//!
//! Only a session whose last mail was confirmed is used again. After any failure it is closed, also if an attempt is given up
//! in the middle: otherwise the late response to one mail would be taken for that to the next one.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use lettre::message::header::{ContentDisposition, ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Tls, TlsParameters};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::{self, commands};
use percent_encoding::percent_decode_str;
use tokio::time::{timeout, timeout_at};
use url::Url;

use super::letter::{Attachment, Letter};
use crate::address::Address;
use crate::clock::Timestamp;
use crate::config::Secret;
use crate::error::{Error, Result};

/// The time limit of opening a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit of everything before the content of a mail: the connection, the sign-in, the sender and the recipient.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The time limit of the content and its confirmation. A mail server may check a content for a while before it responds, and
/// a mail that is given up before that arrives twice.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(60);
/// The bytes of a content for which a second is added to [`CONFIRM_TIMEOUT`].
const BYTES_A_SECOND: usize = 512 * 1024;
/// The most that is added to it.
const LONGEST_TRANSFER: u64 = 70;
/// The time limit of the end of a session.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest time of an attempt, with the end of its session.
pub(super) const LONGEST_ATTEMPT: Duration =
    Duration::from_secs(BEGIN_TIMEOUT.as_secs() + CONFIRM_TIMEOUT.as_secs() + LONGEST_TRANSFER + END_TIMEOUT.as_secs());
/// The time limit of the response in a session that was open. A network can forget a connection.
const TEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a session stays open without a mail.
const IDLE_TIME: Duration = Duration::from_secs(30);
/// The most sessions that stay open: one for each worker.
const MAX_IDLE: usize = 2;

const AUTO_SUBMITTED: HeaderName = HeaderName::new_from_ascii_str("Auto-Submitted");

/// The meaning of a failure for the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Another attempt may succeed.
    Later,
    /// The mail server is away: it is not reachable, gives no session, or does not respond before it knows a recipient. This
    /// concerns every mail.
    Away,
    /// Another attempt would fail in the same way.
    Refused,
    /// The mail server may have the whole mail, and did not say whether it took it.
    Unconfirmed,
}

/// The reason why a mail was not sent.
#[derive(Debug)]
pub(super) struct SendError {
    pub(super) error: Error,
    pub(super) failure: Failure,
}

impl From<Error> for SendError {
    fn from(error: Error) -> Self {
        Self { error, failure: Failure::Later }
    }
}

impl SendError {
    fn of_server(error: smtp::Error, failure: Failure) -> Self {
        Self { error: Error::internal("the mail server did not accept a mail").with_source(error), failure }
    }

    /// A refusal of the sender, which concerns every mail: an operator can change it. Or no response to it.
    fn of_sender(error: smtp::Error) -> Self {
        let failure = if error.status().is_some() { Failure::Later } else { Failure::Away };
        Self::of_server(error, failure)
    }

    /// A refusal of a recipient.
    fn of_mail(error: smtp::Error) -> Self {
        let failure = if concerns_the_mail(&error) { Failure::Refused } else { Failure::Later };
        Self::of_server(error, failure)
    }

    /// A refusal of a content, or the end of the connection before one.
    fn of_content(error: smtp::Error) -> Self {
        if error.status().is_some() { Self::of_mail(error) } else { Self::of_server(error, Failure::Unconfirmed) }
    }
}

pub(super) struct Smtp {
    from: Mailbox,
    server: Server,
    idle: Mutex<Vec<Idle>>,
}

/// A session that waits for the next mail.
struct Idle {
    session: AsyncSmtpConnection,
    since: Instant,
}

/// The parameters of a session with the mail server.
struct Server {
    host: String,
    port: u16,
    tls: Tls,
    credentials: Option<Credentials>,
}

impl Smtp {
    /// Opens the transport: `smtp://` with STARTTLS (port 587), `smtps://` with TLS (465), or `smtp://…?tls=none`
    /// without encryption (25). A mail server on this machine need not offer STARTTLS: the mail does not leave it.
    pub(super) fn open(url: &Secret, sender_name: &str, from: &str) -> Result<Self> {
        // The errors of these parsers are dropped, because they may quote the URL with the password.
        let refuse = |reason: &str| Error::internal(format!("email.smtp_url {reason}"));
        let url = Url::parse(url.expose()).map_err(|_| refuse("is not a URL"))?;
        let host = url.host_str().ok_or_else(|| refuse("has no host"))?.trim_matches(['[', ']']);
        let tls = url.query_pairs().find(|(name, _)| name == "tls").map(|(_, value)| value.into_owned());
        let parameters = || TlsParameters::new(host.to_owned()).map_err(|_| refuse("has a host that TLS cannot name"));
        let (tls, port) = match (url.scheme(), tls.as_deref()) {
            ("smtp", None) if is_loopback(host) => (Tls::Opportunistic(parameters()?), 587),
            ("smtp", None) => (Tls::Required(parameters()?), 587),
            ("smtp", Some("none")) => (Tls::None, 25),
            ("smtps", None) => (Tls::Wrapper(parameters()?), 465),
            _ => return Err(refuse("must be smtp://, smtps:// or smtp://…?tls=none")),
        };
        let port = url.port().unwrap_or(port);
        let mut server = Server { host: host.to_owned(), port, tls, credentials: None };
        if let Some(password) = url.password() {
            let decode = |text: &str| {
                let text = percent_decode_str(text).decode_utf8().map_err(|_| refuse("has unreadable credentials"))?;
                Ok::<_, Error>(text.into_owned())
            };
            server.credentials = Some(Credentials::new(decode(url.username())?, decode(password)?));
        }
        let from = mailbox(from).map_err(|error| Error::internal("email.from").with_source(error))?;
        Ok(Self { from: Mailbox::new(Some(sender_name.to_owned()), from), server, idle: Mutex::default() })
    }

    /// Sends a mail. Its `Message-ID` is the same at each attempt, so that a mail program recognises a repetition.
    pub(super) async fn send(&self, letter: &Letter, now: Timestamp) -> Result<(), SendError> {
        let unusable =
            |error| SendError { error: Error::internal("the recipient").with_source(error), failure: Failure::Refused };
        let to = mailbox(&letter.to).map_err(unusable)?;
        let content = self.compose(letter, to.clone(), now)?;
        let mut session = self.begin(to, content.is_ascii(), Instant::now() + BEGIN_TIMEOUT).await?;
        let transfer = u64::try_from(content.len() / BYTES_A_SECOND).unwrap_or(u64::MAX).min(LONGEST_TRANSFER);
        match timeout(CONFIRM_TIMEOUT + Duration::from_secs(transfer), session.message(&content)).await {
            Ok(Ok(_)) => {
                self.keep(session);
                Ok(())
            }
            Ok(Err(error)) => {
                end(session).await;
                Err(SendError::of_content(error))
            }
            Err(_) => Err(SendError {
                error: Error::internal("the mail server did not confirm a mail in time, and may have taken it"),
                failure: Failure::Unconfirmed,
            }),
        }
    }

    /// Returns a mail as it is transferred.
    fn compose(&self, letter: &Letter, to: lettre::Address, now: Timestamp) -> Result<Vec<u8>, SendError> {
        let domain = self.from.email.domain();
        let domain = idna::domain_to_ascii(domain).unwrap_or_else(|_| domain.to_owned());
        let date = SystemTime::UNIX_EPOCH + Duration::from_micros(now.0.max(0).unsigned_abs());
        let head = lettre::Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(letter.subject.as_str())
            .date(date)
            .message_id(Some(format!("<{}@{domain}>", letter.id)))
            // RFC 3834: programs that answer mails by themselves do not answer this one.
            .raw_header(HeaderValue::new(AUTO_SUBMITTED, "auto-generated".to_owned()));
        let mail = match body(letter)? {
            Body::One(part) => head.singlepart(part),
            Body::Several(parts) => head.multipart(parts),
        };
        let mail = mail.map_err(|error| Error::internal("a mail cannot be composed").with_source(error))?;
        Ok(mail.formatted())
    }

    /// Opens a session or takes one that is open, and names the sender and the recipient of a mail in it.
    async fn begin(
        &self,
        to: lettre::Address,
        is_ascii: bool,
        deadline: Instant,
    ) -> Result<AsyncSmtpConnection, SendError> {
        let mut session = before(deadline, self.session(), Failure::Away).await??;
        let parameters = match self.parameters(&session, &to, is_ascii) {
            Ok(parameters) => parameters,
            Err(error) => {
                self.keep(session);
                return Err(error);
            }
        };
        match self.name_mailboxes(&mut session, to, parameters, deadline).await {
            Ok(()) => Ok(session),
            Err(error) => {
                end(session).await;
                Err(error)
            }
        }
    }

    /// Returns the extensions that a mail needs.
    fn parameters(
        &self,
        session: &AsyncSmtpConnection,
        to: &lettre::Address,
        is_ascii: bool,
    ) -> Result<Vec<MailParameter>, SendError> {
        let needs_utf8 = |address: &lettre::Address| !AsRef::<str>::as_ref(address).is_ascii();
        let supports = |extension| session.server_info().supports_feature(extension);
        let mut parameters = Vec::new();
        if needs_utf8(to) || needs_utf8(&self.from.email) {
            if !supports(Extension::SmtpUtfEight) {
                let error = Error::internal("the address needs SMTPUTF8, which the mail server does not support");
                let failure = if needs_utf8(to) { Failure::Refused } else { Failure::Later };
                return Err(SendError { error, failure });
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        if !is_ascii {
            if !supports(Extension::EightBitMime) {
                return Err(Error::internal("a mail needs 8BITMIME, which the mail server does not support").into());
            }
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        Ok(parameters)
    }

    async fn name_mailboxes(
        &self,
        session: &mut AsyncSmtpConnection,
        to: lettre::Address,
        parameters: Vec<MailParameter>,
        deadline: Instant,
    ) -> Result<(), SendError> {
        let sender = commands::Mail::new(Some(self.from.email.clone()), parameters);
        before(deadline, session.command(sender), Failure::Away).await?.map_err(SendError::of_sender)?;
        // From here on, a mail server that does not respond may be busy with this recipient, about whom it asks another
        // server.
        let recipient = commands::Rcpt::new(to, Vec::new());
        before(deadline, session.command(recipient), Failure::Later).await?.map_err(SendError::of_mail)?;
        before(deadline, session.command(commands::Data), Failure::Later).await?.map_err(SendError::of_mail)?;
        Ok(())
    }

    /// Opens a session, or takes one that is open.
    async fn session(&self) -> Result<AsyncSmtpConnection, SendError> {
        match self.take_idle().await {
            Some(session) => Ok(session),
            None => self.server.connect().await.map_err(|error| SendError::of_server(error, Failure::Away)),
        }
    }

    /// Takes a session that is open and in which the mail server responds.
    async fn take_idle(&self) -> Option<AsyncSmtpConnection> {
        loop {
            let Idle { mut session, since } = self.idle().pop()?;
            if since.elapsed() < IDLE_TIME && timeout(TEST_TIMEOUT, session.test_connected()).await.unwrap_or(false) {
                return Some(session);
            }
            end(session).await;
        }
    }

    /// Keeps a session for the next mail.
    fn keep(&self, session: AsyncSmtpConnection) {
        let mut idle = self.idle();
        if idle.len() < MAX_IDLE {
            idle.push(Idle { session, since: Instant::now() });
        }
    }

    /// Ends the sessions that no mail has used for a while.
    pub(super) async fn close_idle(&self) {
        let unused = {
            let mut idle = self.idle();
            let (unused, used): (Vec<_>, Vec<_>) =
                std::mem::take(&mut *idle).into_iter().partition(|session| session.since.elapsed() >= IDLE_TIME);
            *idle = used;
            unused
        };
        for Idle { session, .. } in unused {
            end(session).await;
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a response until the deadline.
async fn before<T>(deadline: Instant, response: impl Future<Output = T>, failure: Failure) -> Result<T, SendError> {
    timeout_at(deadline.into(), response).await.map_err(|_elapsed| {
        let error = Error::internal("the mail server did not respond in time");
        SendError { error, failure }
    })
}

/// Ends a session. A mail server that does not respond is not waited for.
async fn end(mut session: AsyncSmtpConnection) {
    let _ = timeout(END_TIMEOUT, session.abort()).await;
}

/// The body of a mail.
enum Body {
    One(SinglePart),
    Several(MultiPart),
}

/// Composes the body of a mail.
fn body(letter: &Letter) -> Result<Body, SendError> {
    let text = SinglePart::plain(with_plain_breaks(&letter.text));
    let body = match &letter.html {
        None => Body::One(text),
        Some(html) => {
            let html = SinglePart::html(with_plain_breaks(html));
            Body::Several(MultiPart::alternative().singlepart(text).singlepart(html))
        }
    };
    if letter.attachments.is_empty() {
        return Ok(body);
    }
    let mixed = MultiPart::mixed();
    let mut mixed = match body {
        Body::One(part) => mixed.singlepart(part),
        Body::Several(parts) => mixed.multipart(parts),
    };
    for attachment in &letter.attachments {
        mixed = mixed.singlepart(file(attachment)?);
    }
    Ok(Body::Several(mixed))
}

/// A file is always written in base64: any other encoding could pass lines of it on as they are.
fn file(attachment: &Attachment) -> Result<SinglePart, SendError> {
    let unusable = |error| SendError {
        error: Error::internal("the type of an attachment").with_source(error),
        failure: Failure::Refused,
    };
    let content_type = ContentType::parse(&attachment.content_type).map_err(unusable)?;
    let part = SinglePart::builder().header(ContentDisposition::attachment(&attachment.name)).header(content_type);
    Ok(part.header(ContentTransferEncoding::Base64).body(attachment.content.to_vec()))
}

/// Returns a text whose line breaks are all written alike. A lone carriage return is a line break for some mail servers and
/// none for others, and with it a text could end its mail early.
fn with_plain_breaks(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

impl Server {
    /// Opens a session, and signs in.
    async fn connect(&self) -> Result<AsyncSmtpConnection, smtp::Error> {
        let name = ClientId::default();
        let (wrapper, upgrade) = match &self.tls {
            Tls::Wrapper(tls) => (Some(tls.clone()), None),
            Tls::Required(tls) | Tls::Opportunistic(tls) => (None, Some(tls.clone())),
            Tls::None => (None, None),
        };
        let address = (self.host.as_str(), self.port);
        let mut session =
            AsyncSmtpConnection::connect_tokio1(address, Some(CONNECT_TIMEOUT), &name, wrapper, None).await?;
        if let Some(tls) = upgrade
            && (matches!(self.tls, Tls::Required(_)) || session.can_starttls())
        {
            session.starttls(tls, &name).await?;
        }
        if let Some(credentials) = &self.credentials {
            session.auth(DEFAULT_MECHANISMS, credentials).await?;
        }
        Ok(session)
    }
}

fn concerns_the_mail(error: &smtp::Error) -> bool {
    let text = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    error.status().is_some_and(|code| is_about_mail(code.into(), &text))
}

/// Returns whether a refusal is about a recipient or a content, as far as its code and text tell. An enhanced status
/// (RFC 3463) at the begin of the text is more precise than the code: `5.7.1` is often a sign-in that is missing.
fn is_about_mail(code: u16, text: &str) -> bool {
    if !(550..=556).contains(&code) {
        return false;
    }
    let first = text.split_whitespace().next().unwrap_or_default();
    let mut parts = first.split('.').map(|part| part.parse::<u16>().ok());
    match (parts.next().flatten(), parts.next().flatten(), parts.next().flatten(), parts.next()) {
        (Some(5), Some(subject), Some(detail), None) => match subject {
            1 => matches!(detail, 1 | 2 | 3 | 6 | 10),
            2 | 4 | 6 => true,
            3 => detail == 4,
            _ => false,
        },
        // A server without these, such as Exim, says "relay not permitted" to a client that has not signed in.
        _ => {
            let text = text.to_ascii_lowercase();
            !["relay", "authenti"].iter().any(|word| text.contains(word))
        }
    }
}

/// Returns an address for an envelope and a header.
fn mailbox(text: &str) -> Result<lettre::Address, lettre::address::AddressError> {
    match text.parse::<Address>() {
        Ok(address) => {
            let (local, domain) = address.mailbox();
            // The check of lettre refuses combining characters.
            Ok(lettre::Address::new_dangerous(local, domain))
        }
        // An earlier version accepted addresses that this one refuses.
        Err(_) => text.parse(),
    }
}

fn is_loopback(host: &str) -> bool {
    let name = host.to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_of_files_that_plugins_may_name_can_be_written() {
        for kind in ["text/csv", "image/svg+xml", "TEXT/CSV;a=b", "text/plain;  charset=utf-8; b=c", "a!#$&^_.+-/+b"] {
            let file = self::file(&Attachment {
                name: "a".to_owned(),
                content_type: kind.to_owned(),
                content: bytes::Bytes::new(),
            });
            assert!(file.is_ok(), "{kind}");
        }
    }

    #[test]
    fn only_a_refused_recipient_or_content_is_about_the_mail() {
        for (code, text) in [
            (550, "no such user here"),
            (550, "5.1.1 The email account does not exist"),
            (550, "5.1.10 Recipient not found"),
            (552, "5.2.2 Mailbox full"),
            (552, "5.3.4 Too large"),
            (554, "5.4.6 Loop"),
            (554, "5.6.0 Bad content"),
            (554, ""),
        ] {
            assert!(is_about_mail(code, text), "{code} {text}");
        }
        for (code, text) in [
            (530, "5.7.0 Authentication required"),
            (534, "5.7.9 Please log in"),
            (535, "5.7.8 Bad credentials"),
            (538, "5.7.11 Encryption required"),
            (550, "5.1.8 Bad sender's system address"),
            (550, "5.7.1 Relaying denied"),
            (553, "5.1.7 Bad sender address syntax"),
            (554, "5.7.1 <a@example.com>: Relay access denied"),
            (550, "relay not permitted"),
            (550, "Authentication is required to send mail"),
            (421, "4.7.0 Later"),
        ] {
            assert!(!is_about_mail(code, text), "{code} {text}");
        }
    }
}
