//! Durations as Go prints them, because they stand in event texts.

use std::time::Duration;

/// Prints like Go's `Duration.String` after truncation to milliseconds: `1.234s`, `350ms`, `1m2.5s`.
pub fn go_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    if milliseconds == 0 {
        return "0s".to_owned();
    }
    if milliseconds < 1000 {
        return format!("{milliseconds}ms");
    }
    let (hours, rest) = (milliseconds / 3_600_000, milliseconds % 3_600_000);
    let (minutes, rest) = (rest / 60_000, rest % 60_000);
    let mut seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    while seconds.ends_with('0') {
        seconds.pop();
    }
    let seconds = seconds.trim_end_matches('.');
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_as_in_go() {
        for (micros, expected) in [
            (0, "0s"),
            (999, "0s"),
            (350_000, "350ms"),
            (1_000_000, "1s"),
            (1_234_500, "1.234s"),
            (2_500_000, "2.5s"),
            (10_000_000, "10s"),
            (62_500_000, "1m2.5s"),
            (300_000_000, "5m0s"),
            (3_600_000_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_micros(micros)), expected);
        }
    }
}
