//! Go's durations: `1h15m30.5s`.

use std::time::Duration;

const UNITS: [(&str, u128); 8] = [
    // Longer names first where one begins like another.
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Most digits after the point that count.
const FRACTION_DIGITS_MAX: usize = 9;

/// Parses a non-negative duration as Go's `time.ParseDuration` would.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let (unit, scale) = UNITS.into_iter().find(|(unit, _)| after.starts_with(unit))?;
        rest = &after[unit.len()..];
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(u128::from(whole) * scale)?;
        if !fraction.is_empty() {
            let digits = fraction.get(..fraction.len().min(FRACTION_DIGITS_MAX))?;
            let value: u64 = digits.parse().ok()?;
            let power = 10_u128.pow(u32::try_from(digits.len()).ok()?);
            total = total.checked_add(u128::from(value) * scale / power)?;
        }
    }
    // Go's durations are signed 64-bit nanoseconds.
    let nanoseconds = i64::try_from(total).ok()?;
    Some(Duration::from_nanos(nanoseconds.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("30s", 30_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("100ms", 100_000_000),
            (".5s", 500_000_000),
            ("1us", 1_000),
            ("1µs", 1_000),
            ("7ns", 7),
            ("+2s", 2_000_000_000),
        ] {
            assert_eq!(parse(text), Some(Duration::from_nanos(nanoseconds)), "{text}");
        }
        for bad in ["", "1", "s", ".s", "1d", "1s1", "-1s", "1..2s", "99999999999h"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
