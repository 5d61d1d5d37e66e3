//! Operating system and processor of an image (OCI image-spec, image index, `platform`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an image runs on; prints as `os/architecture[/variant]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// Processor, in Go's words: `amd64`, `arm64`, `arm`, …
    #[serde(default)]
    pub architecture: String,
    /// Operating system, in Go's words: `linux`, `windows`, …
    #[serde(default)]
    pub os: String,
    /// Version of the operating system, used by Windows.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Required features of the operating system, used by Windows.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Variant of the processor, such as `v7` of `arm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why a text is not a platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {text:?}: want os/architecture[/variant], such as linux/amd64")]
pub struct PlatformError {
    text: String,
}

impl Platform {
    /// Linux on `architecture` (Go's word, such as `amd64`), no variant.
    pub fn linux(architecture: &str) -> Self {
        Self {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            os_version: None,
            os_features: Vec::new(),
            variant: None,
        }
    }

    /// The platform this program was compiled for.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self::linux(architecture)
    }

    /// The same platform as every tool would spell it: `x86_64` is `amd64`, `arm64/v8` is `arm64`,
    /// `arm` is `arm/v7`.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let mut platform = self.clone();
        platform.os = platform.os.to_lowercase();
        let (architecture, variant) = match platform.architecture.to_lowercase().as_str() {
            "x86_64" | "x86-64" => ("amd64".to_owned(), platform.variant),
            "aarch64" => ("arm64".to_owned(), platform.variant),
            "i386" | "x86" => ("386".to_owned(), None),
            "armhf" => ("arm".to_owned(), Some("v7".to_owned())),
            "armel" => ("arm".to_owned(), Some("v6".to_owned())),
            other => (other.to_owned(), platform.variant),
        };
        platform.variant = match (architecture.as_str(), variant.as_deref()) {
            ("arm64", Some("8" | "v8")) | ("amd64", Some("v1")) | (_, Some("")) => None,
            ("arm", None) => Some("v7".to_owned()),
            ("arm", Some(digit @ ("5" | "6" | "7" | "8"))) => Some(format!("v{digit}")),
            _ => variant,
        };
        platform.architecture = architecture;
        platform
    }

    /// How well `offered` serves a wish for `self`: `None` if not at all, else smaller is better.
    ///
    /// An exact variant beats an older variant of the same processor (`arm/v6` code runs on
    /// `arm/v7`), as in containerd's platform matcher.
    pub fn rank(&self, offered: &Self) -> Option<u32> {
        let (want, have) = (self.normalised(), offered.normalised());
        if want.os != have.os || want.architecture != have.architecture {
            return None;
        }
        let level = |variant: &Option<String>| -> Option<u32> {
            match variant {
                None => Some(if want.architecture == "amd64" { 1 } else { 8 }),
                Some(text) => text.strip_prefix('v').unwrap_or(text).parse().ok(),
            }
        };
        if want.variant == have.variant {
            return Some(0);
        }
        let (want, have) = (level(&want.variant)?, level(&have.variant)?);
        want.checked_sub(have)
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let error = || PlatformError { text: text.to_owned() };
        let valid = |part: &str| {
            !part.is_empty()
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| valid(part)) {
            return Err(error());
        }
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant.to_owned())),
            _ => return Err(error()),
        };
        let mut platform = Self::linux(architecture);
        platform.os = os.to_owned();
        platform.variant = variant;
        Ok(platform.normalised())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().expect("a platform of the test")
    }

    #[test]
    fn platforms_are_spelled_in_one_way() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("Linux/AMD64", "linux/amd64"),
            ("windows/amd64", "windows/amd64"),
        ] {
            assert_eq!(platform(text).to_string(), expected);
        }
    }

    #[test]
    fn texts_that_are_no_platform_are_refused() {
        for text in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/am d64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn older_variants_serve_newer_processors_but_not_the_reverse() {
        let wish = platform("linux/arm/v7");
        assert_eq!(wish.rank(&platform("linux/arm/v7")), Some(0));
        assert_eq!(wish.rank(&platform("linux/arm/v6")), Some(1));
        assert_eq!(wish.rank(&platform("linux/arm/v8")), None);
        assert_eq!(wish.rank(&platform("linux/arm64")), None);
        assert_eq!(platform("linux/amd64").rank(&platform("windows/amd64")), None);
    }
}
