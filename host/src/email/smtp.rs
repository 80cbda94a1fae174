//! Sending over SMTP, on a pooled connection that stays open while there is mail to send.

use std::time::{Duration, SystemTime};

use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::PoolConfig;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use percent_encoding::percent_decode_str;
use url::Url;
use uuid::Uuid;

use super::Message;
use crate::address::Address;
use crate::clock::Timestamp;
use crate::config::Secret;
use crate::error::{Error, Result};

/// The time limit of one response of the mail server.
const TIMEOUT: Duration = Duration::from_secs(10);

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
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
            .port(url.port().unwrap_or(port))
            .tls(tls)
            .timeout(Some(TIMEOUT))
            .pool_config(PoolConfig::new().max_size(2).idle_timeout(Duration::from_secs(30)));
        if let Some(password) = url.password() {
            let decode = |text: &str| {
                let text = percent_decode_str(text).decode_utf8().map_err(|_| refuse("has unreadable credentials"))?;
                Ok::<_, Error>(text.into_owned())
            };
            builder = builder.credentials(Credentials::new(decode(url.username())?, decode(password)?));
        }
        let from = mailbox(from).map_err(|error| Error::internal("email.from").with_source(error))?;
        Ok(Self { transport: builder.build(), from: Mailbox::new(Some(sender_name.to_owned()), from) })
    }

    /// Sends a mail.
    pub(super) async fn send(&self, message: &Message, now: Timestamp, id: Uuid) -> Result<(), SendError> {
        let unusable =
            |error| SendError { error: Error::internal("the recipient").with_source(error), permanent: true };
        let to = mailbox(&message.to).map_err(unusable)?;
        let needs_utf8 = !AsRef::<str>::as_ref(&to).is_ascii();
        let domain = self.from.email.domain();
        let domain = idna::domain_to_ascii(domain).unwrap_or_else(|_| domain.to_owned());
        let date = SystemTime::UNIX_EPOCH + Duration::from_micros(now.0.max(0).unsigned_abs());
        let mail = lettre::Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(message.subject.as_str())
            .date(date)
            .message_id(Some(format!("<{id}@{domain}>")))
            .multipart(MultiPart::alternative_plain_html(message.text.clone(), message.html.clone()))
            .map_err(|error| Error::internal("a mail cannot be composed").with_source(error))?;
        let Err(error) = self.transport.send(mail).await else { return Ok(()) };
        if error.is_client() && needs_utf8 {
            let text = "the address needs SMTPUTF8, which the mail server does not support";
            return Err(SendError { error: Error::internal(text).with_source(error), permanent: true });
        }
        // A server also refuses a session permanently, for example because of wrong credentials. That concerns every mail,
        // and an operator can change it.
        let permanent = error.is_permanent() && self.transport.test_connection().await.unwrap_or(false);
        Err(SendError { error: Error::internal("the mail server did not accept a mail").with_source(error), permanent })
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
