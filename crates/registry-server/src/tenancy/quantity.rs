//! Amounts as people write them in configuration: `20 GiB`, `7d`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is no amount.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum QuantityError {
    /// The number cannot be read.
    #[error("{0:?} does not begin with a whole number")]
    Number(String),
    /// The unit is not known.
    #[error("unknown unit {unit:?}: one of {known}")]
    Unit {
        /// What was written.
        unit: String,
        /// What may be written.
        known: &'static str,
    },
    /// The amount does not fit 64 bits.
    #[error("{0:?} is too large")]
    TooLarge(String),
}

/// A number of bytes, written with or without a unit: `1000`, `512MiB`, `20 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A length of time in seconds, written with its unit: `90s`, `12h`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub u64);

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];

const SPANS: [(&str, u64); 5] = [("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

impl Span {
    /// The span in milliseconds.
    pub const fn milliseconds(self) -> u64 {
        self.0.saturating_mul(1000)
    }
}

fn read(
    text: &str,
    units: &[(&str, u64)],
    known: &'static str,
    bare: Option<u64>,
) -> Result<u64, QuantityError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(QuantityError::Number(text.to_owned()));
    }
    let number: u64 = number.parse().map_err(|_| QuantityError::TooLarge(text.to_owned()))?;
    let unit = unit.trim();
    let factor = match units.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => Some(*factor),
        None if unit.is_empty() => bare,
        None => None,
    };
    let factor = factor.ok_or_else(|| QuantityError::Unit { unit: unit.to_owned(), known })?;
    number.checked_mul(factor).ok_or_else(|| QuantityError::TooLarge(text.to_owned()))
}

impl FromStr for ByteSize {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let known = "B, kB, MB, GB, TB, KiB, MiB, GiB, TiB";
        read(text.trim(), &SIZES, known, Some(1)).map(Self)
    }
}

impl FromStr for Span {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        // Off is off in any unit.
        if text.trim() == "0" {
            return Ok(Self(0));
        }
        read(text.trim(), &SPANS, "s, m, h, d, w", None).map(Self)
    }
}

impl fmt::Display for ByteSize {
    /// With one decimal in the largest binary unit that fits, rounded down.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, factor) in &SIZES[..4] {
            if self.0 >= *factor {
                let tenths = self.0 % factor * 10 / factor;
                return write!(formatter, "{}.{tenths} {name}", self.0 / factor);
            }
        }
        write!(formatter, "{} B", self.0)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole =
            SPANS[1..].iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        match whole {
            Some((unit, factor)) => write!(formatter, "{}{unit}", self.0 / factor),
            None => write!(formatter, "{}s", self.0),
        }
    }
}

/// The smallest writing that reads back to the same amount.
fn exactly(size: ByteSize) -> String {
    let whole = SIZES[..4].iter().find(|(_, factor)| size.0 > 0 && size.0.is_multiple_of(*factor));
    match whole {
        Some((name, factor)) => format!("{}{name}", size.0 / factor),
        None => size.0.to_string(),
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&exactly(*self))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1000", Some(1000)),
            ("1KiB", Some(1024)),
            ("20 GiB", Some(20 << 30)),
            ("2GB", Some(2_000_000_000)),
            ("16777215TiB", Some(16_777_215 << 40)),
            ("16777216TiB", None),
            ("1G", None),
            ("1gib", None),
            ("1.5GiB", None),
            ("-1", None),
            ("GiB", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<ByteSize>().ok(), expected.map(ByteSize), "{text}");
        }
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (20 << 30, "20.0 GiB")]
        {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }

    #[test]
    fn spans_need_a_unit() {
        for (text, expected) in [
            ("0", Some(0)),
            ("90s", Some(90)),
            ("5m", Some(300)),
            ("12h", Some(43_200)),
            ("7d", Some(604_800)),
            ("2w", Some(1_209_600)),
            ("7", None),
            ("7 days", None),
            ("d", None),
        ] {
            assert_eq!(text.parse::<Span>().ok(), expected.map(Span), "{text}");
        }
        for (seconds, text) in [(0, "0s"), (90, "90s"), (3600, "1h"), (604_800, "7d")] {
            assert_eq!(Span(seconds).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(amount in any::<u64>(), shift in 0_u32..41) {
            let size = ByteSize(amount >> shift << shift);
            prop_assert_eq!(exactly(size).parse(), Ok(size));
            let span = Span(amount >> 20);
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }
    }
}
