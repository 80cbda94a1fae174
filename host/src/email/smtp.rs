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
use crate::clock::Timestamp;
use crate::config::Secret;
use crate::error::{Error, Result};

/// The time limit of one response of the mail server.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Smtp {
    /// Opens the transport: `smtp://` with STARTTLS (port 587), `smtps://` with TLS (465), or `smtp://…?tls=none`
    /// without encryption (25).
    pub(super) fn open(url: &Secret, sender_name: &str, from: &str) -> Result<Self> {
        // The errors of these parsers are dropped, because they may quote the URL with the password.
        let refuse = |reason: &str| Error::internal(format!("email.smtp_url {reason}"));
        let url = Url::parse(url.expose()).map_err(|_| refuse("is not a URL"))?;
        let host = url.host_str().ok_or_else(|| refuse("has no host"))?.trim_matches(['[', ']']);
        let tls = url.query_pairs().find(|(name, _)| name == "tls").map(|(_, value)| value.into_owned());
        let parameters = || TlsParameters::new(host.to_owned()).map_err(|_| refuse("has a host that TLS cannot name"));
        let (tls, port) = match (url.scheme(), tls.as_deref()) {
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
        let from = from
            .parse()
            .map_err(|error: lettre::address::AddressError| Error::internal("email.from").with_source(error))?;
        Ok(Self { transport: builder.build(), from: Mailbox::new(Some(sender_name.to_owned()), from) })
    }

    pub(super) async fn send(&self, message: &Message, now: Timestamp, id: Uuid) -> Result<()> {
        let to = message
            .to
            .parse()
            .map_err(|error: lettre::address::AddressError| Error::internal("the recipient").with_source(error))?;
        let date = SystemTime::UNIX_EPOCH + Duration::from_micros(now.0.max(0).unsigned_abs());
        let mail = lettre::Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(message.subject.as_str())
            .date(date)
            .message_id(Some(format!("<{id}@{}>", self.from.email.domain())))
            .multipart(MultiPart::alternative_plain_html(message.text.clone(), message.html.clone()))
            .map_err(|error| Error::internal("a mail cannot be composed").with_source(error))?;
        self.transport
            .send(mail)
            .await
            .map(drop)
            .map_err(|error| Error::internal("the mail server did not accept a mail").with_source(error))
    }
}
