//! Conditional requests (RFC 9110, section 13): whether a GET or HEAD proceeds, given the validators of the current
//! representation.
//!
//! Each comparison is linear in the headers, whose size the server limits.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use axum::http::header::{
    HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
};
use httpdate::HttpDate;

use crate::clock::Timestamp;

/// 9999-12-31T23:59:59Z, the last time that a header can express.
const LATEST: Duration = Duration::from_secs(253_402_300_799);

/// The effect of the preconditions of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The request proceeds.
    Proceed,
    /// 304: the client has the current representation.
    NotModified,
    /// 412: a precondition is false.
    Failed,
}

/// The validators of a representation.
#[derive(Debug, Clone)]
pub(super) struct Validators {
    etag: HeaderValue,
    modified: Option<HttpDate>,
    now: HttpDate,
}

impl Validators {
    /// `etag` is a strong entity tag with its quotes. A time that is in the future or that no header can express is left
    /// out, as RFC 9110 requires.
    pub(super) fn new(etag: HeaderValue, modified: Option<SystemTime>, now: Timestamp) -> Self {
        let now = UNIX_EPOCH + Duration::from_micros(u64::try_from(now.0).unwrap_or(0)).min(LATEST);
        let expressible = |time: &SystemTime| time.duration_since(UNIX_EPOCH).is_ok_and(|age| age <= LATEST);
        let modified = modified.filter(|modified| *modified <= now).filter(expressible);
        Self { etag, modified: modified.map(HttpDate::from), now: now.into() }
    }

    /// Returns the value of `ETag`.
    pub(super) fn etag(&self) -> &HeaderValue {
        &self.etag
    }

    /// Returns the value of `Last-Modified`.
    pub(super) fn last_modified(&self) -> Option<HeaderValue> {
        self.modified.and_then(|date| HeaderValue::from_str(&date.to_string()).ok())
    }

    /// Evaluates the preconditions of a GET or HEAD in the order of section 13.2.2. `If-Range` is not among them.
    pub(super) fn check(&self, headers: &HeaderMap) -> Outcome {
        if headers.contains_key(IF_MATCH) {
            if !self.matches(headers, &IF_MATCH, strong) {
                return Outcome::Failed;
            }
        } else if let (Some(since), Some(modified)) = (date(headers, &IF_UNMODIFIED_SINCE), self.modified)
            && modified > since
        {
            return Outcome::Failed;
        }
        if headers.contains_key(IF_NONE_MATCH) {
            if self.matches(headers, &IF_NONE_MATCH, weak) {
                return Outcome::NotModified;
            }
        } else if let (Some(since), Some(modified)) = (date(headers, &IF_MODIFIED_SINCE), self.modified)
            && modified <= since
        {
            return Outcome::NotModified;
        }
        Outcome::Proceed
    }

    /// Returns whether `If-Range` allows a part to be sent: it is absent, or names the current representation by a
    /// strong validator. A time is strong only if the second that it names has passed (section 8.8.2.2).
    pub(super) fn allow_range(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(IF_RANGE).iter();
        let Some(value) = values.next() else { return true };
        if values.next().is_some() {
            return false;
        }
        if strong(value.as_bytes(), self.etag.as_bytes()) {
            return true;
        }
        let sent = value.to_str().ok().and_then(|value| value.parse::<HttpDate>().ok());
        sent.is_some() && sent == self.modified && sent.is_some_and(|date| date < self.now)
    }

    fn matches(&self, headers: &HeaderMap, name: &HeaderName, same: fn(&[u8], &[u8]) -> bool) -> bool {
        lists_tag(headers, name, Some(self.etag.as_bytes()), same)
    }
}

/// Returns whether a header is `*` or lists a tag that is the `same` as the current one, if there is a current one.
pub(super) fn lists_tag(
    headers: &HeaderMap,
    name: &HeaderName,
    current: Option<&[u8]>,
    same: fn(&[u8], &[u8]) -> bool,
) -> bool {
    headers.get_all(name).iter().any(|value| {
        let value = value.as_bytes().trim_ascii();
        value == b"*" || current.is_some_and(|current| tags(value).any(|tag| same(tag, current)))
    })
}

/// Returns the elements of a list of entity tags. A tag may contain commas.
fn tags(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let elements = list.split(move |byte| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    });
    elements.map(<[u8]>::trim_ascii).filter(|tag| !tag.is_empty())
}

/// Returns whether both tags are equal and neither is weak. `own` is strong.
fn strong(sent: &[u8], own: &[u8]) -> bool {
    sent == own
}

/// Returns whether the tags are equal apart from their weakness.
pub(super) fn weak(sent: &[u8], own: &[u8]) -> bool {
    sent.strip_prefix(b"W/").unwrap_or(sent) == own.strip_prefix(b"W/").unwrap_or(own)
}

/// Returns the date of a header, unless it is malformed or sent twice.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<HttpDate> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    value.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT
    const MODIFIED: Duration = Duration::from_secs(784_111_777);

    fn at(age: Duration) -> Validators {
        let now = Timestamp(i64::try_from((MODIFIED + age).as_micros()).unwrap());
        Validators::new(HeaderValue::from_static("\"a,b\""), Some(UNIX_EPOCH + MODIFIED), now)
    }

    fn validators() -> Validators {
        at(Duration::from_secs(60))
    }

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn preconditions_are_evaluated_in_the_order_of_the_rfc() {
        use Outcome::{Failed, NotModified, Proceed};
        const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
        const AFTER: &str = "Sunday, 06-Nov-94 08:49:38 GMT";
        for (pairs, expected) in [
            (&[][..], Proceed),
            (&[(IF_NONE_MATCH, "\"a,b\"")], NotModified),
            (&[(IF_NONE_MATCH, "W/\"a,b\"")], NotModified),
            (&[(IF_NONE_MATCH, "\"x\" , W/\"y\",\"a,b\"")], NotModified),
            (&[(IF_NONE_MATCH, "\"x\""), (IF_NONE_MATCH, "\"a,b\"")], NotModified),
            (&[(IF_NONE_MATCH, "*")], NotModified),
            (&[(IF_NONE_MATCH, "\"a\", \"b\", a,b")], Proceed),
            (&[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, SAME)], Proceed),
            (&[(IF_MODIFIED_SINCE, SAME)], NotModified),
            (&[(IF_MODIFIED_SINCE, AFTER)], NotModified),
            (&[(IF_MODIFIED_SINCE, BEFORE)], Proceed),
            (&[(IF_MODIFIED_SINCE, "yesterday")], Proceed),
            (&[(IF_MODIFIED_SINCE, SAME), (IF_MODIFIED_SINCE, SAME)], Proceed),
            (&[(IF_MATCH, "\"a,b\"")], Proceed),
            (&[(IF_MATCH, "*")], Proceed),
            (&[(IF_MATCH, "W/\"a,b\"")], Failed),
            (&[(IF_MATCH, "\"x\"")], Failed),
            (&[(IF_MATCH, "\"a,b\""), (IF_UNMODIFIED_SINCE, BEFORE)], Proceed),
            (&[(IF_UNMODIFIED_SINCE, BEFORE)], Failed),
            (&[(IF_UNMODIFIED_SINCE, SAME)], Proceed),
            (&[(IF_UNMODIFIED_SINCE, "never")], Proceed),
            (&[(IF_UNMODIFIED_SINCE, BEFORE), (IF_NONE_MATCH, "*")], Failed),
        ] {
            assert_eq!(validators().check(&headers(pairs)), expected, "{pairs:?}");
        }
    }

    #[test]
    fn if_range_needs_a_strong_validator() {
        let allows = |age: Duration, values: &[&'static str]| {
            let pairs: Vec<_> = values.iter().map(|value| (IF_RANGE, *value)).collect();
            at(age).allow_range(&headers(&pairs))
        };
        for (values, expected) in [
            (&[][..], true),
            (&["\"a,b\""], true),
            (&["W/\"a,b\""], false),
            (&["\"x\""], false),
            (&["*"], false),
            (&["\"x\", \"a,b\""], false),
            (&["\"a,b\"", "\"a,b\""], false),
            (&["Sun, 06 Nov 1994 08:49:37 GMT"], true),
            (&["Sun, 06 Nov 1994 08:49:38 GMT"], false),
            (&["Sun, 06 Nov 1994 08:49:36 GMT"], false),
            (&["soon"], false),
        ] {
            assert_eq!(allows(Duration::from_secs(1), values), expected, "{values:?}");
        }
        assert!(!allows(Duration::from_millis(900), &["Sun, 06 Nov 1994 08:49:37 GMT"]));
    }

    #[test]
    fn a_time_that_a_header_cannot_express_is_left_out() {
        const SINCE: &[(HeaderName, &str)] = &[(IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT")];
        let now = Timestamp(i64::try_from(MODIFIED.as_micros()).unwrap());
        let second = Duration::from_secs(1);
        for time in [UNIX_EPOCH - MODIFIED, UNIX_EPOCH + LATEST + second, UNIX_EPOCH + MODIFIED + second] {
            let validators = Validators::new(HeaderValue::from_static("\"a\""), Some(time), now);
            assert_eq!(validators.last_modified(), None);
            assert_eq!(validators.check(&headers(SINCE)), Outcome::Proceed);
        }
        assert_eq!(validators().last_modified().unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
