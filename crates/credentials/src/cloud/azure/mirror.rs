//! Registries of others whose images come from one of Azure: the runtime pulls from there, and
//! needs its credential under the name of the other.

use std::str::FromStr;

use super::super::RegistryHost;

/// Images below `source` come from `target`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    source: String,
    target: RegistryHost,
}

/// Why a text names no mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    /// There is no colon between two registries.
    #[error("it is not of the form SOURCE:TARGET")]
    Form,
    /// The target can be no registry of a cloud.
    #[error("its target is no host of a registry")]
    Target,
}

impl FromStr for Mirror {
    type Err = MirrorError;

    fn from_str(text: &str) -> Result<Self, MirrorError> {
        let (source, target) = text.rsplit_once(':').ok_or(MirrorError::Form)?;
        let source = source.trim().trim_end_matches('/').to_ascii_lowercase();
        if source.is_empty() {
            return Err(MirrorError::Form);
        }
        let target = RegistryHost::of(target.trim()).ok_or(MirrorError::Target)?;
        Ok(Self { source, target })
    }
}

impl Mirror {
    /// The host, or the part of one, whose images come from elsewhere.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The registry that an image comes from, if this is its mirror: by whole components of its
    /// name, since a credential goes there.
    pub fn target_of(&self, image: &str) -> Option<&RegistryHost> {
        let rest = image.to_ascii_lowercase();
        let rest = rest.strip_prefix(&self.source)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(&self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_stands_for_whole_components_of_a_name() {
        // cloud-credentials.md 4.1: upstream takes any text that begins so.
        let mirror: Mirror = "mcr.microsoft.com/oss:team.azurecr.io".parse().expect("a mirror");
        let target = |image| mirror.target_of(image).map(RegistryHost::as_str);
        assert_eq!(target("mcr.microsoft.com/oss/app"), Some("team.azurecr.io"));
        assert_eq!(target("MCR.microsoft.com/oss"), Some("team.azurecr.io"));
        for image in ["mcr.microsoft.com/ossified/app", "mcr.microsoft.com/app", "x/oss"] {
            assert_eq!(target(image), None, "{image}");
        }
        let whole: Mirror = "mcr.microsoft.com:team.azurecr.io".parse().expect("a mirror");
        assert_eq!(whole.target_of("mcr.microsoft.com.evil.com/app"), None);
    }

    #[test]
    fn what_names_no_mirror_is_refused() {
        for (text, error) in [
            ("mcr.microsoft.com", MirrorError::Form),
            (":team.azurecr.io", MirrorError::Form),
            ("mcr.microsoft.com:", MirrorError::Target),
            ("mcr.microsoft.com:a@b.azurecr.io", MirrorError::Target),
        ] {
            assert_eq!(text.parse::<Mirror>(), Err(error), "{text}");
        }
    }
}
