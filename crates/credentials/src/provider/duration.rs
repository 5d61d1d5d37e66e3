//! Durations as Go reads and prints them (`time.ParseDuration`, `Duration.String`).

use jiff::SignedDuration;

/// Reads `1h30m`, `-5s`, `1.5us` or `0`; the error is Go's text.
pub(super) fn parse(text: &str) -> Result<SignedDuration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanoseconds: i128 = 0;
    while !rest.is_empty() {
        let number_bytes = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, after) = rest.split_at(number_bytes);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        let unit_bytes = after.bytes().take_while(|b| !b.is_ascii_digit() && *b != b'.').count();
        let (unit, next) = after.split_at(unit_bytes);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let factor = nanoseconds_of(unit)
            .ok_or_else(|| format!("time: unknown unit {unit:?} in duration {text:?}"))?;
        let whole: i128 =
            if whole.is_empty() { 0 } else { whole.parse::<i64>().map_err(|_| invalid())?.into() };
        nanoseconds += whole * factor + fraction_of(fraction, factor);
        if nanoseconds > i128::from(i64::MAX) {
            return Err(invalid());
        }
        rest = next;
    }
    let nanoseconds = i64::try_from(nanoseconds).map_err(|_| invalid())?;
    Ok(SignedDuration::from_nanos(if negative { -nanoseconds } else { nanoseconds }))
}

const fn nanoseconds_of(unit: &str) -> Option<i128> {
    Some(match unit.as_bytes() {
        b"ns" => 1,
        // Both letters that people use for micro: U+00B5 and U+03BC.
        b"us" | b"\xc2\xb5s" | b"\xce\xbcs" => 1_000,
        b"ms" => 1_000_000,
        b"s" => 1_000_000_000,
        b"m" => 60_000_000_000,
        b"h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// The part behind the point, rounded down; digits beyond nanoseconds of an hour are dropped.
fn fraction_of(digits: &str, factor: i128) -> i128 {
    let (mut number, mut scale): (i128, i128) = (0, 1);
    for digit in digits.bytes().take(15) {
        number = number * 10 + i128::from(digit - b'0');
        scale *= 10;
    }
    number * factor / scale
}

/// Prints as Go does: `-1m0s`, `1h0m0s`, `1.5s`, `250ms`.
pub(super) fn text(duration: SignedDuration) -> String {
    let nanoseconds = duration.as_nanos().unsigned_abs();
    let sign = if duration.is_negative() { "-" } else { "" };
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    if nanoseconds < 1_000_000_000 {
        let (unit, factor) = match nanoseconds {
            0..1_000 => ("ns", 1),
            1_000..1_000_000 => ("\u{b5}s", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{sign}{}{unit}", decimal(nanoseconds, factor));
    }
    let seconds = decimal(nanoseconds % 60_000_000_000, 1_000_000_000);
    let minutes = nanoseconds / 60_000_000_000;
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

/// `number / factor` without zeros at the end.
fn decimal(number: u128, factor: u128) -> String {
    let (whole, rest) = (number / factor, number % factor);
    if rest == 0 {
        return whole.to_string();
    }
    let digits = factor.ilog10() as usize;
    format!("{whole}.{}", format!("{rest:0digits$}").trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print_as_in_go() {
        for (input, expected) in [
            ("0", Ok("0s")),
            ("0s", Ok("0s")),
            ("10m", Ok("10m0s")),
            ("6h", Ok("6h0m0s")),
            ("1h30m", Ok("1h30m0s")),
            ("-1m", Ok("-1m0s")),
            ("+1.5s", Ok("1.5s")),
            (".5h", Ok("30m0s")),
            ("21.6\u{b5}s", Ok("21.6\u{b5}s")),
            ("21.6us", Ok("21.6\u{b5}s")),
            ("250ms", Ok("250ms")),
            ("5ns", Ok("5ns")),
            ("", Err("time: invalid duration \"\"")),
            ("m", Err("time: invalid duration \"m\"")),
            ("10", Err("time: missing unit in duration \"10\"")),
            ("1d", Err("time: unknown unit \"d\" in duration \"1d\"")),
            ("1.2.3s", Err("time: invalid duration \"1.2.3s\"")),
            ("9999999999h", Err("time: invalid duration \"9999999999h\"")),
            ("99999999999999999999s", Err("time: invalid duration \"99999999999999999999s\"")),
        ] {
            let actual = parse(input).map(text);
            assert_eq!(actual.as_deref().map_err(String::as_str), expected, "{input}");
        }
    }
}
