//! Names from variables, profiles and metadata that become part of a URL: one checked form, so that
//! none of them can lead a token to another host.

use std::fmt;
use std::net::IpAddr;

use super::CloudError;

/// Longest label of a host name, in bytes (RFC 1035, section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// A region of a cloud: one label of a host name, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Region(String);

impl Region {
    /// Takes what `place` calls a region.
    ///
    /// # Errors
    /// [`CloudError`] if it could be more than one label; it is not repeated, for it may be long.
    pub(crate) fn of(provider: &'static str, place: &str, text: &str) -> Result<Self, CloudError> {
        if is_label(text) {
            return Ok(Self(text.to_owned()));
        }
        let reason = "it names no region: letters, digits and hyphens; nothing was sent";
        Err(CloudError::new(provider, "read region", place, reason))
    }

    /// The label.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The authority of a URL for a server of this cluster: an address, or a name of one label; `None`
/// for anything else.
pub(crate) fn cluster_server(text: &str) -> Option<String> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => Some(address.to_string()),
        Ok(IpAddr::V6(address)) => Some(format!("[{address}]")),
        Err(_) => is_label(text).then(|| text.to_owned()),
    }
}

fn is_label(text: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LABEL_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_one_label() {
        for text in ["eu-west-1", "us-gov-west-1", "fra", "eusc-de-east-1"] {
            assert_eq!(Region::of("ecr", "AWS_REGION", text).expect("one").as_str(), text);
        }
        let long = "a".repeat(64);
        for text in ["", "evil.com/#", "a.b", "A", "a@b", "a:1", "a?b", "a b", "a%2e", "é", &long]
        {
            let error = Region::of("ecr", "AWS_REGION", text).expect_err(text).to_string();
            assert!(error.ends_with("nothing was sent"), "{error}");
        }
    }

    #[test]
    fn a_server_of_the_cluster_is_an_address_or_one_label() {
        for (text, expected) in [
            ("10.96.0.1", Some("10.96.0.1")),
            ("fd00::1", Some("[fd00::1]")),
            ("kubernetes", Some("kubernetes")),
            ("evil.com", None),
            ("evil.com/#", None),
            ("u@10.96.0.1", None),
            ("10.96.0.1:443", None),
            ("[fd00::1]", None),
            ("", None),
        ] {
            assert_eq!(cluster_server(text).as_deref(), expected, "{text}");
        }
    }
}
