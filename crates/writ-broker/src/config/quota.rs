//! What one role may have and take at most, each workload for itself.

use std::{fmt, str::FromStr, time::Duration};

use serde::Deserialize;

/// A role's limits, for each workload that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Leases at once.
    pub leases_max: u32,
    pub issue_rate: IssueRate,
}

impl Quota {
    /// Without `leases_max` in the role: four times what one session may have.
    pub const LEASES_MAX: u32 = 1024;
}

impl Default for Quota {
    fn default() -> Self {
        Self { leases_max: Self::LEASES_MAX, issue_rate: IssueRate::DEFAULT }
    }
}

/// How many leases may be made in a time, all at once or spread over it. Written `60/m`; the units are `s`, `m` and `h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct IssueRate {
    count: u32,
    pub per: Duration,
}

/// Why a text is no [`IssueRate`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a whole number from 1 and one of /s, /m, /h, such as \"60/m\"")]
pub struct IssueRateError;

impl IssueRate {
    /// Without `issue_rate` in the role: 600 a minute, so ten a second for good.
    pub const DEFAULT: Self = Self { count: 600, per: Duration::from_secs(60) };

    /// The time in which one is earned.
    pub fn each(self) -> Duration {
        self.per / self.count.max(1)
    }
}

impl FromStr for IssueRate {
    type Err = IssueRateError;

    fn from_str(text: &str) -> Result<Self, IssueRateError> {
        let (count, unit) = text.split_once('/').ok_or(IssueRateError)?;
        let per = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(IssueRateError),
        };
        let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        let count = digits.then(|| count.parse().ok()).flatten().filter(|count| *count > 0);
        Ok(Self { count: count.ok_or(IssueRateError)?, per: Duration::from_secs(per) })
    }
}

impl TryFrom<String> for IssueRate {
    type Error = IssueRateError;

    fn try_from(text: String) -> Result<Self, IssueRateError> {
        text.parse()
    }
}

impl fmt::Display for IssueRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_written_alike() {
        for text in ["1/s", "60/m", "4294967295/h"] {
            assert_eq!(text.parse::<IssueRate>().unwrap().to_string(), text);
        }
        for bad in
            ["", "60", "/m", "0/m", "-1/m", "+1/m", "1.5/m", "60/d", "60/", "4294967296/s", "٦/m", "60 /m"]
        {
            assert!(bad.parse::<IssueRate>().is_err(), "{bad}");
        }
    }
}
