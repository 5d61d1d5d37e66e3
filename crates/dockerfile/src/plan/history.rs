//! `created_by` texts as BuildKit writes them.

use std::fmt::Write as _;

use oci_model::Healthcheck;

/// Go's `%q` of a string.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            // Writing to a string cannot fail.
            c if c.is_ascii_control() => drop(write!(out, "\\x{:02x}", u32::from(c))),
            c if c.is_control() => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Go's `%q` of a list of strings.
pub(super) fn quoted_list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("[{}]", words.join(" "))
}

/// `RUN [|n name=value…] argv`.
pub(super) fn run(argv: &[String], args: &[(String, String)]) -> String {
    let mut parts = Vec::with_capacity(argv.len() + args.len() + 1);
    if !args.is_empty() {
        parts.push(format!("|{}", args.len()));
        parts.extend(args.iter().map(|(name, value)| format!("{name}={value}")));
    }
    parts.extend(argv.iter().cloned());
    format!("RUN {} # buildkit", parts.join(" "))
}

/// `HEALTHCHECK {Test:[…] Interval:… …}`.
pub(super) fn healthcheck(check: &Healthcheck) -> String {
    format!(
        "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        check.test.join(" "),
        go_duration(check.interval),
        go_duration(check.timeout),
        go_duration(check.start_period),
        go_duration(check.start_interval),
        check.retries,
    )
}

/// Nanoseconds as Go prints a duration: `1m30s`, `1.5s`, `100ms`, `0s`.
fn go_duration(nanoseconds: i64) -> String {
    const SECOND: u64 = 1_000_000_000;
    let total = nanoseconds.unsigned_abs();
    if total == 0 {
        return "0s".to_owned();
    }
    let fraction = |value: u64, unit: u64, name: &str| {
        let digits = unit.ilog10() as usize;
        let text = format!("{}.{:0digits$}", value / unit, value % unit);
        format!("{}{name}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match total {
        0..1_000 => format!("{total}ns"),
        1_000..1_000_000 => fraction(total, 1_000, "µs"),
        1_000_000..SECOND => fraction(total, 1_000_000, "ms"),
        _ => {
            let minutes = total / SECOND / 60;
            let seconds = fraction(total - minutes * 60 * SECOND, SECOND, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_quoted_as_go_quotes_them() {
        let words = ["a".to_owned(), "b \"c\"\n\u{1}é".to_owned()];
        assert_eq!(quoted_list(&words), "[\"a\" \"b \\\"c\\\"\\n\\x01é\"]");
        assert_eq!(quoted_list(&[]), "[]");
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        for (nanoseconds, expected) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (100_000_000, "100ms"),
            (1_500_000_000, "1.5s"),
            (30_000_000_000, "30s"),
            (60_000_000_000, "1m0s"),
            (3_600_000_000_000, "1h0m0s"),
            (5_405_000_000_000, "1h30m5s"),
        ] {
            assert_eq!(go_duration(nanoseconds), expected);
        }
    }

    /// BuildKit unit test DispatchHealthcheckHistory.
    #[test]
    fn healthchecks_print_their_fields() {
        let check = Healthcheck {
            test: ["bin", "-c", "exit 0"].map(str::to_owned).to_vec(),
            interval: 1_000_000_000,
            timeout: 10_000_000_000,
            start_period: 3_000_000_000,
            start_interval: 100_000_000,
            retries: 5,
        };
        assert_eq!(
            healthcheck(&check),
            "HEALTHCHECK {Test:[bin -c exit 0] Interval:1s Timeout:10s StartPeriod:3s \
             StartInterval:100ms Retries:5}"
        );
    }
}
