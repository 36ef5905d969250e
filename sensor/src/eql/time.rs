//! Dates as text.
//!
//! In: ISO 8601, or nanoseconds. Out: the other. A language without clocks: nothing here asks what time it is.

use jiff::civil::{Date, DateTime};
use jiff::{Timestamp, tz};

/// Nanoseconds since the Unix epoch of an ISO 8601 date or date-time, with an optional fraction and zone (UTC unless given).
/// `None` when it is neither, or outside of the years 1678 to 2261 that 64 bits hold.
pub fn parse_ns(text: &str) -> Option<i64> {
    // A date starts with a digit or a sign; everything else is answered without trying three parsers.
    if !text.as_bytes().first().is_some_and(|b| b.is_ascii_digit()) {
        return None;
    }
    let utc = |at: DateTime| at.to_zoned(tz::TimeZone::UTC).ok().map(|z| z.timestamp());
    let at: Timestamp = match text.parse() {
        Ok(at) => Some(at),
        Err(_) => match text.parse::<DateTime>() {
            Ok(at) => utc(at),
            Err(_) => text.parse::<Date>().ok().and_then(|day| utc(day.into())),
        },
    }?;
    i64::try_from(at.as_nanosecond()).ok()
}

/// ISO 8601 in UTC with at least milliseconds: `2020-02-03T04:05:06.789Z`.
pub fn format_ns(ns: i64) -> String {
    let at = Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(Timestamp::UNIX_EPOCH);
    if ns % 1_000_000 == 0 {
        format!("{at:.3}")
    } else {
        format!("{at:.9}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        for (text, expected) in [
            ("1970-01-01", Some(0)),
            ("1970-01-01T00:00:01Z", Some(1_000_000_000)),
            ("1970-01-01T00:00:01", Some(1_000_000_000)),
            ("1970-01-01T00:00:01.000000007Z", Some(1_000_000_007)),
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("1970-01-01 00:00", Some(0)),
            ("1970", None),
            ("12", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(parse_ns(text), expected, "{text}");
        }
    }

    #[test]
    fn formats() {
        assert_eq!(format_ns(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(format_ns(1_500_000_001), "1970-01-01T00:00:01.500000001Z");
    }
}
