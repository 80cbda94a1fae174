//! The part of a representation that a request selects with `Range` (RFC 9110, section 14).
//!
//! One range is served. Several ranges in one request would multiply the work of a small request, so the header is
//! ignored then, as the RFC allows. It is ignored too if it is malformed or has an unknown unit.

use axum::http::HeaderMap;
use axum::http::header::RANGE;

/// The selected part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Selection {
    /// The whole representation.
    Whole,
    /// The bytes from the first to the last one.
    Part { first: u64, last: u64 },
    /// The range begins behind the end.
    Unsatisfiable,
}

/// Returns the part that a GET request selects from a representation of the given length.
pub(super) fn select(headers: &HeaderMap, length: u64) -> Selection {
    let mut values = headers.get_all(RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Selection::Whole };
    value.to_str().ok().and_then(|value| single(value, length)).unwrap_or(Selection::Whole)
}

/// Returns `None` if the header is to be ignored.
fn single(value: &str, length: u64) -> Option<Selection> {
    let (unit, set) = value.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    // A list may have empty elements.
    let mut ranges = set.split(',').map(str::trim).filter(|range| !range.is_empty());
    let (range, None) = (ranges.next()?, ranges.next()) else { return None };
    let (first, last) = range.split_once('-')?;
    let end = length.checked_sub(1);
    if first.is_empty() {
        let suffix = number(last)?;
        return Some(match end {
            _ if suffix == 0 => Selection::Unsatisfiable,
            Some(last) => Selection::Part { first: length.saturating_sub(suffix), last },
            // The whole of an empty file: `Content-Range` cannot express it.
            None => Selection::Whole,
        });
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    Some(match end {
        Some(end) if first <= end => Selection::Part { first, last: last.min(end) },
        _ => Selection::Unsatisfiable,
    })
}

/// Reads digits. A number beyond 64 bits is behind the end of every file.
fn number(digits: &str) -> Option<u64> {
    let valid = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    valid.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn selected(range: &'static str, length: u64) -> Selection {
        select(&[(RANGE, HeaderValue::from_static(range))].into_iter().collect(), length)
    }

    #[test]
    fn one_range_selects_a_part() {
        let part = |first, last| Selection::Part { first, last };
        for (range, expected) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=2-", part(2, 9)),
            ("bytes=2-99", part(2, 9)),
            ("bytes=9-99999999999999999999999999", part(9, 9)),
            ("bytes=007-8", part(7, 8)),
            ("Bytes= 1-2 ,", part(1, 2)),
            ("bytes=-3", part(7, 9)),
            ("bytes=-10", part(0, 9)),
            ("bytes=-11", part(0, 9)),
            ("bytes=-99999999999999999999999999", part(0, 9)),
        ] {
            assert_eq!(selected(range, 10), expected, "{range}");
        }
    }

    #[test]
    fn a_range_behind_the_end_is_unsatisfiable() {
        for range in ["bytes=10-", "bytes=10-12", "bytes=99999999999999999999999999-", "bytes=-0"] {
            assert_eq!(selected(range, 10), Selection::Unsatisfiable, "{range}");
        }
        for range in ["bytes=0-", "bytes=0-0", "bytes=-0"] {
            assert_eq!(selected(range, 0), Selection::Unsatisfiable, "{range}");
        }
        assert_eq!(selected("bytes=-5", 0), Selection::Whole);
    }

    #[test]
    fn other_units_several_ranges_and_malformed_ones_are_ignored() {
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=1",
            "bytes=+1-2",
            "bytes=1-2-3",
            "bytes=2-1",
            "bytes=0-1,3-4",
            "bytes=0-1,99-",
            "items=0-1",
            "bytes 0-1",
            "bytes:0-1",
            "bytes=0 - 1",
        ] {
            assert_eq!(selected(range, 10), Selection::Whole, "{range}");
        }
        let mut twice: HeaderMap = [(RANGE, HeaderValue::from_static("bytes=0-0"))].into_iter().collect();
        twice.append(RANGE, HeaderValue::from_static("bytes=1-1"));
        assert_eq!(select(&twice, 10), Selection::Whole);
        assert_eq!(select(&HeaderMap::new(), 10), Selection::Whole);
    }
}
