//! Email addresses: the syntax that the HTTP API of the FastAPI full-stack template
//! (github.com/fastapi/full-stack-fastapi-template) prescribes, and the forms of an address.
//!
//! One address can be written in many ways: decomposed, with a domain in punycode or in full-width letters, in upper
//! case. [`Address`] is the form for mail: the local part in NFC, the domain in Unicode and lower case. [`AddressKey`]
//! identifies an account: the same, all in lower case. The host's tables are searched only by an [`AddressKey`], and
//! every text becomes one in the same way. DNS is never asked.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;

/// The longest address in characters (the path limit of RFC 5321, without the angle brackets).
const MAX_LEN: usize = 254;

/// The longest local part in bytes (RFC 5321, section 4.5.3.1.1).
const MAX_LOCAL_BYTES: usize = 64;

/// The longest text in bytes that is read at all. No way to write an address of [`MAX_LEN`] characters is longer.
const MAX_TEXT_BYTES: usize = 8 * 1024;

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
    /// A top-level name that ends with a digit, as an IP address does.
    #[error("The part after the @-sign is not valid. It is not within a valid top-level domain.")]
    NoTopLevelName,
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

    /// Returns the form that identifies the account.
    pub fn key(&self) -> AddressKey {
        let (local, domain) = self.0.rsplit_once('@').unwrap_or((&self.0, ""));
        AddressKey::of_parts(local, domain)
    }

    /// Returns the domain, in Unicode and lower case.
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }

    /// Returns whether a mail server may read another address in the local part: `jane%other.example@example.com` or
    /// `other.example!jane@example.com`. Mail servers such as Postfix do so for their own domains.
    pub fn routes_elsewhere(&self) -> bool {
        self.0.rsplit_once('@').is_some_and(|(local, _)| local.contains(['%', '!']))
    }

    /// Returns the local part and the domain for the envelope of a mail. With a local part in ASCII, the domain is in
    /// punycode: then a mail server without SMTPUTF8 (RFC 6531) can take the mail.
    pub fn mailbox(&self) -> (&str, Cow<'_, str>) {
        let (local, domain) = self.0.rsplit_once('@').unwrap_or((&self.0, ""));
        match idna::domain_to_ascii(domain) {
            Ok(ascii) if local.is_ascii() => (local, ascii.into()),
            _ => (local, domain.into()),
        }
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
        if text.len() > MAX_TEXT_BYTES {
            return Err(InvalidAddress::TooLong(text.chars().count().saturating_sub(MAX_LEN)));
        }
        let local: String = local.nfc().collect();
        let atom = |atom: &str| !atom.is_empty() && !atom.starts_with(is_combining_mark) && atom.chars().all(in_atom);
        if !local.split('.').all(atom) {
            return Err(InvalidAddress::LocalPart);
        }
        let (domain, valid) = idna::domain_to_unicode(domain);
        let ascii = idna::domain_to_ascii_strict(&domain);
        let (Ok(()), Ok(ascii)) = (valid, ascii) else { return Err(InvalidAddress::Domain) };
        let (_, top) = domain.rsplit_once('.').ok_or(InvalidAddress::NoPeriod)?;
        if RESERVED.contains(&top) {
            return Err(InvalidAddress::Reserved);
        }
        // Every top-level name ends with a letter, also in punycode. An IP address does not.
        if !ascii.ends_with(|last: char| last.is_ascii_alphabetic()) {
            return Err(InvalidAddress::NoTopLevelName);
        }
        let whole = format!("{local}@{domain}");
        match whole.chars().count().saturating_sub(MAX_LEN) {
            0 if local.len() > MAX_LOCAL_BYTES => Err(InvalidAddress::LocalPart),
            0 => Ok(Self(whole)),
            excess => Err(InvalidAddress::TooLong(excess)),
        }
    }
}

/// Returns whether an atom of a local part may contain the character (RFC 5322 `atext`, RFC 6531).
fn in_atom(c: char) -> bool {
    c.is_alphanumeric() || is_combining_mark(c) || "!#$%&'*+-/=?^_`{|}~".contains(c)
}

/// The form of an address that identifies an account. Only this type can be looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AddressKey(String);

impl AddressKey {
    /// Returns the key of a text that may be no address. `None` means that no account can have it.
    pub fn of(text: &str) -> Option<Self> {
        let text = text.trim();
        // PostgreSQL cannot store a NUL in a text.
        if text.len() > MAX_TEXT_BYTES || text.contains('\0') {
            return None;
        }
        let (local, domain) = text.rsplit_once('@')?;
        let (domain, _) = idna::domain_to_unicode(domain);
        Some(Self::of_parts(local, &domain))
    }

    fn of_parts(local: &str, domain: &str) -> Self {
        // A lower-cased text may not be in NFC any more.
        let local: String = local.nfc().collect::<String>().to_lowercase().nfc().collect();
        Self(format!("{local}@{domain}"))
    }

    /// Returns the text, as it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
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
        assert_eq!(address.map(|address| address.key().0).as_deref(), Ok("jane.doe@example.com"));
        assert!("jörg@münchen.de".parse::<Address>().is_ok());
        assert!("a+tag@x-y.co.uk".parse::<Address>().is_ok());
    }

    #[test]
    fn every_way_to_write_an_address_is_the_same_address() {
        for (written, address, key) in [
            ("Jane@xn--mnchen-3ya.example", "Jane@münchen.example", "jane@münchen.example"),
            ("Jane@XN--MNCHEN-3YA.Example", "Jane@münchen.example", "jane@münchen.example"),
            ("jane@mu\u{308}nchen.example", "jane@münchen.example", "jane@münchen.example"),
            ("jane@ｅｘａｍｐｌｅ。com", "jane@example.com", "jane@example.com"),
            ("Jo\u{308}rg@example.com", "Jörg@example.com", "jörg@example.com"),
            // No composed form exists.
            ("q\u{303}@example.com", "q\u{303}@example.com", "q\u{303}@example.com"),
            // A compatibility ideograph, whose lower case is not its normal form.
            ("\u{f900}@example.com", "\u{8c48}@example.com", "\u{8c48}@example.com"),
            ("İ@example.com", "İ@example.com", "i\u{307}@example.com"),
        ] {
            let parsed: Address = written.parse().unwrap();
            assert_eq!((parsed.as_str(), parsed.key().as_str()), (address, key), "{written}");
            for text in [written, address, &format!(" {address}\n")] {
                assert_eq!(AddressKey::of(text), Some(parsed.key()), "{text}");
            }
        }
    }

    #[test]
    fn a_text_that_no_account_can_have_has_no_key() {
        let endless = format!("{}@example.com", "a".repeat(1 << 20));
        for text in ["", "nobody", "nul\0@example.com", endless.as_str()] {
            assert_eq!(AddressKey::of(text), None);
        }
        // Stored by an earlier version, which accepted it.
        assert_eq!(AddressKey::of("X@10.0.0.1").unwrap().as_str(), "x@10.0.0.1");
    }

    #[test]
    fn a_mailbox_needs_smtputf8_only_for_its_local_part() {
        let of = |text: &str| {
            let address: Address = text.parse().unwrap();
            let (local, domain) = address.mailbox();
            format!("{local}@{domain}")
        };
        assert_eq!(of("Plain@münchen.de"), "Plain@xn--mnchen-3ya.de");
        assert_eq!(of("plain@example.com"), "plain@example.com");
        assert_eq!(of("jörg@münchen.de"), "jörg@münchen.de");
    }

    #[test]
    fn a_local_part_can_name_another_address() {
        let routes = |text: &str| text.parse::<Address>().unwrap().routes_elsewhere();
        assert!(routes("jane%other.example@example.com") && routes("other.example!jane@example.com"));
        assert!(!routes("jane+tag@example.com") && !routes("o'neil&co@example.com"));
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
            ("a@[IPv6:::1]", InvalidAddress::Domain),
            ("a@10.0.0.1", InvalidAddress::NoTopLevelName),
            ("a@１０.0.0.1", InvalidAddress::NoTopLevelName),
            ("a@example.com.", InvalidAddress::Domain),
            ("a@example.c0", InvalidAddress::NoTopLevelName),
            (".a@example.com", InvalidAddress::LocalPart),
            ("\u{301}a@example.com", InvalidAddress::LocalPart),
            ("a\u{200d}b@example.com", InvalidAddress::LocalPart),
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
            let _ = AddressKey::of(&text);
        }

        #[test]
        fn an_address_has_one_key(text in "[a-zA-ZäöüÄÖÜßΣσİ\u{300}-\u{308}\u{f900}-\u{f910}.+]{1,12}@[a-zäÄßｅ。-]{1,8}\\.com") {
            let Ok(address) = text.parse::<Address>() else { return Ok(()) };
            proptest::prop_assert_eq!(AddressKey::of(&text), Some(address.key()));
            proptest::prop_assert_eq!(AddressKey::of(address.as_str()), Some(address.key()));
            proptest::prop_assert_eq!(AddressKey::of(address.key().as_str()), Some(address.key()));
        }
    }
}
