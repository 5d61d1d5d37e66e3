//! `imagePullPolicy`: its default and its values.

use std::fmt;
use std::str::FromStr;

use oci_model::{Reference, ReferenceError};

/// When the node asks a registry for an image (core/v1 `PullPolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// At every container start.
    Always,
    /// Only if the node does not have it.
    IfNotPresent,
    /// Never.
    Never,
}

impl PullPolicy {
    /// The policy that the API server writes into an empty field: `Always` for the tag `latest`,
    /// said or implied, else `IfNotPresent`, also for what does not parse.
    pub fn default_for(image: &str) -> Self {
        match image.parse::<Reference>() {
            Ok(reference) => match reference.with_default_tag().tag() {
                Some(tag) if tag.as_str() == "latest" => Self::Always,
                _ => Self::IfNotPresent,
            },
            Err(_) => Self::IfNotPresent,
        }
    }

    /// The value of the field.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

impl fmt::Display for PullPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PullPolicy {
    type Err = String;

    /// The error is the API server's detail text for the field.
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Always, Self::IfNotPresent, Self::Never]
            .into_iter()
            .find(|policy| policy.as_str() == text)
            .ok_or_else(|| format!("Unsupported value: {text:?}: {}", supported_policies_text()))
    }
}

/// The end of the API server's text for a wrong policy.
pub const fn supported_policies_text() -> &'static str {
    r#"supported values: "Always", "IfNotPresent", "Never""#
}

/// The image text does not parse; the text is the kubelet's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {cause}"
)]
pub struct InvalidImageName {
    /// The image as the user wrote it.
    pub image: String,
    /// Why it does not parse.
    pub cause: ReferenceError,
}

/// The text that goes to the image service: what the user wrote, with `:latest` appended where
/// neither tag nor digest stands. Nothing else is normalised, as in the kubelet.
///
/// # Errors
/// [`InvalidImageName`] with the text of the kubelet's event.
pub fn image_with_default_tag(image: &str) -> Result<String, InvalidImageName> {
    let reference: Reference =
        image.parse().map_err(|cause| InvalidImageName { image: image.to_owned(), cause })?;
    if reference.tag().is_none() && reference.digest().is_none() {
        return Ok(format!("{image}:latest"));
    }
    Ok(image.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const D64: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn only_latest_said_or_implied_is_always_pulled() {
        let at_digest = format!("nginx@sha256:{D64}");
        let latest_at_digest = format!("nginx:latest@sha256:{D64}");
        let tagged_at_digest = format!("nginx:1.25@sha256:{D64}");
        let named_sha256 = format!("sha256:{D64}");
        for (image, expected) in [
            ("nginx", PullPolicy::Always),                             // R1
            ("nginx:1.25", PullPolicy::IfNotPresent),                  // R2
            ("nginx:latest", PullPolicy::Always),                      // R3
            ("nginx:LATEST", PullPolicy::IfNotPresent),                // R4
            ("team/app", PullPolicy::Always),                          // R5
            ("index.docker.io/team/app:v1", PullPolicy::IfNotPresent), // R6
            ("localhost/app", PullPolicy::Always),                     // R7
            ("registry.example.com", PullPolicy::Always),              // R11
            ("registry.example.com:5000", PullPolicy::IfNotPresent),   // R12
            (&at_digest, PullPolicy::IfNotPresent),                    // R16
            (&tagged_at_digest, PullPolicy::IfNotPresent),             // R17
            (&latest_at_digest, PullPolicy::Always),                   // R18
            (&named_sha256, PullPolicy::IfNotPresent),                 // R19
            ("Nginx", PullPolicy::IfNotPresent),                       // R27
            ("", PullPolicy::IfNotPresent),
        ] {
            assert_eq!(PullPolicy::default_for(image), expected, "{image}");
        }
    }

    #[test]
    fn default_tag_is_appended_to_the_raw_text() {
        for image in [
            "nginx",                // R1
            "team/app",             // R5
            "localhost/app",        // R7
            "registry.example.com", // R11
        ] {
            assert_eq!(image_with_default_tag(image), Ok(format!("{image}:latest")));
        }
        for raw in [
            "index.docker.io/team/app:v1".to_owned(), // R6
            "registry.example.com:5000".to_owned(),   // R12
            format!("nginx@sha256:{D64}"),            // R16
            format!("nginx:1.25@sha256:{D64}"),       // R17
            format!("nginx:latest@sha256:{D64}"),     // R18
            format!("sha256:{D64}"),                  // R19
        ] {
            assert_eq!(image_with_default_tag(&raw), Ok(raw));
        }
    }

    #[test]
    fn unparsable_image_has_the_kubelets_text() {
        for (image, path) in [
            ("Nginx", "library/Nginx"),               // R27
            ("team/App", "team/App"),                 // R27
            ("FAILED_IMAGE", "library/FAILED_IMAGE"), // R27
        ] {
            let text = format!(
                "Failed to apply default image tag \"{image}\": couldn't parse image name \
                 \"{image}\": invalid reference format: repository name ({path}) must be lowercase"
            );
            let found = image_with_default_tag(image).map_err(|error| error.to_string());
            assert_eq!(found, Err(text));
        }
    }

    #[test]
    fn unknown_policy_names_the_three_values() {
        assert_eq!(
            "Foo".parse::<PullPolicy>(),
            Err(r#"Unsupported value: "Foo": supported values: "Always", "IfNotPresent", "Never""#
                .to_owned())
        );
        assert_eq!("Never".parse(), Ok(PullPolicy::Never));
    }
}
