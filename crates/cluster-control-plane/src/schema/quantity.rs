//! `resource.Quantity`: parsing, comparing and the canonical form (apimachinery `resource`).

use std::cmp::Ordering;

/// Upstream's text for a quantity that does not parse.
pub(crate) const FORMAT_ERROR: &str = "quantities must match the regular expression \
                                       '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// Nano units in one unit.
const NANO: i128 = 1_000_000_000;
/// Largest number of decimal digits read; more would only say that the value is out of range.
const DIGITS_MAX: usize = 40;

/// A parsed quantity, exact to a billionth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quantity {
    nanos: i128,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// `Ki`, `Mi`, …
    Binary,
    /// `m`, `k`, `M`, …
    Decimal,
    /// `e3`.
    Exponent,
}

const BINARY: [(&str, u32); 6] =
    [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

impl Quantity {
    /// Parses the text form; `None` when it is not a quantity.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let digits_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(digits_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let (format, power_of_two, power_of_ten) = parse_suffix(suffix)?;
        let nanos = scale(whole, fraction, power_of_two, power_of_ten);
        Some(Self { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// Value in whole units, rounded up.
    pub(crate) fn value(self) -> i128 {
        div_ceil(self.nanos, NANO)
    }

    /// Value in thousandths, rounded up.
    pub(crate) fn millis(self) -> i128 {
        div_ceil(self.nanos, NANO / 1000)
    }

    /// Whether the value is zero.
    pub(crate) fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether the value is below zero.
    pub(crate) fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Compares two values, whatever their suffixes.
    pub(crate) fn compare(self, other: Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }

    /// The form the server stores and returns.
    pub(crate) fn canonical(self) -> String {
        if self.nanos == 0 {
            return "0".to_owned();
        }
        let sign = if self.nanos < 0 { "-" } else { "" };
        let nanos = self.nanos.abs();
        match self.format {
            Format::Binary if nanos % NANO == 0 && 1024 * NANO <= nanos => {
                let mut value = nanos / NANO;
                let mut suffix = "";
                for (name, _) in BINARY {
                    if value % 1024 != 0 {
                        break;
                    }
                    value /= 1024;
                    suffix = name;
                }
                format!("{sign}{value}{suffix}")
            }
            Format::Binary if 1024 * NANO <= nanos => format!("{sign}{}", div_ceil(nanos, NANO)),
            Format::Binary | Format::Decimal => {
                let (value, exponent) = reduced(nanos);
                let suffix = DECIMAL
                    .iter()
                    .find(|(_, power)| *power == exponent)
                    .map_or("", |(suffix, _)| suffix);
                format!("{sign}{value}{suffix}")
            }
            Format::Exponent => {
                let (value, exponent) = reduced(nanos);
                if exponent == 0 {
                    format!("{sign}{value}")
                } else {
                    format!("{sign}{value}e{exponent}")
                }
            }
        }
    }
}

/// The value with as few digits as possible, its exponent a multiple of three up to 18.
fn reduced(nanos: i128) -> (i128, i32) {
    let (mut value, mut exponent) = (nanos, -9);
    while value % 1000 == 0 && exponent < 18 {
        value /= 1000;
        exponent += 3;
    }
    (value, exponent)
}

fn parse_suffix(suffix: &str) -> Option<(Format, u32, i32)> {
    if let Some((_, power)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Some((Format::Binary, *power, 0));
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((Format::Decimal, 0, *power));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let power: i32 = exponent.parse().ok()?;
    (-100..=100).contains(&power).then_some((Format::Exponent, 0, power))
}

/// Nano units of a decimal number times a power; rounds up, stops at the largest 64-bit value.
fn scale(whole: &str, fraction: &str, power_of_two: u32, power_of_ten: i32) -> i128 {
    let largest = i128::from(i64::MAX) * NANO;
    let whole = whole.trim_start_matches('0');
    if DIGITS_MAX < whole.len() {
        return largest;
    }
    let fraction = &fraction[..fraction.len().min(18)];
    let digits = format!("{whole}{fraction}");
    let Ok(mantissa) = (if digits.is_empty() { Ok(0) } else { digits.parse::<i128>() }) else {
        return largest;
    };
    if mantissa == 0 {
        return 0;
    }
    let exponent = power_of_ten + 9 - i32::try_from(fraction.len()).unwrap_or(18);
    let Some(scaled) = mantissa.checked_mul(1_i128 << power_of_two) else { return largest };
    let scaled = if 0 <= exponent {
        10_i128.checked_pow(exponent.unsigned_abs()).and_then(|power| scaled.checked_mul(power))
    } else {
        Some(
            10_i128.checked_pow(exponent.unsigned_abs()).map_or(1, |power| div_ceil(scaled, power)),
        )
    };
    scaled.unwrap_or(largest).min(largest)
}

fn div_ceil(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by != 0 && 0 < value { quotient + 1 } else { quotient }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms_are_those_of_upstream() {
        let rows = [
            ("0", "0"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("100M", "100M"),
            ("1000k", "1M"),
            ("512", "512"),
            ("0.5Gi", "512Mi"),
            ("1e3", "1e3"),
            ("12e6", "12e6"),
            ("-5Gi", "-5Gi"),
            ("100Ki", "100Ki"),
            ("1025", "1025"),
            ("0.1Ki", "102400m"),
            ("+1", "1"),
            (".5", "500m"),
            ("1E", "1E"),
        ];
        for (text, expected) in rows {
            let parsed = Quantity::parse(text).expect(text);
            assert_eq!(parsed.canonical(), expected, "{text}");
            assert_eq!(Quantity::parse(expected).map(|again| again.nanos), Some(parsed.nanos));
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "-", "Gi", "1.2.3", "1gi", "1 Gi", "true", "1KiB", "e3", "1e", "ten"] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }

    #[test]
    fn values_compare_across_suffixes() {
        let parse = |text: &str| Quantity::parse(text).expect(text);
        assert_eq!(parse("1Gi").compare(parse("1024Mi")), Ordering::Equal);
        assert_eq!(parse("1G").compare(parse("1Gi")), Ordering::Less);
        assert_eq!(parse("1500m").value(), 2);
    }
}
