//! The times of the schedules of plugins: a cron expression in a time zone. Owns which expressions are accepted, and the rules
//! for the days on which clocks change. The host applies them to each schedule. The SDK does so in `cargo test`, so that an
//! author learns of a refusal before an operator does.
//!
//! `croner` finds the dates and times that fit an expression, `jiff` has the time zones. A time that a change of the clocks
//! skips comes right after the gap, and a time that it repeats comes once. `croner` has these rules for one time of a day
//! only, so they are here. An expression that is for every hour follows the hours that pass, as if no clock had changed.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

/// The longest expression, in bytes.
const MAX_LENGTH: usize = 200;
/// The names of months and of days of the week.
const MONTHS: &[&str] = &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: &[&str] = &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "L"];

/// The times of a schedule.
#[derive(Debug, Clone)]
pub struct ScheduleTime {
    cron: Cron,
    is_for_every_hour: bool,
    zone: TimeZone,
}

/// Why there is no [`ScheduleTime`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScheduleTime {
    /// The expression is not one.
    #[error(
        "'{0}' is not a cron expression of five fields: minute, hour, day of the month, month and day of the week, \
         such as '30 2 * * MON-FRI'"
    )]
    Cron(String),
    /// No date fits the expression.
    #[error("no date fits the cron expression '{0}'")]
    Never(String),
    /// The time zone is unknown.
    #[error("'{0}' is not a name of the IANA time zone database, such as 'Europe/Berlin'")]
    TimeZone(String),
}

impl ScheduleTime {
    /// Parses an expression and the name of a time zone.
    ///
    /// # Errors
    /// One of them is not valid, or no date fits the expression.
    pub fn parse(cron: &str, zone: &str) -> Result<Self, InvalidScheduleTime> {
        let invalid = || InvalidScheduleTime::Cron(cron.to_owned());
        check_fields(cron).ok_or_else(invalid)?;
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let parsed = parser.parse(cron).map_err(|_| invalid())?;
        let is_for_every_hour = parsed.pattern.hours.values().len() == 24;
        let known = TimeZone::get(zone).ok().filter(|zone| !zone.is_unknown());
        let zone = known.ok_or_else(|| InvalidScheduleTime::TimeZone(zone.to_owned()))?;
        let time = Self { cron: parsed, is_for_every_hour, zone };
        match time.next_after(0) {
            Some(_) => Ok(time),
            None => Err(InvalidScheduleTime::Never(cron.to_owned())),
        }
    }

    /// Returns the first time after another one; `None` if the calendar ends before it. Both are microseconds since the
    /// beginning of 1970 in UTC.
    pub fn next_after(&self, after: i64) -> Option<i64> {
        let after = jiff::Timestamp::from_microsecond(after).ok()?;
        if self.is_for_every_hour {
            let next = self.cron.find_next_occurrence(&after.to_zoned(self.zone.clone()), false).ok()?;
            return Some(next.timestamp().as_microsecond());
        }
        let mut local = self.zone.to_datetime(after);
        // Times of an hour that is being repeated came when it passed first.
        loop {
            local = self.cron.find_next_occurrence(&local, false).ok()?;
            let next = self.instant(local)?;
            if next > after {
                return Some(next.as_microsecond());
            }
        }
    }

    /// Returns when a local time comes: the first time of two, or the end of the gap that it is in.
    fn instant(&self, local: DateTime) -> Option<jiff::Timestamp> {
        let possible = self.zone.to_ambiguous_timestamp(local);
        let is_in_gap = matches!(possible.offset(), AmbiguousOffset::Gap { .. });
        // In a gap, this is before it.
        let earlier = possible.earlier().ok()?;
        if is_in_gap { Some(self.zone.following(earlier).next()?.timestamp()) } else { Some(earlier) }
    }
}

/// Checks the characters of an expression and the places of its names. `croner` takes a name as a number in any field, and
/// searches for years for the time of a field without a value.
fn check_fields(cron: &str) -> Option<()> {
    let fields: Vec<&str> = cron.split_ascii_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields.as_slice() else { return None };
    let is_valid = cron.len() <= MAX_LENGTH
        && is_field(minute, &[])
        && is_field(hour, &[])
        && is_field(day, &["L"])
        && is_field(month, MONTHS)
        && is_field(&weekday.replace('#', "-"), WEEKDAYS)
        && !weekday.split(',').any(|item| item.eq_ignore_ascii_case("L"));
    is_valid.then_some(())
}

/// Returns whether a field has numbers, these names and the usual signs, and no empty item.
fn is_field(field: &str, names: &[&str]) -> bool {
    let mut words = field.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
    field.bytes().all(|b| b.is_ascii_alphanumeric() || b"*,-/".contains(&b))
        && words.all(|word| names.iter().any(|name| name.eq_ignore_ascii_case(word)))
        && field.split(',').all(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().unwrap().as_microsecond()
    }

    /// Returns the first times after a moment, as UTC.
    fn times(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let time = ScheduleTime::parse(cron, zone).unwrap();
        let mut at = micros(after);
        let mut next = || {
            at = time.next_after(at).unwrap();
            jiff::Timestamp::from_microsecond(at).unwrap().to_string()
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn times_are_those_of_the_time_zone() {
        let daily = |zone| times("30 2 * * *", zone, "2026-01-10T00:00:00Z", 2);
        assert_eq!(daily("UTC"), ["2026-01-10T02:30:00Z", "2026-01-11T02:30:00Z"]);
        assert_eq!(daily("Europe/Berlin"), ["2026-01-10T01:30:00Z", "2026-01-11T01:30:00Z"]);
        assert_eq!(daily("Asia/Kolkata"), ["2026-01-10T21:00:00Z", "2026-01-11T21:00:00Z"]);
        let workdays = times("0 9 * jan Mon-FRI", "UTC", "2026-01-30T09:00:00.000001Z", 2);
        assert_eq!(workdays, ["2027-01-01T09:00:00Z", "2027-01-04T09:00:00Z"]);
        // Either day fits, as in cron.
        let either = times("0 0 13 * FRI", "UTC", "2026-03-10T00:00:00Z", 3);
        assert_eq!(either, ["2026-03-13T00:00:00Z", "2026-03-20T00:00:00Z", "2026-03-27T00:00:00Z"]);
    }

    #[test]
    fn the_next_time_is_later_than_the_given_one() {
        let after = |text: &str| times("*/20 * * * *", "UTC", text, 1);
        assert_eq!(after("2026-05-01T10:00:00Z"), ["2026-05-01T10:20:00Z"]);
        assert_eq!(after("2026-05-01T10:19:59.999999Z"), ["2026-05-01T10:20:00Z"]);
        assert_eq!(after("2026-05-01T10:59:00Z"), ["2026-05-01T11:00:00Z"]);
    }

    /// In Berlin, 2:00 to 3:00 is missing on 29 March 2026; 3:00 is 1:00 UTC.
    #[test]
    fn a_skipped_time_comes_right_after_the_gap() {
        let berlin = |cron, count| times(cron, "Europe/Berlin", "2026-03-28T12:00:00Z", count);
        assert_eq!(berlin("30 2 * * *", 2), ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
        assert_eq!(berlin("0 2 * * *", 2), ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]);
        assert_eq!(
            berlin("15,45 1,2,3 * * *", 6),
            [
                "2026-03-29T00:15:00Z",
                "2026-03-29T00:45:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-29T01:15:00Z",
                "2026-03-29T01:45:00Z",
                "2026-03-29T23:15:00Z",
            ],
            "several skipped times come once"
        );
        assert_eq!(berlin("0 2,3 * * *", 2), ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]);
    }

    /// In Berlin, 2:00 to 3:00 comes twice on 25 October 2026: from 0:00 and from 1:00 UTC.
    #[test]
    fn a_repeated_time_comes_once() {
        let berlin = |cron, after, count| times(cron, "Europe/Berlin", after, count);
        let before = "2026-10-24T12:00:00Z";
        assert_eq!(berlin("30 2 * * *", before, 2), ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        assert_eq!(
            berlin("0,30 2,3 * * *", before, 5),
            [
                "2026-10-25T00:00:00Z",
                "2026-10-25T00:30:00Z",
                "2026-10-25T02:00:00Z",
                "2026-10-25T02:30:00Z",
                "2026-10-26T01:00:00Z",
            ]
        );
        let in_the_repeated_hour = "2026-10-25T01:10:00Z";
        assert_eq!(berlin("30 2 * * *", in_the_repeated_hour, 1), ["2026-10-26T01:30:00Z"]);
        assert_eq!(berlin("*/15 2 * * *", in_the_repeated_hour, 1), ["2026-10-26T01:00:00Z"]);
    }

    #[test]
    fn a_schedule_of_every_hour_follows_the_hours_that_pass() {
        let berlin = |cron, after| times(cron, "Europe/Berlin", after, 4);
        assert_eq!(
            berlin("30 * * * *", "2026-03-29T00:00:00Z"),
            ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z", "2026-03-29T03:30:00Z"]
        );
        assert_eq!(
            berlin("30 * * * *", "2026-10-25T00:00:00Z"),
            ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z", "2026-10-25T03:30:00Z"]
        );
    }

    #[test]
    fn days_that_few_months_or_years_have() {
        let utc = |cron, count| times(cron, "UTC", "2026-03-01T00:00:00Z", count);
        assert_eq!(utc("0 0 29 2 *", 2), ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]);
        assert_eq!(utc("0 0 31 * *", 3), ["2026-03-31T00:00:00Z", "2026-05-31T00:00:00Z", "2026-07-31T00:00:00Z"]);
        assert_eq!(utc("0 0 L 2,12 *", 2), ["2026-12-31T00:00:00Z", "2027-02-28T00:00:00Z"]);
        assert_eq!(utc("0 0 * * 5L", 2), ["2026-03-27T00:00:00Z", "2026-04-24T00:00:00Z"]);
        assert_eq!(utc("0 0 * * MON#2", 2), ["2026-03-09T00:00:00Z", "2026-04-13T00:00:00Z"]);
        // The year 2100 is no leap year.
        assert_eq!(times("0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", 1), ["2104-02-29T00:00:00Z"]);
    }

    #[test]
    fn other_texts_are_refused() {
        let error = |cron: &str, zone: &str| ScheduleTime::parse(cron, zone).unwrap_err();
        let long = format!("{} * * * *", "0,".repeat(100));
        let texts = "|*|* * * *|* * * * * *|60 * * * *|* 24 * * *|* * 0 * *|* * * 13 *|* * * * 8|5-1 * * * *|*/0 * * * *|\
            , * * * *|1,,2 * * * *|MON * * * *|* * MON * *|* * * MON *|* * * * JAN|* * * * l|* * 15W * *|* * ? * *|* * 1 * +MON|\
            @daily|@daily * * * *|ſ * * * *|-1 * * * *|1.5 * * * *";
        for cron in texts.split('|').chain([long.as_str()]) {
            assert_eq!(error(cron, "UTC"), InvalidScheduleTime::Cron(cron.to_owned()));
        }
        for cron in ["0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
            assert_eq!(error(cron, "UTC"), InvalidScheduleTime::Never(cron.to_owned()));
        }
        for zone in ["", "Europe/Atlantis", "Berlin", "+02:00", "Etc/Unknown", "../../etc/passwd", "Europe/Berlin\0"] {
            assert_eq!(error("0 0 * * *", zone), InvalidScheduleTime::TimeZone(zone.to_owned()));
        }
    }

    #[test]
    fn two_times_are_at_least_a_minute_apart() {
        for zone in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"] {
            for cron in ["59 * * * *", "*/7 1-3 * * *", "0 */2 * * *"] {
                let time = ScheduleTime::parse(cron, zone).unwrap();
                let mut at = micros("2026-03-01T00:00:00Z");
                for _ in 0..2_000 {
                    let next = time.next_after(at).unwrap();
                    assert!(next - at >= 60_000_000, "{cron} in {zone} after {at}");
                    at = next;
                }
            }
        }
    }
}
