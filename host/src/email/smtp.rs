//! Sending over SMTP, on a pooled connection that stays open while there is mail to send.

use std::time::{Duration, SystemTime};

use lettre::message::header::{ContentDisposition, ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Tls, TlsParameters};
use lettre::transport::smtp::commands;
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::{self, PoolConfig};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use percent_encoding::percent_decode_str;
use url::Url;

use super::letter::{Attachment, Letter};
use crate::address::Address;
use crate::clock::Timestamp;
use crate::config::Secret;
use crate::error::{Error, Result};

/// The time limit of one response of the mail server.
const TIMEOUT: Duration = Duration::from_secs(10);

const AUTO_SUBMITTED: HeaderName = HeaderName::new_from_ascii_str("Auto-Submitted");

/// The reason why a mail was not sent.
pub(super) struct SendError {
    pub(super) error: Error,
    /// Another attempt would fail in the same way.
    pub(super) permanent: bool,
}

impl From<Error> for SendError {
    fn from(error: Error) -> Self {
        Self { error, permanent: false }
    }
}

pub(super) struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    server: Server,
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
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
            .port(port)
            .tls(tls.clone())
            .timeout(Some(TIMEOUT))
            .pool_config(PoolConfig::new().max_size(2).idle_timeout(Duration::from_secs(30)));
        let mut server = Server { host: host.to_owned(), port, tls, credentials: None };
        if let Some(password) = url.password() {
            let decode = |text: &str| {
                let text = percent_decode_str(text).decode_utf8().map_err(|_| refuse("has unreadable credentials"))?;
                Ok::<_, Error>(text.into_owned())
            };
            let credentials = Credentials::new(decode(url.username())?, decode(password)?);
            server.credentials = Some(credentials.clone());
            builder = builder.credentials(credentials);
        }
        let from = mailbox(from).map_err(|error| Error::internal("email.from").with_source(error))?;
        Ok(Self { transport: builder.build(), from: Mailbox::new(Some(sender_name.to_owned()), from), server })
    }

    /// Sends a mail. Its `Message-ID` is the same at each attempt, so that a mail program recognises a repetition.
    pub(super) async fn send(&self, letter: &Letter, now: Timestamp) -> Result<(), SendError> {
        let unusable =
            |error| SendError { error: Error::internal("the recipient").with_source(error), permanent: true };
        let to = mailbox(&letter.to).map_err(unusable)?;
        let needs_utf8 = !AsRef::<str>::as_ref(&to).is_ascii();
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
        let Err(error) = self.transport.send(mail).await else { return Ok(()) };
        if error.is_client() && needs_utf8 {
            let text = "the address needs SMTPUTF8, which the mail server does not support";
            return Err(SendError { error: Error::internal(text).with_source(error), permanent: true });
        }
        // A server also refuses a session or a sender permanently. That concerns every mail, and an operator can change it.
        // The error does not tell which command was refused.
        let permanent = concerns_the_mail(&error) && self.server.accepts(&self.from.email).await.is_ok();
        Err(SendError { error: Error::internal("the mail server did not accept a mail").with_source(error), permanent })
    }
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
    let unusable =
        |error| SendError { error: Error::internal("the type of an attachment").with_source(error), permanent: true };
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
    /// Checks in a session of its own that the server accepts a sender. Sends no mail.
    async fn accepts(&self, sender: &lettre::Address) -> Result<(), smtp::Error> {
        let name = ClientId::default();
        let (wrapper, upgrade) = match &self.tls {
            Tls::Wrapper(tls) => (Some(tls.clone()), None),
            Tls::Required(tls) | Tls::Opportunistic(tls) => (None, Some(tls.clone())),
            Tls::None => (None, None),
        };
        let address = (self.host.as_str(), self.port);
        let mut session = AsyncSmtpConnection::connect_tokio1(address, Some(TIMEOUT), &name, wrapper, None).await?;
        if let Some(tls) = upgrade
            && (matches!(self.tls, Tls::Required(_)) || session.can_starttls())
        {
            session.starttls(tls, &name).await?;
        }
        if let Some(credentials) = &self.credentials {
            session.auth(DEFAULT_MECHANISMS, credentials).await?;
        }
        session.command(commands::Mail::new(Some(sender.clone()), Vec::new())).await?;
        session.abort().await;
        Ok(())
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
