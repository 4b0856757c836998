//! Instants, lifetimes and the clock as a parameter.
//!
//! Expiry is judged at use, against a clock that the caller passes in, and every sum saturates: a lease can end early through
//! a bad clock, never late through an overflow. Absent: time zones and formatting for people, which the edges do.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::quote::quoted;

/// A point in wall-clock time: milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    pub const fn millis(self) -> i64 {
        self.0
    }

    /// The instant `ttl` later, or the end of time.
    pub fn saturating_add(self, ttl: Ttl) -> Self {
        Self(self.0.saturating_add(ttl.millis()))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// A lifetime, at most [`Ttl::MAX`]. Written `90s`, `15m`, `8h` or `2d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ttl(u64);

/// Why a text is not a [`Ttl`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TtlError {
    #[error("{0:?} is not a lifetime: write a whole number and one of s, m, h, d, such as \"15m\"")]
    Form(String),
    #[error("a lifetime must be at least one second and at most 366 days")]
    Range,
}

impl Ttl {
    /// 366 days.
    pub const MAX: Self = Self(366 * 24 * 3600);

    /// # Errors
    /// [`TtlError::Range`] for zero and for more than [`Ttl::MAX`].
    pub fn from_secs(secs: u64) -> Result<Self, TtlError> {
        if secs == 0 || secs > Self::MAX.0 { Err(TtlError::Range) } else { Ok(Self(secs)) }
    }

    pub const fn secs(self) -> u64 {
        self.0
    }

    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }

    fn millis(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX).saturating_mul(1000)
    }
}

impl FromStr for Ttl {
    type Err = TtlError;

    fn from_str(text: &str) -> Result<Self, TtlError> {
        let form = || TtlError::Form(quoted(text));
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(form)?;
        let (number, unit) = text.split_at(split);
        let number: u64 = number.parse().map_err(|_| form())?;
        let factor = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 24 * 3600,
            _ => return Err(form()),
        };
        Self::from_secs(number.checked_mul(factor).ok_or(TtlError::Range)?)
    }
}

impl TryFrom<String> for Ttl {
    type Error = TtlError;

    fn try_from(text: String) -> Result<Self, TtlError> {
        text.parse()
    }
}

impl From<Ttl> for String {
    fn from(ttl: Ttl) -> String {
        ttl.to_string()
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = match self.0 {
            s if s % (24 * 3600) == 0 => (s / (24 * 3600), "d"),
            s if s % 3600 == 0 => (s / 3600, "h"),
            s if s % 60 == 0 => (s / 60, "m"),
            s => (s, "s"),
        };
        write!(f, "{number}{unit}")
    }
}

/// Where time comes from. `main` passes the system's; tests pass their own.
pub trait Clock: Send + Sync {
    /// Wall-clock time, which may step.
    fn now(&self) -> Timestamp;
    /// Time since boot, suspension included (`CLOCK_BOOTTIME`): it never steps back.
    fn boottime(&self) -> Duration;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_read_and_written_alike() {
        for text in ["90s", "15m", "8h", "2d"] {
            assert_eq!(text.parse::<Ttl>().unwrap().to_string(), text);
        }
        assert_eq!("120s".parse::<Ttl>().unwrap().to_string(), "2m");
        for bad in ["", "15", "m", "0s", "-1s", "1.5h", "400d", "99999999999999999999d", "15 m", "١s"] {
            assert!(bad.parse::<Ttl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sums_saturate() {
        let end = Timestamp::from_millis(i64::MAX - 5);
        assert_eq!(end.saturating_add(Ttl::MAX).millis(), i64::MAX);
        assert_eq!(Timestamp::from_millis(i64::MIN).saturating_since(end), Duration::ZERO);
    }
}
