//! The content codings that a client accepts for a response (RFC 9110, section 12.5.3).

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT_ENCODING, HeaderValue};

/// A content coding of responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Brotli,
    Zstd,
    Gzip,
}

impl Coding {
    /// Every coding. If a client accepts several equally, the first one of them is used: brotli files are mostly the
    /// smallest.
    pub(super) const ALL: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];

    /// Returns the name in `Content-Encoding`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// Returns the value of `Content-Encoding`.
    pub(super) const fn header(self) -> HeaderValue {
        HeaderValue::from_static(self.name())
    }

    /// Returns the ending of a file that has this coding.
    pub(super) const fn file_ending(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }

    fn is_named(self, name: &str) -> bool {
        name.eq_ignore_ascii_case(self.name()) || (self == Self::Gzip && name.eq_ignore_ascii_case("x-gzip"))
    }
}

/// The codings that a client accepts, each with its quality in thousandths. A coding that the client does not name has
/// no quality.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct AcceptedCodings {
    qualities: [Option<u16>; 3],
    identity: Option<u16>,
    others: Option<u16>,
}

impl AcceptedCodings {
    /// Reads every `Accept-Encoding` of a request. Without one, no coding is accepted: RFC 9110 would allow each, but
    /// such clients mostly decode none. Malformed elements are ignored.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let mut accepted = Self::default();
        let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        for element in values.flat_map(|value| value.split(',')) {
            let (name, parameters) = element.split_once(';').unwrap_or((element, ""));
            let Some(quality) = quality(parameters) else { continue };
            let name = name.trim();
            if name == "*" {
                accepted.others = Some(quality);
            } else if name.eq_ignore_ascii_case("identity") {
                accepted.identity = Some(quality);
            } else {
                let known = Coding::ALL.iter().zip(&mut accepted.qualities);
                for (_, known) in known.filter(|(coding, _)| coding.is_named(name)) {
                    *known = Some(quality);
                }
            }
        }
        accepted
    }

    /// Returns the coding that the client prefers among those that are available; `None` means that the content is sent
    /// as it is.
    pub(super) fn preferred(&self, available: &[Coding]) -> Option<Coding> {
        let mut best: Option<(Coding, u16)> = None;
        for (coding, quality) in Coding::ALL.into_iter().zip(self.qualities) {
            let quality = quality.or(self.others).unwrap_or(0);
            if available.contains(&coding) && quality > best.map_or(0, |(_, best)| best) {
                best = Some((coding, quality));
            }
        }
        // A client that does not name `identity` accepts it, and prefers what it names.
        let (coding, quality) = best?;
        (quality >= self.identity.unwrap_or(0)).then_some(coding)
    }
}

/// Returns the weight of an element in thousandths. Without a parameter it is 1.
fn quality(parameters: &str) -> Option<u16> {
    let parameters = parameters.trim();
    if parameters.is_empty() {
        return Some(1000);
    }
    let (name, value) = parameters.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let (whole, fraction) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    if fraction.len() > 3 || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let thousandths = format!("{fraction:0<3}").parse().ok()?;
    match (whole, thousandths) {
        ("0", _) => Some(thousandths),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preferred(values: &[&'static str], available: &[Coding]) -> Option<Coding> {
        let values = values.iter().map(|value| (ACCEPT_ENCODING, HeaderValue::from_static(value)));
        AcceptedCodings::read(&values.collect()).preferred(available)
    }

    #[test]
    fn the_coding_of_the_highest_quality_is_preferred() {
        use Coding::{Brotli, Gzip, Zstd};
        for (values, expected) in [
            (&[][..], None),
            (&[""], None),
            (&["gzip, deflate, br, zstd"], Some(Brotli)),
            (&["zstd, gzip"], Some(Zstd)),
            (&["X-GZIP"], Some(Gzip)),
            (&["br;q=0.5, gzip"], Some(Gzip)),
            (&["br ; Q=0.5 , gzip;q=0.501"], Some(Gzip)),
            (&["br", "gzip;q=0.2"], Some(Brotli)),
            (&["*"], Some(Brotli)),
            (&["*;q=0.1, br;q=0"], Some(Zstd)),
            (&["br;q=0, zstd;q=0.000, gzip;q=0."], None),
            (&["*;q=0"], None),
            (&["identity, gzip;q=0.5"], None),
            (&["identity;q=0.5, gzip;q=0.5"], Some(Gzip)),
            (&["identity;q=0, br;q=0.1"], Some(Brotli)),
            (&["deflate, compress"], None),
            (&["br;q=1.1, zstd;q=0.1234, gzip;q=-1"], None),
            (&["br;q=inf, zstd;level=1, gzip;q"], None),
        ] {
            assert_eq!(preferred(values, &Coding::ALL), expected, "{values:?}");
        }
        assert_eq!(preferred(&["br, gzip;q=0.1"], &[Gzip]), Some(Gzip));
        assert_eq!(preferred(&["br"], &[Gzip]), None);
    }
}
