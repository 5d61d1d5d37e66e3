//! The registry of an image as the only thing that decides which cloud is asked.

/// The host of a registry that may belong to a cloud: lower case ASCII labels, no port but 443.
///
/// A token of a cloud opens more than one registry, so a name that merely looks like one of the
/// cloud's must never get it: everything unusual is no host of a cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryHost(String);

impl RegistryHost {
    /// The host of an image reference (`host[:port]/repository[:tag][@digest]`), of a server URL or
    /// a host alone; `None` if it cannot be a cloud's.
    pub fn of(image: &str) -> Option<Self> {
        let rest = image
            .strip_prefix("https://")
            .or_else(|| image.strip_prefix("http://"))
            .unwrap_or(image);
        let authority = rest.split('/').next().unwrap_or(rest);
        let name = match authority.split_once(':') {
            Some((name, "443")) => name,
            Some(_) => return None,
            None => authority,
        };
        let name = name.to_ascii_lowercase();
        let is_label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        (name.contains('.') && name.len() <= 253 && name.split('.').all(is_label))
            .then_some(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(image: &str, expected: Option<&str>) {
        let host = RegistryHost::of(image);
        assert_eq!(host.as_ref().map(RegistryHost::as_str), expected, "{image}");
    }

    #[test]
    fn every_form_of_a_reference_has_its_host() {
        for image in [
            "reg.example.com",
            "reg.example.com/a/b",
            "reg.example.com/a/b:1.0",
            "reg.example.com/a/b@sha256:0000",
            "reg.example.com:443/a/b",
            "Reg.EXAMPLE.com/a",
            "https://reg.example.com",
            "https://reg.example.com/v2/",
        ] {
            check(image, Some("reg.example.com")); // case 5
        }
    }

    #[test]
    fn what_is_unusual_is_no_clouds_host() {
        for image in [
            "reg.example.com:8443/a",
            "localhost/a",
            "gcr.io@evil.com/a",
            "user@gcr.io/a",
            "gcr.io./a",
            "gcr..io/a",
            ".gcr.io/a",
            "gcr.io\\evil.com/a",
            "gcr%2eio/a",
            "gcr.іo/a",
            "[::1]/a",
            "",
            "/a",
            "https://",
        ] {
            check(image, None); // cases 6 and 12.2
        }
    }
}
