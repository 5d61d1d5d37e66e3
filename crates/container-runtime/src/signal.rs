//! Signals by name and number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Names in order of their numbers from 1 (x86-64 and arm64).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// First real-time signal as glibc and musl programs see it.
const REAL_TIME_MIN: i32 = 34;
/// Last real-time signal.
const REAL_TIME_MAX: i32 = 64;

/// A signal, 1 to 64; reads `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` as image configs have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Signal(i32);

/// A text or number that is no signal.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unknown signal {text:?}")]
pub struct UnknownSignal {
    /// What was given.
    pub text: String,
}

impl Signal {
    /// Ends at once; cannot be caught.
    pub const KILL: Self = Self(9);
    /// Asks to end.
    pub const TERM: Self = Self(15);
    /// Interrupt.
    pub const INT: Self = Self(2);
    /// Hang up.
    pub const HUP: Self = Self(1);

    /// The number.
    pub fn number(self) -> i32 {
        self.0
    }

    fn from_number(number: i32) -> Option<Self> {
        (1..=REAL_TIME_MAX).contains(&number).then_some(Self(number))
    }

    fn from_name(name: &str) -> Option<Self> {
        if let Some(index) = NAMES.iter().position(|known| *known == name) {
            return i32::try_from(index + 1).ok().map(Self);
        }
        let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(""), _) => REAL_TIME_MIN,
            (_, Some("")) => REAL_TIME_MAX,
            (Some(offset), _) => REAL_TIME_MIN + offset.strip_prefix('+')?.parse::<i32>().ok()?,
            (_, Some(offset)) => REAL_TIME_MAX - offset.strip_prefix('-')?.parse::<i32>().ok()?,
            (None, None) => return None,
        };
        (REAL_TIME_MIN..=REAL_TIME_MAX).contains(&real_time).then_some(Self(real_time))
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let signal = match name.parse() {
            Ok(number) => Self::from_number(number),
            Err(_) => Self::from_name(name),
        };
        signal.ok_or_else(|| UnknownSignal { text: text.to_owned() })
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match usize::try_from(self.0 - 1).ok().and_then(|index| NAMES.get(index)) {
            Some(name) => write!(f, "SIG{name}"),
            None => write!(f, "SIGRTMIN+{}", self.0 - REAL_TIME_MIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<i32>) {
        assert_eq!(text.parse::<Signal>().ok().map(Signal::number), expected, "{text}");
    }

    #[test]
    fn reads_every_spelling_of_an_image_config() {
        check("SIGTERM", Some(15));
        check("term", Some(15));
        check("9", Some(9));
        check("SIGRTMIN+3", Some(37));
        check("RTMAX-1", Some(63));
        check("SIGSYS", Some(31));
    }

    #[test]
    fn refuses_what_is_no_signal() {
        check("", None);
        check("0", None);
        check("65", None);
        check("SIGRTMIN+31", None);
        check("SIGNOPE", None);
    }

    #[test]
    fn prints_as_it_reads() {
        for number in (1..=31).chain(34..=64) {
            let signal = Signal(number);
            assert_eq!(signal.to_string().parse(), Ok(signal));
        }
    }
}
