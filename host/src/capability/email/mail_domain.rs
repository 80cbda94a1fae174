//! The domains to whose addresses a grant lets a plugin send mail: `example.com`, and no domain below it.

use std::fmt;
use std::str::FromStr;

use crate::address::Address;

/// See the module. In Unicode and lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MailDomain(String);

impl MailDomain {
    /// Returns whether it is the domain of an address.
    pub(super) fn is_of(&self, address: &Address) -> bool {
        self.0 == address.domain()
    }
}

impl fmt::Display for MailDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MailDomain {
    type Err = String;

    /// The error continues a sentence after the text.
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || "is not a domain of mail".to_owned();
        if text.contains('@') {
            return Err(refuse());
        }
        let address = format!("a@{text}").parse::<Address>().map_err(|_| refuse())?;
        Ok(Self(address.domain().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_that_of_the_addresses_in_every_form() {
        let domain: MailDomain = "MÜNCHEN.example".parse().unwrap();
        assert_eq!(domain.to_string(), "münchen.example");
        let is_of = |text: &str| domain.is_of(&text.parse().unwrap());
        assert!(is_of("a@münchen.example") && is_of("a@xn--mnchen-3ya.example"));
        assert!(!is_of("a@www.münchen.example") && !is_of("a@munchen.example"));
        for wrong in ["", "example", "a@example.com", "*.example.com", "ex ample.com", "10.0.0.1"] {
            assert!(wrong.parse::<MailDomain>().is_err(), "{wrong:?}");
        }
    }
}
