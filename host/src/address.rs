//! Email addresses: the syntax that the HTTP API of the FastAPI full-stack template
//! (github.com/fastapi/full-stack-fastapi-template) prescribes, and the two forms of an address.
//!
//! The form for mail keeps the local part as given and lower-cases the domain. The form that identifies an account is
//! all in lower case. DNS is never asked.

use std::fmt;
use std::str::FromStr;

use email_address::{EmailAddress, Options};

/// The longest address in characters (the path limit of RFC 5321, without the angle brackets).
const MAX_LEN: usize = 254;

/// Top-level names that cannot receive mail (RFC 6761, and those that the same API adds).
const RESERVED: &[&str] = &["arpa", "invalid", "local", "localhost", "onion", "test"];

/// A checked address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(String);

/// The reason why a text is not an address. Clients read it after `value is not a valid email address: `.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// No `@`.
    #[error("An email address must have an @-sign.")]
    NoAt,
    /// Nothing before the `@`.
    #[error("There must be something before the @-sign.")]
    NoLocalPart,
    /// No dot in the domain.
    #[error("The part after the @-sign is not valid. It should have a period.")]
    NoPeriod,
    /// A reserved top-level name.
    #[error("The part after the @-sign is a special-use or reserved name that cannot be used with email.")]
    Reserved,
    /// Over 254 characters.
    #[error("The email address is too long ({0} characters too many).")]
    TooLong(usize),
    /// An invalid part before the `@`.
    #[error("The email address contains invalid characters before the @-sign.")]
    LocalPart,
    /// An invalid part after the `@`.
    #[error("The part after the @-sign contains invalid characters.")]
    Domain,
}

impl Address {
    /// Returns the address as it is shown and as mail is sent to it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the form that identifies the account: all in lower case.
    pub fn key(&self) -> String {
        Self::key_of(&self.0)
    }

    /// Returns that form of any text, for look-ups by a text that may be no address.
    pub fn key_of(text: &str) -> String {
        text.trim().to_lowercase()
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let (local, domain) = text.rsplit_once('@').ok_or(InvalidAddress::NoAt)?;
        if local.is_empty() {
            return Err(InvalidAddress::NoLocalPart);
        }
        let plain_local = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c) || !c.is_ascii();
        if local.contains('@') || !local.chars().all(|c| plain_local(c) && !c.is_control() && !c.is_whitespace()) {
            return Err(InvalidAddress::LocalPart);
        }
        let (domain, valid) = idna::domain_to_unicode(domain);
        if valid.is_err() || idna::domain_to_ascii_strict(&domain).is_err() {
            return Err(InvalidAddress::Domain);
        }
        let (_, top) = domain.rsplit_once('.').ok_or(InvalidAddress::NoPeriod)?;
        if RESERVED.contains(&top) {
            return Err(InvalidAddress::Reserved);
        }
        let whole = format!("{local}@{domain}");
        let excess = whole.chars().count().saturating_sub(MAX_LEN);
        if excess > 0 {
            return Err(InvalidAddress::TooLong(excess));
        }
        let options = Options::default().with_required_tld().without_domain_literal().without_display_text();
        EmailAddress::parse_with_options(&whole, options).map_err(|error| match error {
            email_address::Error::LocalPartEmpty
            | email_address::Error::LocalPartTooLong
            | email_address::Error::InvalidCharacter
            | email_address::Error::UnbalancedQuotes
            | email_address::Error::InvalidComment => InvalidAddress::LocalPart,
            _ => InvalidAddress::Domain,
        })?;
        Ok(Self(whole))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Address {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Address".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "email" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_its_local_part_and_lower_cases_its_domain() {
        let address: Result<Address, _> = " Jane.Doe@EXAMPLE.com ".parse();
        assert_eq!(address.as_ref().map(Address::as_str), Ok("Jane.Doe@example.com"));
        assert_eq!(address.map(|address| address.key()).as_deref(), Ok("jane.doe@example.com"));
        assert!("jörg@münchen.de".parse::<Address>().is_ok());
        assert!("a+tag@x-y.co.uk".parse::<Address>().is_ok());
    }

    #[test]
    fn a_text_that_is_no_address_is_refused_with_the_contracts_reason() {
        let long = format!(
            "{}@{}.com",
            "a".repeat(60),
            ["b".repeat(60), "c".repeat(60), "d".repeat(60), "e".repeat(20)].join(".")
        );
        for (text, reason) in [
            ("nobody", InvalidAddress::NoAt),
            ("", InvalidAddress::NoAt),
            ("@example.com", InvalidAddress::NoLocalPart),
            ("a@b", InvalidAddress::NoPeriod),
            ("a@host.localhost", InvalidAddress::Reserved),
            ("a b@example.com", InvalidAddress::LocalPart),
            ("\"a\"@example.com", InvalidAddress::LocalPart),
            ("a@b@example.com", InvalidAddress::LocalPart),
            ("a..b@example.com", InvalidAddress::LocalPart),
            ("a@exa mple.com", InvalidAddress::Domain),
            ("a@example..com", InvalidAddress::Domain),
            ("a@[127.0.0.1]", InvalidAddress::Domain),
            ("a\0@example.com", InvalidAddress::LocalPart),
            (long.as_str(), InvalidAddress::TooLong(14)),
        ] {
            assert_eq!(text.parse::<Address>(), Err(reason), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = text.parse::<Address>();
        }
    }
}
