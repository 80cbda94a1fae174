//! The kinds of values that settings have: how a value is parsed, which values are accepted, how a value is shown.
//! Ranges belong to the kind, so no setting accepts a value that cannot work.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::checked_text::{filled, parse_url, uncontrolled};
use super::frontend_urls::FrontendUrls;
use super::log_format::LogFormat;
use super::postgres_url;
use super::proxy_headers::ProxyHeaders;
use super::secret::Secret;
use super::sign_up::SignUp;
use crate::address::Address;
use crate::network::Network;
use crate::public_key::TrustedKey;

/// The most members of a [`set`].
pub(super) const MAX_SET: usize = 100;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
/// As long as durations in text mean it.
pub(super) const MONTH: Duration = Duration::from_secs(2_630_016);
pub(super) const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

/// The separator of a list that is written as text.
pub(super) const SEPARATOR: char = ',';

/// The TOML type of a value. Variables and flags are always text, so every setting accepts text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueType {
    /// A TOML string, a variable or a flag.
    Text,
    /// A TOML integer.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A list of texts, which stand in one text with [`SEPARATOR`] between them.
    List,
    /// A type that no setting accepts; its name in TOML.
    Other(&'static str),
}

type Parse<T> = Box<dyn Fn(&str) -> Result<T, String>>;
type Show<T> = Box<dyn Fn(&T) -> Option<String>>;

/// A kind of value.
pub(crate) struct Kind<T> {
    /// The accepted values, for people; follows `accepted: `.
    pub(super) accepted: String,
    /// Parses a value, or returns what is wrong with it.
    pub(super) parse: Parse<T>,
    /// Writes it for `config show`.
    show: Show<T>,
    /// Whether the value is never shown, not even when it is wrong.
    pub(super) secret: bool,
    /// The TOML type that is accepted in addition to text.
    bare: Option<ValueType>,
}

impl<T: 'static> Kind<T> {
    pub(super) fn new(
        accepted: impl Into<String>,
        show: fn(&T) -> String,
        parse: impl Fn(&str) -> Result<T, String> + 'static,
    ) -> Self {
        Self::with_unset(accepted, move |value| Some(show(value)), parse)
    }

    /// A kind of which some values mean that nothing is set: `show` returns `None` for them.
    fn with_unset(
        accepted: impl Into<String>,
        show: impl Fn(&T) -> Option<String> + 'static,
        parse: impl Fn(&str) -> Result<T, String> + 'static,
    ) -> Self {
        Self { accepted: accepted.into(), parse: Box::new(parse), show: Box::new(show), secret: false, bare: None }
    }

    pub(super) fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// Accepts the same values, or none: for a setting without a default.
    pub(super) fn optional(self) -> Kind<Option<T>> {
        let Self { accepted, parse, show, secret, bare } = self;
        Kind {
            accepted,
            parse: Box::new(move |text| parse(text).map(Some)),
            show: Box::new(move |value| value.as_ref().and_then(&show)),
            secret,
            bare,
        }
    }

    pub(super) fn or_bare(mut self, value_type: ValueType) -> Self {
        self.bare = Some(value_type);
        self
    }
}

impl<T> Kind<T> {
    /// Parses a value, or returns what is wrong with it and what is accepted.
    pub(crate) fn read(&self, text: &str) -> Result<T, String> {
        (self.parse)(text).map_err(|reason| format!("{reason}; accepted: {}", self.accepted))
    }

    /// Writes a value as [`read`](Self::read) takes it. Returns `None` for a value that is not set.
    pub(crate) fn show(&self, value: &T) -> Option<String> {
        (self.show)(value)
    }

    pub(super) fn takes(&self, value_type: ValueType) -> bool {
        value_type == ValueType::Text || self.bare == Some(value_type)
    }
}

pub(super) fn boolean() -> Kind<bool> {
    let parse = |text: &str| match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    };
    Kind::new("true or false", bool::to_string, parse).or_bare(ValueType::Boolean)
}

pub(super) fn socket_address() -> Kind<SocketAddr> {
    Kind::new("an IP address with a port, such as 127.0.0.1:8000 or [::]:8000", SocketAddr::to_string, |text| {
        // The common name of the loopback. A lookup could return several addresses, so no other name is accepted.
        let text = text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
        text.parse().map_err(|_| "is not an address with a port".to_owned())
    })
}

pub(super) fn directory() -> Kind<PathBuf> {
    Kind::new(
        "the path of a directory",
        |path| path.display().to_string(),
        |text| {
            let path = filled(text)?;
            if path.contains('\0') { Err("contains a NUL character".to_owned()) } else { Ok(PathBuf::from(path)) }
        },
    )
}

/// One line of text of at most `max` characters.
pub(super) fn line(max: usize) -> Kind<String> {
    Kind::new(format!("a line of 1 to {max} characters"), String::clone, move |text| {
        let text = filled(text)?;
        match text.chars().count() {
            _ if text.chars().any(char::is_control) => Err("contains a control character".to_owned()),
            count if count > max => Err(format!("has {count} characters")),
            _ => Ok(text.to_owned()),
        }
    })
}

/// The password of a new account, with the length that the API requires.
pub(super) fn password() -> Kind<Secret> {
    let accepted = "a password of 8 to 128 characters";
    Kind::new(accepted, Secret::to_string, |text| match text.chars().count() {
        count @ (..8 | 129..) => Err(format!("has {count} characters")),
        _ if text.chars().any(char::is_control) => Err("contains a control character".to_owned()),
        _ => Ok(Secret::new(text)),
    })
    .secret()
}

/// A bearer token of a program: too long to guess, and valid in a header.
pub(super) fn token() -> Kind<Secret> {
    let accepted = "a token of 16 to 256 letters, digits and -._~+/=";
    Kind::new(accepted, Secret::to_string, |text| match text.len() {
        count @ (..16 | 257..) => Err(format!("has {count} characters")),
        _ if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)) => {
            Err("contains another character".to_owned())
        }
        _ => Ok(Secret::new(text)),
    })
    .secret()
}

pub(super) fn email_address() -> Kind<String> {
    Kind::new("an email address, such as admin@example.com", String::clone, |text| {
        text.parse::<Address>().map(|address| address.to_string()).map_err(|error| {
            let reason = error.to_string();
            format!("is not an email address ({})", reason.trim_end_matches('.'))
        })
    })
}

/// The URL of a PostgreSQL database.
pub(super) fn postgres_url() -> Kind<Secret> {
    let accepted = "postgres://user:password@host:5432/database or postgres://user:password@/database?host=/socket";
    Kind::new(accepted, Secret::to_string, |text| {
        let text = uncontrolled(filled(text)?)?;
        postgres_url::parse(text).map(|_| Secret::new(text))
    })
    .secret()
}

/// The URL of a mail server.
pub(super) fn smtp_url() -> Kind<Secret> {
    let accepted = "smtp://user:password@host:587, smtps://…:465 or smtp://…:25?tls=none";
    Kind::new(accepted, Secret::to_string, |text| {
        let text = uncontrolled(filled(text)?)?;
        let url = parse_url(text, &["smtp", "smtps"])?;
        match url.host_str().unwrap_or_default() {
            "" => Err("names no host".to_owned()),
            _ => Ok(Secret::new(text)),
        }
    })
    .secret()
}

/// The URLs of the frontends, in one text or a list.
pub(super) fn frontend_urls() -> Kind<FrontendUrls> {
    let accepted = "http:// or https:// URLs with commas between them, such as https://app.example.com; after the \
                    first one also https://*.example.com";
    Kind::new(accepted, FrontendUrls::to_string, str::parse).or_bare(ValueType::List)
}

/// The origin of a web server.
pub(super) fn origin() -> Kind<String> {
    Kind::new("an http:// or https:// URL without a path, such as https://api.example.com", String::clone, |text| {
        let url = parse_url(uncontrolled(text)?, &["http", "https"])?;
        let origin = url.origin().ascii_serialization();
        // A URL with anything else is longer.
        if url.as_str().trim_end_matches('/') == origin { Ok(origin) } else { Err("is more than an origin".to_owned()) }
    })
}

/// A duration with units. A number without a unit is refused, because seconds and minutes are easily confused.
pub(crate) fn duration(bounds: RangeInclusive<Duration>) -> Kind<Duration> {
    let show = |value: &Duration| {
        let text = humantime::format_duration(*value).to_string();
        text.replace(' ', "").replace("days", "d").replace("day", "d")
    };
    let accepted =
        format!("a duration from {} to {}, such as 30s, 15m or 8d", show(bounds.start()), show(bounds.end()));
    Kind::new(accepted, show, move |text| {
        let value = humantime::parse_duration(text).map_err(|error| match text.trim().parse::<u64>() {
            Ok(number) if number > 0 => "has no unit".to_owned(),
            _ => format!("is not a duration ({error})"),
        })?;
        within(value, &bounds)
    })
}

/// A number of bytes.
pub(crate) fn bytes<T>(bounds: RangeInclusive<u64>) -> Kind<T>
where
    T: TryFrom<u64> + TryInto<u64> + Copy + 'static,
{
    let accepted = format!(
        "a size from {} to {}, such as 65536, 512KiB or 64MiB",
        show_size(*bounds.start()),
        show_size(*bounds.end())
    );
    let show = |value: &T| (*value).try_into().map_or_else(|_| String::new(), show_size);
    Kind::new(accepted, show, move |text| {
        let size = parse_size(text).ok_or_else(|| "is not a size".to_owned())?;
        T::try_from(within(size, &bounds)?).map_err(|_| "is too large for this machine".to_owned())
    })
    .or_bare(ValueType::Integer)
}

/// A number.
pub(crate) fn count<T>(bounds: RangeInclusive<u64>) -> Kind<T>
where
    T: TryFrom<u64> + Display + 'static,
{
    Kind::new(format!("a number from {} to {}", bounds.start(), bounds.end()), T::to_string, move |text| {
        let number = text.trim().parse::<u64>().map_err(|_| "is not a number".to_owned())?;
        T::try_from(within(number, &bounds)?).map_err(|_| "is too large for this machine".to_owned())
    })
    .or_bare(ValueType::Integer)
}

/// A set: members with spaces between them, sorted, each once. Commas already separate grants.
pub(crate) fn set<T>(accepted: &str) -> Kind<Vec<T>>
where
    T: FromStr<Err = String> + Display + Ord + 'static,
{
    let show = |values: &Vec<T>| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    Kind::new(format!("{accepted}; up to {MAX_SET} of them"), show, |text| {
        let read = |text: &str| {
            let shown: String = text.chars().take(100).map(|c| if c.is_control() { ' ' } else { c }).collect();
            text.parse().map_err(|reason| format!("holds '{shown}', which {reason}"))
        };
        let values: BTreeSet<T> = filled(text)?.split_whitespace().map(read).collect::<Result<_, _>>()?;
        if values.len() > MAX_SET {
            return Err(format!("holds {} of them", values.len()));
        }
        Ok(values.into_iter().collect())
    })
}

/// Public keys, with or without names. Everything that is wrong with any key is reported at once.
pub(super) fn trusted_keys() -> Kind<Vec<TrustedKey>> {
    let show = |keys: &Vec<TrustedKey>| {
        let texts: Vec<String> = keys.iter().map(ToString::to_string).collect();
        (!texts.is_empty()).then(|| texts.join(&format!("{SEPARATOR} ")))
    };
    let accepted = "public keys of `wharf plugin keygen`, such as release=wharf-ed25519:…, with commas between them";
    Kind::with_unset(accepted, show, |text| {
        let mut keys: Vec<TrustedKey> = Vec::new();
        let mut wrong = Vec::new();
        let texts = text.split(SEPARATOR).map(str::trim).filter(|text| !text.is_empty());
        for (text, number) in texts.zip(1..) {
            match text.parse::<TrustedKey>() {
                Err(error) => wrong.push(format!("key {number} {error}")),
                Ok(key) if keys.iter().any(|other| other.key == key.key) => {
                    wrong.push(format!("key {number} is a duplicate"));
                }
                Ok(key) if key.name.is_some() && keys.iter().any(|other| other.name == key.name) => {
                    wrong.push(format!("key {number} has the name of another key"));
                }
                Ok(key) => keys.push(key),
            }
        }
        if wrong.is_empty() { Ok(keys) } else { Err(wrong.join("; ")) }
    })
    .or_bare(ValueType::List)
}

/// Networks with commas or spaces between them, sorted, each once.
pub(super) fn trusted_proxies() -> Kind<Vec<Network>> {
    let show = |networks: &Vec<Network>| {
        let texts: Vec<String> = networks.iter().map(ToString::to_string).collect();
        (!texts.is_empty()).then(|| texts.join(&format!("{SEPARATOR} ")))
    };
    let accepted = format!(
        "up to {MAX_SET} addresses and networks of proxies, such as 127.0.0.1 or 10.1.0.0/16, with commas between them"
    );
    Kind::with_unset(accepted, show, |text| {
        let texts = text.split(|c: char| c == SEPARATOR || c.is_whitespace()).filter(|text| !text.is_empty());
        let mut networks = BTreeSet::new();
        for text in texts {
            let network: Network = text.parse().map_err(|reason| format!("holds {text:?}, which {reason}"))?;
            if network.is_everything() {
                return Err(format!("holds {text:?}, which would let every client choose its address"));
            }
            networks.insert(network);
        }
        if networks.len() > MAX_SET {
            return Err(format!("holds {} of them", networks.len()));
        }
        Ok(networks.into_iter().collect())
    })
    .or_bare(ValueType::List)
}

pub(super) fn proxy_headers() -> Kind<ProxyHeaders> {
    let show = |headers: &ProxyHeaders| match headers {
        ProxyHeaders::XForwarded => "x-forwarded".to_owned(),
        ProxyHeaders::Forwarded => "forwarded".to_owned(),
    };
    Kind::new("x-forwarded or forwarded", show, |text| match text {
        "x-forwarded" => Ok(ProxyHeaders::XForwarded),
        "forwarded" => Ok(ProxyHeaders::Forwarded),
        _ => Err("is neither".to_owned()),
    })
}

pub(super) fn sign_up() -> Kind<SignUp> {
    let show = |sign_up: &SignUp| match sign_up {
        SignUp::Open => "open".to_owned(),
        SignUp::Invite => "invite".to_owned(),
        SignUp::Off => "off".to_owned(),
    };
    Kind::new("open, invite or off", show, |text| match text {
        "open" => Ok(SignUp::Open),
        "invite" => Ok(SignUp::Invite),
        "off" => Ok(SignUp::Off),
        _ => Err("is none of these".to_owned()),
    })
}

pub(super) fn log_format() -> Kind<LogFormat> {
    let show = |format: &LogFormat| match format {
        LogFormat::Auto => "auto".to_owned(),
        LogFormat::Text => "text".to_owned(),
        LogFormat::Json => "json".to_owned(),
    };
    Kind::new("auto, text or json", show, |text| match text {
        "auto" => Ok(LogFormat::Auto),
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("is no format".to_owned()),
    })
}

pub(super) fn log_filter() -> Kind<String> {
    Kind::new("a filter such as info or info,wharf::plugin=debug", String::clone, |text| {
        let text = filled(text)?;
        if text.chars().any(char::is_control) {
            return Err("contains a control character".to_owned());
        }
        let filter = tracing_subscriber::EnvFilter::builder().parse(text);
        filter.map(|_| text.to_owned()).map_err(|error| format!("is not a filter ({error})"))
    })
}

fn within<T: PartialOrd>(value: T, bounds: &RangeInclusive<T>) -> Result<T, String> {
    if value < *bounds.start() {
        Err("is too small".to_owned())
    } else if value > *bounds.end() {
        Err("is too large".to_owned())
    } else {
        Ok(value)
    }
}

const UNITS: &[(&str, u64)] = &[
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1_000),
    ("b", 1),
];

fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, unit)| text.strip_suffix(name).map(|number| (number, *unit)))
        .unwrap_or((text.as_str(), 1));
    number.trim().parse::<u64>().ok()?.checked_mul(unit)
}

fn show_size(bytes: u64) -> String {
    for (name, unit) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_systems() {
        for (text, bytes) in [("1", 1), ("64MiB", 64 << 20), (" 5 kb ", 5000), ("2GiB", 2 << 30), ("7B", 7)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5MiB", "99999999999GiB", "1TiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        assert_eq!(show_size(64 << 20), "64MiB");
        assert_eq!(show_size(1500), "1500");
    }

    #[test]
    fn trusted_proxies_are_addresses_and_networks() {
        let read = |text: &str| trusted_proxies().read(text).map(|networks| trusted_proxies().show(&networks));
        assert_eq!(read("").unwrap(), None);
        let networks = "10.1.0.0/16, 127.0.0.1/32, fd00:1::/32";
        assert_eq!(read(" fd00:1::/32 127.0.0.1,10.1.2.3/16,, 127.0.0.1\n").unwrap().as_deref(), Some(networks));
        for bad in ["proxy.example", "10.0.0.1:80", "0.0.0.0/0", "10.0.0.1, ::/0"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_log_filter_is_one_line() {
        let read = |text: &str| (log_filter().parse)(text);
        assert_eq!(read(" info,wharf::plugin=debug\n").unwrap(), "info,wharf::plugin=debug");
        assert!(read("info,a\tb=debug").is_err());
    }
}
