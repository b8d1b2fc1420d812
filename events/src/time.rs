//! Time as data. The clock that produces it lives in `service`.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::InvalidId;

/// Microseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);

    /// From microseconds since the epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From whole seconds since the epoch.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since the epoch, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Time passed since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The start of the hour that this moment lies in; the ledger counts by it.
    #[must_use]
    pub const fn hour(self) -> Self {
        Self(self.0.div_euclid(3_600_000_000) * 3_600_000_000)
    }

    /// The day (UTC) that this moment lies in, counted from 1970-01-01.
    #[must_use]
    pub const fn day(self) -> i64 {
        self.0.div_euclid(86_400_000_000)
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.day();
        let of_day = self.0.rem_euclid(86_400_000_000);
        // Civil date from days since the epoch (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = doy - (153 * mp + 2) / 5 + 1;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + i64::from(month <= 2);
        let (seconds, fraction) = (of_day / 1_000_000, of_day % 1_000_000);
        write!(
            formatter,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{fraction:06}Z",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        )
    }
}

impl FromStr for Timestamp {
    type Err = InvalidId;

    /// As it is displayed, with less of a fraction or none; or a day, which begins at midnight.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        parsed(text)
            .ok_or(InvalidId { kind: "time", expected: "a day or time in UTC, 2026-05-01 or 2026-05-01T08:30:00Z" })
    }
}

fn parsed(text: &str) -> Option<Timestamp> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    if fraction.is_empty() {
        return None;
    }
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hours, minutes, seconds] = numbers(time, ':', [2, 2, 2])?;
    let [fraction] = numbers(&format!("{fraction:0<6}"), '.', [6])?;
    if !(1..=12).contains(&month) || hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    // The inverse of what displays it.
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let yoe = year - era * 400;
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
    let of_day = (hours * 3600 + minutes * 60 + seconds) * 1_000_000 + fraction;
    let parsed = Timestamp(days * 86_400_000_000 + of_day);
    // No 31st of June: it would be another day.
    parsed.to_string().starts_with(date).then_some(parsed)
}

/// Numbers of so many digits each.
fn numbers<const COUNT: usize>(text: &str, separator: char, digits: [usize; COUNT]) -> Option<[i64; COUNT]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; COUNT];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part =
            parts.next().filter(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn displays_as_rfc_3339() {
        assert_eq!(Timestamp::from_micros(0).to_string(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Timestamp::from_micros(1_709_210_096_000_001).to_string(), "2024-02-29T12:34:56.000001Z");
        assert_eq!(Timestamp::from_micros(-1).to_string(), "1969-12-31T23:59:59.999999Z");
    }

    #[test]
    fn days_and_times_are_read() {
        let read = |text: &str| text.parse::<Timestamp>().map(Timestamp::as_micros).ok();
        assert_eq!(read("1970-01-01"), Some(0));
        assert_eq!(read("2024-02-29T12:34:56Z"), Some(1_709_210_096_000_000));
        assert_eq!(read("2024-02-29T12:34:56.5Z"), Some(1_709_210_096_500_000));
        for wrong in [
            "",
            "2024",
            "2024-2-29",
            "2023-02-29",
            "2024-06-31",
            "2024-00-10",
            "2024-13-01",
            "2024-01-00",
            "2024-01-01T24:00:00Z",
            "2024-01-01T10:00:00",
            "2024-01-01T10:00:00+01:00",
            "2024-01-01T10:00Z",
            "2024-01-01T10:00:00.Z",
            "2024-01-01T10:00:00.0000001Z",
            "+024-01-01",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_displayed_is_read(micros in -62_135_596_800_000_000_i64..253_402_300_800_000_000) {
            let at = Timestamp::from_micros(micros);
            prop_assert_eq!(at.to_string().parse::<Timestamp>(), Ok(at));
        }
    }

    #[test]
    fn hour_rounds_down_before_the_epoch_too() {
        assert_eq!(Timestamp::from_micros(-1).hour(), Timestamp::from_seconds(-3600));
        assert_eq!(Timestamp::from_seconds(3601).hour(), Timestamp::from_seconds(3600));
    }

    #[test]
    fn a_day_ends_before_midnight_and_before_the_epoch_too() {
        let days = [-1, 0, 86_399_999_999, 86_400_000_000].map(|micros| Timestamp::from_micros(micros).day());
        assert_eq!(days, [-1, 0, 0, 1]);
    }
}
