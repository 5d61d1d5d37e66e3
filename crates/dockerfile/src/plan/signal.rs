//! STOPSIGNAL.

/// Linux signal names without `SIG`, by number from 1.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Largest real-time signal.
const SIGNAL_MAX: u32 = 64;

/// Whether `text` is a signal name (with or without `SIG`) or a number from 1 to 64.
pub(super) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=SIGNAL_MAX).contains(&number);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if NAMES.contains(&name) || matches!(name, "IOT" | "POLL" | "CLD" | "UNUSED") {
        return true;
    }
    let offset = |prefix: &str, sign: char| {
        let rest = name.strip_prefix(prefix)?;
        if rest.is_empty() { Some(0) } else { rest.strip_prefix(sign)?.parse::<u32>().ok() }
    };
    offset("RTMIN", '+').or_else(|| offset("RTMAX", '-')).is_some_and(|offset| offset <= 30)
}

#[cfg(test)]
mod tests {
    use super::is_signal;

    #[test]
    fn names_and_numbers_are_signals() {
        for good in ["SIGTERM", "TERM", "sigkill", "9", "64", "SIGRTMIN", "SIGRTMIN+3", "RTMAX-14"]
        {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["", "0", "65", "SIGFOO", "-1", "SIGRTMIN+99", "SIGRTMINX"] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
