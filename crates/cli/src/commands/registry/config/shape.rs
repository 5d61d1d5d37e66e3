//! What a table of the configuration looks like: one declaration makes the struct that is read,
//! and everything that is said about it (flags, variables, schema, documentation).

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, de};

/// What a key takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Any text; the word names what it is for, such as `FILE`.
    Text(&'static str),
    /// A whole number, not negative.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A length of time, such as `90s`, `5m` or `24h`.
    Duration,
    /// A number of bytes, such as `512MiB`, or a plain number.
    Bytes,
    /// One of these words.
    Choice(Vec<String>),
    /// Several.
    List(Box<Shape>),
    /// Several by name.
    Map(Box<Shape>),
    /// A table with these keys.
    Table(Vec<Key>),
}

/// A key of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) doc: String,
    pub(crate) shape: Shape,
    /// What counts without the key, in words or as a value.
    pub(crate) default: Option<&'static str>,
    pub(crate) required: bool,
}

/// A type that a key can have.
pub(crate) trait Shaped {
    /// Whether the key may be left out.
    const OPTIONAL: bool = false;

    fn shape() -> Shape;
}

/// Declares a table of the configuration. Keys read as in TOML, with dashes. In a `struct` every
/// key may be left out (`Option`, `Vec`, `BTreeMap`, `bool` or another table); an `item` of a list
/// or map may have required keys. `= "…"` names the default for people.
macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        struct $name:ident {
            $( $(#[doc = $doc:literal])+ $key:ident: $type:ty $(= $default:literal)?, )*
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, Default, serde::Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
        pub(crate) struct $name { $( $(#[doc = $doc])+ pub(crate) $key: $type, )* }
        $crate::commands::registry::config::shape::settings! {
            @shape $name { $( [$($doc)+] $key: $type [$($default)?] false, )* }
        }
    };
    (
        $(#[doc = $about:literal])+
        item $name:ident {
            $( $(#[doc = $doc:literal])+ $key:ident: $type:ty $(= $default:literal)?, )*
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, serde::Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        pub(crate) struct $name { $( $(#[doc = $doc])+ pub(crate) $key: $type, )* }
        $crate::commands::registry::config::shape::settings! {
            @shape $name { $( [$($doc)+] $key: $type [$($default)?] true, )* }
        }
    };
    (@shape $name:ident {
        $( [$($doc:literal)+] $key:ident: $type:ty [$($default:literal)?] $item:literal, )*
    }) => {
        impl $crate::commands::registry::config::shape::Shaped for $name {
            fn shape() -> $crate::commands::registry::config::shape::Shape {
                use $crate::commands::registry::config::shape::{Key, Shape, Shaped};
                Shape::Table(vec![ $( Key {
                    name: stringify!($key).replace('_', "-"),
                    doc: concat!($($doc, "\n"),+).lines().map(str::trim)
                        .collect::<Vec<_>>().join(" ").trim().to_owned(),
                    shape: <$type as Shaped>::shape(),
                    default: [$($default,)? ""].first().copied().filter(|text| !text.is_empty()),
                    required: $item && !<$type as Shaped>::OPTIONAL,
                }, )* ])
            }
        }
    };
}
pub(crate) use settings;

/// A length of time as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Duration);

/// A number of bytes as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl std::str::FromStr for Time {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "a length of time is a number with ms, s, m, h or d, such as 90s";
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..end].parse().map_err(|_| wrong)?;
        let milliseconds = match &text[end..] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" if number == 0 => 0,
            _ => return Err(wrong),
        };
        let total = number.checked_mul(milliseconds).ok_or("the time is too long")?;
        Ok(Self(Duration::from_millis(total)))
    }
}

impl std::str::FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "a number of bytes is a number, also with KiB, MiB, GiB, TiB, kB, MB, GB or TB";
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..end].parse().map_err(|_| wrong)?;
        let unit: u64 = match text[end..].trim_start() {
            "" | "B" => 1,
            "kB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return Err(wrong),
        };
        Ok(Self(number.checked_mul(unit).ok_or("the number of bytes is too large")?))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Size, E> {
                let wrong = |_| E::custom("a number of bytes is not negative");
                u64::try_from(number).map(Size).map_err(wrong)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Size, E> {
                Ok(Size(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Shape {
    /// One of the words of an enum of the command line.
    pub(crate) fn choice<T: ValueEnum>() -> Self {
        let words = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        Self::Choice(words.map(|word| word.get_name().to_owned()).collect())
    }

    /// The type in words, for documentation and errors.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Text(_) => "text".to_owned(),
            Self::Integer => "number".to_owned(),
            Self::Boolean => "true or false".to_owned(),
            Self::Duration => "time, such as `90s`".to_owned(),
            Self::Bytes => "bytes, such as `512MiB`".to_owned(),
            Self::Choice(words) => {
                words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
            }
            Self::List(of) => match &**of {
                Self::Table(_) => "list of tables".to_owned(),
                of => format!("list of {}", of.describe()),
            },
            Self::Map(of) => match &**of {
                Self::Table(_) => "tables by name".to_owned(),
                of => format!("{} by name", of.describe()),
            },
            Self::Table(_) => "table".to_owned(),
        }
    }

    /// What stands for a value in the help of a flag; none for what no flag can give.
    pub(crate) fn placeholder(&self) -> Option<String> {
        Some(match self {
            Self::Text(word) => (*word).to_owned(),
            Self::Integer => "NUMBER".to_owned(),
            Self::Boolean => "BOOL".to_owned(),
            Self::Duration => "TIME".to_owned(),
            Self::Bytes => "BYTES".to_owned(),
            Self::Choice(words) => words.join("|"),
            Self::List(of) => match &**of {
                Self::Text(_) | Self::Choice(_) => format!("{},…", of.placeholder()?),
                _ => return None,
            },
            Self::Map(_) | Self::Table(_) => return None,
        })
    }
}

impl<T: Shaped> Shaped for Option<T> {
    const OPTIONAL: bool = true;

    fn shape() -> Shape {
        T::shape()
    }
}

impl<T: Shaped> Shaped for Vec<T> {
    fn shape() -> Shape {
        Shape::List(Box::new(T::shape()))
    }
}

impl<T: Shaped> Shaped for BTreeMap<String, T> {
    fn shape() -> Shape {
        Shape::Map(Box::new(T::shape()))
    }
}

macro_rules! shaped {
    ($($type:ty => $shape:expr,)*) => {
        $( impl Shaped for $type { fn shape() -> Shape { $shape } } )*
    };
}

shaped! {
    String => Shape::Text("TEXT"),
    PathBuf => Shape::Text("FILE"),
    SocketAddr => Shape::Text("HOST:PORT"),
    bool => Shape::Boolean,
    u16 => Shape::Integer,
    u32 => Shape::Integer,
    u64 => Shape::Integer,
    usize => Shape::Integer,
    Time => Shape::Duration,
    Size => Shape::Bytes,
}
