//! Timestamps of foreign events.
//!
//! In: ISO 8601 text, or a number since the Unix epoch. Out: nanoseconds since the epoch.

use crate::eql::time;

/// Nanoseconds of a text: ISO 8601, or digits read as [`number_ns`] reads them.
pub(super) fn text_ns(text: &str) -> Option<i64> {
    usual_ns(text.as_bytes())
        .or_else(|| time::parse_ns(text))
        .or_else(|| text.parse().ok().and_then(number_ns))
}

/// Nanoseconds of an integer, whose size tells its unit: milliseconds below 10^14 (the year 5138), microseconds below
/// 10^17, nanoseconds from there.
pub(super) fn number_ns(value: i64) -> Option<i64> {
    match value.unsigned_abs() {
        0..100_000_000_000_000 => value.checked_mul(1_000_000),
        100_000_000_000_000..100_000_000_000_000_000 => value.checked_mul(1000),
        _ => Some(value),
    }
}

/// Nanoseconds of milliseconds with a fraction.
pub(super) fn float_ns(milliseconds: f64) -> Option<i64> {
    let ns = milliseconds * 1e6;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "checked to be in range just before"
    )]
    (ns.abs() < 9.2e18).then_some(ns as i64)
}

/// The form nearly all products write: `2026-01-02T03:04:05.678901Z`, the fraction optional.
fn usual_ns(text: &[u8]) -> Option<i64> {
    let (head, rest) = text.split_at_checked(19)?;
    let [
        y1,
        y2,
        y3,
        y4,
        b'-',
        m1,
        m2,
        b'-',
        d1,
        d2,
        b'T',
        h1,
        h2,
        b':',
        n1,
        n2,
        b':',
        s1,
        s2,
    ] = *head
    else {
        return None;
    };
    let two = |a: u8, b: u8| -> Option<i64> {
        (a.is_ascii_digit() && b.is_ascii_digit())
            .then(|| i64::from(a - b'0') * 10 + i64::from(b - b'0'))
    };
    let (year, month, day) = (
        two(y1, y2)? * 100 + two(y3, y4)?,
        two(m1, m2)?,
        two(d1, d2)?,
    );
    let (hour, minute, second) = (two(h1, h2)?, two(n1, n2)?, two(s1, s2)?);
    // A leap second and an impossible date are left to the complete parser.
    if !(1970..=2261).contains(&year) || !(1..=12).contains(&month) || !(1..=28).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (b'Z', fraction) = rest.split_last()? else {
        return None;
    };
    let mut nanos = 0;
    if let Some((point, digits)) = fraction.split_first() {
        if *point != b'.' || digits.is_empty() || digits.len() > 9 {
            return None;
        }
        for i in 0..9 {
            let digit = digits.get(i).copied().unwrap_or(b'0');
            nanos = nanos * 10 + i64::from(digit.is_ascii_digit().then(|| digit - b'0')?);
        }
    }
    // Days since the epoch in the proleptic Gregorian calendar, years counted from March.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000_000 + nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_form_agrees_with_the_complete_parser() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2000-02-28T23:59:59.5Z",
            "2024-03-01T00:00:00.000000001Z",
            "2023-12-28T12:34:56.789Z",
            "2026-01-01T00:00:00.014695Z",
            "2100-03-01T01:02:03Z",
            "2261-01-01T00:00:00Z",
        ] {
            assert_eq!(usual_ns(text.as_bytes()), time::parse_ns(text), "{text}");
            assert!(usual_ns(text.as_bytes()).is_some(), "{text}");
        }
        for text in [
            "2024-02-30T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00,1Z",
            "2024-13-01T00:00:00Z",
            "2024-01-01T00:00:00.1234567890Z",
            "2024-01-01",
            "",
        ] {
            assert_eq!(usual_ns(text.as_bytes()), None, "{text}");
        }
        assert_eq!(
            text_ns("2024-02-29T12:00:00+01:00"),
            time::parse_ns("2024-02-29T11:00:00Z")
        );
        assert_eq!(
            text_ns("2024-01-31T00:00:00Z"),
            time::parse_ns("2024-01-31")
        );
    }

    #[test]
    fn numbers_tell_their_unit() {
        assert_eq!(number_ns(1), Some(1_000_000));
        assert_eq!(
            number_ns(1_767_225_600_000),
            Some(1_767_225_600_000_000_000)
        );
        assert_eq!(
            number_ns(1_767_225_600_000_000),
            Some(1_767_225_600_000_000_000)
        );
        assert_eq!(
            number_ns(1_767_225_600_000_000_000),
            Some(1_767_225_600_000_000_000)
        );
        assert_eq!(text_ns("12"), Some(12_000_000));
        assert_eq!(float_ns(1.5), Some(1_500_000));
        assert_eq!(float_ns(f64::INFINITY), None);
    }
}
