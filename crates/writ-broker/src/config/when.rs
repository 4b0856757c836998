//! When a grant holds: days, hours and a time zone, as a person writes them.
//!
//! ```text
//! weekday 08:00-18:00 Europe/Berlin      sat,sun UTC      daily 22:00-06:00 America/New_York
//! ```
//!
//! Judged on the wall clock of the zone, so summer time needs no thought: an hour that occurs twice counts twice, one that is
//! skipped never comes. A window that passes midnight belongs to the day on which it began. Absent: dates and holidays.

use std::{fmt, str::FromStr};

use jiff::{civil::Weekday, tz::TimeZone};
use serde::{Deserialize, Serialize};
use writ_core::Timestamp;

/// A recurring window of time.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct When {
    text: String,
    /// Bit 0 is Monday.
    days: u8,
    hours: Option<Hours>,
    zone: TimeZone,
}

/// From one minute of the day, inclusive, to another, exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hours {
    from: u16,
    to: u16,
}

/// Why a text is not a [`When`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhenError {
    #[error(
        "{0:?} is not a time window: write days, hours and a zone, such as \"weekday 08:00-18:00 Europe/Berlin\""
    )]
    Form(String),
    #[error(
        "{0:?} is not a day: write daily, weekday, weekend, or mon to sun, alone, as mon-fri or as mon,wed"
    )]
    Day(String),
    #[error("{0:?} are not hours: write HH:MM-HH:MM, where the two differ; 24:00 is the end of the day")]
    Hours(String),
    #[error("{0:?} is not a time zone that this machine knows: use a name such as Europe/Berlin or UTC")]
    Zone(String),
}

const MINUTES_PER_DAY: u16 = 24 * 60;
const EVERY_DAY: u8 = 0b111_1111;
const WEEKDAYS: u8 = 0b001_1111;
const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl When {
    /// Whether the window is open at `now`. An instant that no calendar has is outside every window.
    pub fn holds(&self, now: Timestamp) -> bool {
        let Ok(instant) = jiff::Timestamp::from_millisecond(now.millis()) else { return false };
        let civil = self.zone.to_datetime(instant);
        let today = self.has(civil.weekday());
        let Some(Hours { from, to }) = self.hours else { return today };
        let minute = u16::from(civil.hour().unsigned_abs()) * 60 + u16::from(civil.minute().unsigned_abs());
        if from < to {
            today && (from..to).contains(&minute)
        } else {
            (today && minute >= from) || (self.has(civil.weekday().previous()) && minute < to)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn has(&self, day: Weekday) -> bool {
        self.days & (1 << day.to_monday_zero_offset()) != 0
    }
}

impl PartialEq for When {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for When {}

impl FromStr for When {
    type Err = WhenError;

    fn from_str(text: &str) -> Result<Self, WhenError> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let (days, hours, zone) = match words.as_slice() {
            [day, hours, zone] => (day, Some(hours.parse()?), zone),
            [day, zone] => (day, None, zone),
            _ => return Err(WhenError::Form(text.to_owned())),
        };
        Ok(Self { text: words.join(" "), days: read_days(days)?, hours, zone: read_zone(zone)? })
    }
}

fn read_days(text: &str) -> Result<u8, WhenError> {
    let fault = || WhenError::Day(text.to_owned());
    let number = |name: &str| NAMES.iter().position(|one| *one == name).ok_or_else(fault);
    let mut days = 0;
    for part in text.split(',') {
        days |= match (part, part.split_once('-')) {
            ("daily", _) => EVERY_DAY,
            ("weekday", _) => WEEKDAYS,
            ("weekend", _) => EVERY_DAY & !WEEKDAYS,
            (_, Some((first, last))) => {
                let (first, last) = (number(first)?, number(last)?);
                // `fri-mon` goes round the end of the week.
                let length = (last + 7 - first) % 7;
                (0..=length).fold(0, |days, step| days | 1 << ((first + step) % 7))
            }
            (day, None) => 1 << number(day)?,
        };
    }
    Ok(days)
}

fn read_zone(name: &str) -> Result<TimeZone, WhenError> {
    let fault = || WhenError::Zone(name.to_owned());
    // A path would be read as a file of the zone database.
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-' | b'+')) {
        return Err(fault());
    }
    TimeZone::get(name).map_err(|_| fault())
}

impl FromStr for Hours {
    type Err = WhenError;

    fn from_str(text: &str) -> Result<Self, WhenError> {
        let fault = || WhenError::Hours(text.to_owned());
        let (from, to) = text.split_once('-').ok_or_else(fault)?;
        let (from, to) = (read_minute(from).ok_or_else(fault)?, read_minute(to).ok_or_else(fault)?);
        if from == to || from == MINUTES_PER_DAY { Err(fault()) } else { Ok(Self { from, to }) }
    }
}

/// The minute of the day that `HH:MM` names; `24:00` is the last.
fn read_minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |digits: &str| match digits.as_bytes() {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => {
            Some(u16::from(tens - b'0') * 10 + u16::from(ones - b'0'))
        }
        _ => None,
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    let total = hour * 60 + minute;
    (minute < 60 && total <= MINUTES_PER_DAY).then_some(total)
}

impl TryFrom<String> for When {
    type Error = WhenError;

    fn try_from(text: String) -> Result<Self, WhenError> {
        text.parse()
    }
}

impl From<When> for String {
    fn from(when: When) -> String {
        when.text
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_millis(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn check(when: &str, open: &[&str], closed: &[&str]) {
        let window: When = when.parse().unwrap();
        for instant in open {
            assert!(window.holds(at(instant)), "{when} at {instant}");
        }
        for instant in closed {
            assert!(!window.holds(at(instant)), "{when} at {instant}");
        }
    }

    #[test]
    fn windows() {
        // 2026-11-21 is a Saturday.
        check(
            "weekday 08:00-18:00 UTC",
            &["2026-11-20T08:00:00Z", "2026-11-20T17:59:59.999Z"],
            &["2026-11-20T07:59:59Z", "2026-11-20T18:00:00Z", "2026-11-21T12:00:00Z"],
        );
        check("weekend UTC", &["2026-11-21T00:00:00Z", "2026-11-22T23:59:59Z"], &["2026-11-23T00:00:00Z"]);
        check(
            "mon,wed-thu UTC",
            &["2026-11-23T00:00:00Z", "2026-11-26T00:00:00Z"],
            &["2026-11-24T00:00:00Z"],
        );
        check("fri-mon UTC", &["2026-11-20T00:00:00Z", "2026-11-23T00:00:00Z"], &["2026-11-24T00:00:00Z"]);
        check("daily 12:00-24:00 UTC", &["2026-11-20T23:59:59Z"], &["2026-11-20T11:59:59Z"]);
        // Past midnight: the window of Friday reaches into Saturday, that of Saturday does not exist.
        check(
            "fri 22:00-06:00 UTC",
            &["2026-11-20T22:00:00Z", "2026-11-21T05:59:59Z"],
            &["2026-11-21T06:00:00Z", "2026-11-21T22:00:00Z", "2026-11-20T05:00:00Z"],
        );
    }

    #[test]
    fn the_wall_clock_of_the_zone_counts_in_summer_and_in_winter() {
        check(
            "daily 08:00-18:00 Europe/Berlin",
            // Winter: UTC+1. Summer: UTC+2.
            &["2026-01-15T07:00:00Z", "2026-07-15T06:00:00Z", "2026-07-15T15:59:59Z"],
            &["2026-01-15T06:59:59Z", "2026-01-15T17:00:00Z", "2026-07-15T16:00:00Z"],
        );
        // 2026-10-25: 02:00 to 03:00 occurs twice, first as summer time, then as winter time.
        check(
            "sun 02:00-03:00 Europe/Berlin",
            &["2026-10-25T00:00:00Z", "2026-10-25T01:59:59Z"],
            &["2026-10-24T23:59:59Z", "2026-10-25T02:00:00Z"],
        );
        // 2026-03-29: 02:00 to 03:00 does not occur.
        check(
            "sun 02:00-03:00 Europe/Berlin",
            &[],
            &["2026-03-29T00:59:59Z", "2026-03-29T01:00:00Z", "2026-03-29T00:00:00Z"],
        );
        // The day is the zone's, too: in Auckland it is Monday already.
        check("mon Pacific/Auckland", &["2026-11-22T12:00:00Z"], &["2026-11-23T12:00:00Z"]);
    }

    #[test]
    fn what_is_refused() {
        for (text, why) in [
            ("", "not a time window"),
            ("weekday", "not a time window"),
            ("weekday 08:00-18:00 Europe/Berlin now", "not a time window"),
            ("workday 08:00-18:00 UTC", "not a day"),
            ("mon- UTC", "not a day"),
            ("mon,, UTC", "not a day"),
            ("mon 8:00-18:00 UTC", "not hours"),
            ("mon 08:00-08:00 UTC", "not hours"),
            ("mon 24:00-08:00 UTC", "not hours"),
            ("mon 08:60-09:00 UTC", "not hours"),
            ("mon 08:00-24:01 UTC", "not hours"),
            ("mon +8:00-09:00 UTC", "not hours"),
            ("mon 08:00-18:00 Europe/Atlantis", "not a time zone"),
            ("mon 08:00-18:00 ../../etc/passwd", "not a time zone"),
            ("mon 08:00-18:00", "not a time zone"),
        ] {
            let fault = text.parse::<When>().unwrap_err().to_string();
            assert!(fault.contains(why.trim_start_matches("not ")), "{text}: {fault}");
        }
    }

    #[test]
    fn an_instant_outside_the_calendar_is_outside_the_window() {
        let window: When = "daily UTC".parse().unwrap();
        assert!(
            !window.holds(Timestamp::from_millis(i64::MAX))
                && !window.holds(Timestamp::from_millis(i64::MIN))
        );
    }
}
