//! Converts PostgreSQL's binary dates and times to and from text: RFC 3339 in UTC for `timestamptz`, ISO 8601 without
//! an offset for the others. PostgreSQL counts from 2000-01-01.

use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::{date, format_description};
use time::{Date, Duration, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

const DATE: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");
const TIME: &[BorrowedFormatItem<'_>] = format_description!("[hour]:[minute]:[second].[subsecond digits:6]");
const READ_TIME: &[BorrowedFormatItem<'_>] = format_description!("[hour]:[minute]:[second][optional [.[subsecond]]]");
const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]");

const EPOCH: PrimitiveDateTime = PrimitiveDateTime::new(date!(2000 - 01 - 01), Time::MIDNIGHT);

const NOT_TIMESTAMPTZ: &str = "is not an RFC 3339 date and time with an offset (2026-01-31T12:00:00Z)";
const OUTSIDE_THE_CALENDAR: &str = "is not within the years 0 to 9999 in UTC";
const NOT_TIMESTAMP: &str = "is not a date and time without an offset (2026-01-31T12:00:00)";
const NOT_DATE: &str = "is not a date (2026-01-31)";
const NOT_TIME: &str = "is not a time of day (12:00:00)";

fn micros(since_epoch: Duration) -> Option<i64> {
    i64::try_from(since_epoch.whole_microseconds()).ok()
}

pub(super) fn read_timestamptz(text: &str) -> Result<i64, &'static str> {
    let timestamp = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| NOT_TIMESTAMPTZ)?;
    // The offset may move it outside the years that can be written, and a row with such a value could not be read.
    if !timestamp.checked_to_offset(UtcOffset::UTC).is_some_and(|timestamp| (0..=9999).contains(&timestamp.year())) {
        return Err(OUTSIDE_THE_CALENDAR);
    }
    micros(timestamp - EPOCH.assume_utc()).ok_or(NOT_TIMESTAMPTZ)
}

pub(super) fn read_timestamp(text: &str) -> Result<i64, &'static str> {
    let (day, clock) = text.split_once(['T', ' ']).ok_or(NOT_TIMESTAMP)?;
    let day = Date::parse(day, DATE).map_err(|_| NOT_TIMESTAMP)?;
    let clock = Time::parse(clock, READ_TIME).map_err(|_| NOT_TIMESTAMP)?;
    micros(PrimitiveDateTime::new(day, clock) - EPOCH).ok_or(NOT_TIMESTAMP)
}

pub(super) fn read_date(text: &str) -> Result<i32, &'static str> {
    let day = Date::parse(text, DATE).map_err(|_| NOT_DATE)?;
    i32::try_from((day - EPOCH.date()).whole_days()).map_err(|_| NOT_DATE)
}

pub(super) fn read_time(text: &str) -> Result<i64, &'static str> {
    let clock = Time::parse(text, READ_TIME).map_err(|_| NOT_TIME)?;
    micros(clock - Time::MIDNIGHT).ok_or(NOT_TIME)
}

/// Returns the text of a timestamp. Infinite timestamps have the texts of PostgreSQL; `None` beyond the year 9999.
pub(super) fn write_timestamptz(count: i64) -> Option<String> {
    write_timestamp(count).map(|text| if text.ends_with("infinity") { text } else { format!("{text}Z") })
}

pub(super) fn write_timestamp(count: i64) -> Option<String> {
    match count {
        i64::MAX => Some("infinity".to_owned()),
        i64::MIN => Some("-infinity".to_owned()),
        _ => EPOCH.checked_add(Duration::microseconds(count)).and_then(|timestamp| timestamp.format(TIMESTAMP).ok()),
    }
}

pub(super) fn write_date(count: i32) -> Option<String> {
    match count {
        i32::MAX => Some("infinity".to_owned()),
        i32::MIN => Some("-infinity".to_owned()),
        _ => EPOCH.date().checked_add(Duration::days(i64::from(count))).and_then(|day| day.format(DATE).ok()),
    }
}

pub(super) fn write_time(count: i64) -> Option<String> {
    // PostgreSQL allows 24:00:00.
    if count == 86_400_000_000 {
        return Some("24:00:00.000000".to_owned());
    }
    let timestamp = EPOCH.checked_add(Duration::microseconds(count))?.assume_offset(UtcOffset::UTC);
    timestamp.time().format(TIME).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_with_an_offset_are_rfc_3339_in_utc() {
        let written = |text: &str| read_timestamptz(text).ok().and_then(write_timestamptz);
        assert_eq!(written("2026-01-31T12:00:00Z").as_deref(), Some("2026-01-31T12:00:00.000000Z"));
        assert_eq!(written("1999-12-31T23:59:59.123456+02:00").as_deref(), Some("1999-12-31T21:59:59.123456Z"));
        assert_eq!(read_timestamptz("2026-01-31 12:00:00"), Err(NOT_TIMESTAMPTZ));
        assert_eq!(write_timestamptz(i64::MAX).as_deref(), Some("infinity"));
        assert_eq!(write_timestamptz(i64::MAX - 1), None);
    }

    #[test]
    fn an_accepted_timestamp_can_be_written_again() {
        for text in ["9999-12-31T23:59:59-02:00", "0000-01-01T00:00:00+02:00"] {
            assert_eq!(read_timestamptz(text), Err(OUTSIDE_THE_CALENDAR), "{text}");
        }
        for text in ["9999-12-31T23:59:59.999999Z", "0000-01-01T00:00:00.000000Z"] {
            assert_eq!(read_timestamptz(text).ok().and_then(write_timestamptz).as_deref(), Some(text));
        }
    }

    #[test]
    fn local_dates_and_times_have_no_offset() {
        assert_eq!(
            read_timestamp("2026-01-31 12:00:00.5").ok().and_then(write_timestamp).as_deref(),
            Some("2026-01-31T12:00:00.500000")
        );
        assert_eq!(read_date("1970-01-01").ok().and_then(write_date).as_deref(), Some("1970-01-01"));
        assert_eq!(read_time("23:59:59").ok().and_then(write_time).as_deref(), Some("23:59:59.000000"));
        assert!(read_date("2026-02-30").is_err());
        assert!(read_timestamp("2026-01-31T12:00:00Z").is_err());
    }
}
