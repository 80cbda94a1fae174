//! Times in the one format of the API: RFC 3339 in UTC with six fractional digits.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::UNIX_EPOCH;
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

/// A time between the years 0 and 9999, in microseconds: `2026-11-23T14:35:13.768681Z`.
///
/// Its text always has the same length, so texts sort in the order of time, also in a `TEXT` column of either database.
///
/// ```
/// use wharf_sdk::Timestamp;
///
/// let time: Timestamp = "2026-11-23T15:35:13.5+01:00".parse().unwrap();
/// assert_eq!(time.to_string(), "2026-11-23T14:35:13.500000Z");
/// assert!(time < "2026-11-23T14:35:13.500001Z".parse().unwrap());
/// assert_eq!(serde_json::to_string(&time).unwrap(), r#""2026-11-23T14:35:13.500000Z""#);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

/// The error for a text that is not an RFC 3339 time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotATimestamp;

impl fmt::Display for NotATimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an RFC 3339 time such as 2026-11-23T14:35:13.768681Z")
    }
}

impl std::error::Error for NotATimestamp {}

impl Timestamp {
    /// Returns the current time of the host's clock. A test can advance it with `TestPlugin::advance`.
    pub fn now() -> Self {
        // A clock before 1970 is wrong in any case.
        let since = crate::host::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_unix_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// Creates a timestamp from microseconds since 1970. Years outside 0 to 9999 become 1970.
    pub fn from_unix_micros(micros: i64) -> Self {
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000);
        Self(time.ok().filter(|time| time.year() >= 0).unwrap_or(OffsetDateTime::UNIX_EPOCH))
    }

    /// Returns the microseconds since 1970.
    pub fn unix_micros(self) -> i64 {
        self.0.unix_timestamp() * 1_000_000 + i64::from(self.0.microsecond())
    }

    /// Returns the text of fixed length.
    fn text(self) -> [u8; 27] {
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let (year, month, day) = self.0.to_calendar_date();
        let (hour, minute, second, micro) = self.0.to_hms_micro();
        let parts = [
            (0..4, year.unsigned_abs()),
            (5..7, u32::from(u8::from(month))),
            (8..10, u32::from(day)),
            (11..13, u32::from(hour)),
            (14..16, u32::from(minute)),
            (17..19, u32::from(second)),
            (20..26, micro),
        ];
        for (range, mut number) in parts {
            for digit in text.get_mut(range).into_iter().flatten().rev() {
                *digit += u8::try_from(number % 10).unwrap_or_default();
                number /= 10;
            }
        }
        text
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        f.pad(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads RFC 3339 with any offset and up to nine fractional digits, and PostgreSQL's form (`2026-11-23 14:35:13.5+00`).
/// Digits after the sixth are dropped.
impl FromStr for Timestamp {
    type Err = NotATimestamp;

    fn from_str(text: &str) -> Result<Self, NotATimestamp> {
        parse(text.as_bytes()).ok_or(NotATimestamp)
    }
}

fn parse(text: &[u8]) -> Option<Timestamp> {
    let (date, rest) = text.split_at_checked(10)?;
    let (separator, rest) = rest.split_first()?;
    let (clock, rest) = rest.split_at_checked(8)?;
    let (&[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2], &[h1, h2, b':', n1, n2, b':', s1, s2]) = (date, clock) else {
        return None;
    };
    if !matches!(separator, b'T' | b't' | b' ') {
        return None;
    }
    let year = i32::try_from(number(&[y1, y2, y3, y4])?).ok()?;
    let two = |tens, ones| u8::try_from(number(&[tens, ones])?).ok();
    let date = Date::from_calendar_date(year, Month::try_from(two(m1, m2)?).ok()?, two(d1, d2)?).ok()?;
    let (micro, rest) = fraction(rest)?;
    let time = Time::from_hms_micro(two(h1, h2)?, two(n1, n2)?, two(s1, s2)?, micro).ok()?;
    let offset = match rest {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), rest @ ..] => {
            let minutes = match *rest {
                [h1, h2] => number(&[h1, h2])? * 60,
                [h1, h2, b':', m1, m2] | [h1, h2, m1, m2] => number(&[h1, h2])? * 60 + number(&[m1, m2])?,
                _ => return None,
            };
            i32::try_from(minutes).ok()? * if *sign == b'-' { -60 } else { 60 }
        }
        _ => return None,
    };
    let offset = UtcOffset::from_whole_seconds(offset).ok()?;
    let time = PrimitiveDateTime::new(date, time).assume_offset(offset).checked_to_utc()?;
    (0..=9999).contains(&time.year()).then(|| Timestamp(time.into()))
}

/// Reads the microseconds of a fraction such as `.5`, if there is one. Returns them and the rest of the text.
fn fraction(text: &[u8]) -> Option<(u32, &[u8])> {
    let Some((b'.', rest)) = text.split_first() else { return Some((0, text)) };
    let length = rest.iter().take_while(|digit| digit.is_ascii_digit()).count();
    let (digits, rest) = rest.split_at_checked(length)?;
    if !(1..=9).contains(&length) {
        return None;
    }
    let micro =
        digits.iter().chain(std::iter::repeat(&b'0')).take(6).fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Some((micro, rest))
}

fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u32::from(digit - b'0')))
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(&self.text()).map_err(serde::ser::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Timestamp {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form_of_rfc_3339_and_writes_one() {
        for (text, expected) in [
            ("2026-11-23T14:35:13.768681Z", Some("2026-11-23T14:35:13.768681Z")),
            ("2026-11-23T14:35:13Z", Some("2026-11-23T14:35:13.000000Z")),
            ("2026-11-23t14:35:13.1234567z", Some("2026-11-23T14:35:13.123456Z")),
            ("2026-11-23 14:35:13.5+00", Some("2026-11-23T14:35:13.500000Z")),
            ("2026-01-01T00:30:00+01:00", Some("2025-12-31T23:30:00.000000Z")),
            ("2024-02-29T00:00:00-0530", Some("2024-02-29T05:30:00.000000Z")),
            ("2025-02-29T00:00:00Z", None),
            ("2026-11-23T14:35:13", None),
            ("2026-11-23T14:35:13.Z", None),
            ("2026-11-23T24:00:00Z", None),
            ("2026-11-23T14:35:13.768681Zx", None),
            ("9999-12-31T23:59:59-01:00", None),
            ("", None),
        ] {
            let found = text.parse::<Timestamp>().ok().map(|time| time.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn converts_to_microseconds_and_back() {
        for micros in [0, 1, 1_795_444_513_768_681, -1, -62_167_219_200_000_000] {
            assert_eq!(Timestamp::from_unix_micros(micros).unix_micros(), micros);
        }
        assert_eq!(Timestamp::from_unix_micros(-1).to_string(), "1969-12-31T23:59:59.999999Z");
        assert_eq!(Timestamp::from_unix_micros(i64::MAX).unix_micros(), 0);
    }
}
