//! Kubernetes quantities (`100m`, `1Gi`, `1e3`) as exact thousandths.

/// Value in thousandths of the unit, rounded up; `None` when the text is no quantity.
pub(crate) fn milli(text: &str) -> Option<i128> {
    let text = text.trim();
    let digits_end = text
        .char_indices()
        .find(|(position, c)| {
            !(c.is_ascii_digit() || *c == '.' || (*position == 0 && (*c == '-' || *c == '+')))
        })
        .map_or(text.len(), |(position, _)| position);
    let (number, suffix) = text.split_at(digits_end);
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let mut denominator = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let mut numerator = mantissa;
    match suffix {
        "" => numerator = numerator.checked_mul(1000)?,
        "n" => denominator = denominator.checked_mul(1_000_000)?,
        "u" => denominator = denominator.checked_mul(1000)?,
        "m" => {}
        _ => {
            let factor = match suffix {
                "k" => 1000,
                "M" => 1_000_000,
                "G" => 1_000_000_000,
                "T" => 1_000_000_000_000,
                "P" => 1_000_000_000_000_000,
                "E" => 1_000_000_000_000_000_000,
                "Ki" => 1i128 << 10,
                "Mi" => 1 << 20,
                "Gi" => 1 << 30,
                "Ti" => 1 << 40,
                "Pi" => 1 << 50,
                "Ei" => 1 << 60,
                _ => {
                    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
                    let power = 10i128.checked_pow(exponent.unsigned_abs())?;
                    if exponent < 0 {
                        denominator = denominator.checked_mul(power)?;
                        1
                    } else {
                        power
                    }
                }
            };
            numerator = numerator.checked_mul(factor)?.checked_mul(1000)?;
        }
    }
    let value = numerator.checked_add(denominator - 1)? / denominator;
    Some(if negative { -value } else { value })
}

/// Whole units, rounded up.
pub(crate) fn units(text: &str) -> Option<i128> {
    milli(text).map(|value| if value > 0 { (value + 999) / 1000 } else { value / 1000 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_in_thousandths() {
        for (text, expected) in [
            ("1", Some(1000)),
            ("100m", Some(100)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("128Mi", Some(134_217_728_000)),
            ("1k", Some(1_000_000)),
            ("1e3", Some(1_000_000)),
            ("1E3", Some(1_000_000)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("100u", Some(1)),
            ("1n", Some(1)),
            ("-1", Some(-1000)),
            ("", None),
            ("x", None),
            ("1x", None),
            ("1.2.3", None),
            ("Gi", None),
        ] {
            assert_eq!(milli(text), expected, "{text}");
        }
        assert_eq!(units("100m"), Some(1));
        assert_eq!(units("1001m"), Some(2));
    }
}
