//! Rewrites of image names: a node serves an image from another name than the pod says.

use oci_model::{Reference, ReferenceError};

/// Registry name of images that exist on one node of ours only: nothing is ever asked over the
/// network.
pub const LOCAL_REGISTRY: &str = "shipway.local";

/// Serves every image whose name matches from another name (`shipway up --image-mirror`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageMirror {
    /// Repository with registry, without tag: `gcr.io/kaniko-project/executor`. A trailing `/*`
    /// matches everything below.
    pub from: String,
    /// What is used instead: with a tag or digest it is used as it is; without, the tag or digest
    /// of the original is appended.
    pub to: String,
}

impl ImageMirror {
    /// The repository that stands for this one, if it matches.
    fn target_of(&self, repository: &str) -> Option<String> {
        let Some(prefix) = self.from.strip_suffix("/*") else {
            return (self.from == repository).then(|| self.to.clone());
        };
        let rest = repository.strip_prefix(prefix).filter(|rest| rest.starts_with('/'))?;
        Some(format!("{}{rest}", self.to.trim_end_matches('/')))
    }
}

/// The name that the first matching mirror gives an image; `None` if none matches.
///
/// # Errors
/// What that mirror makes of the name is no reference.
pub fn mirrored(
    mirrors: &[ImageMirror],
    reference: &Reference,
) -> Option<Result<Reference, ReferenceError>> {
    let name = reference.name();
    let target = mirrors.iter().find_map(|mirror| mirror.target_of(&name))?;
    Some(target.parse::<Reference>().map(|target| {
        if target.tag().is_some() || target.digest().is_some() {
            return target;
        }
        match (reference.digest(), reference.tag()) {
            (Some(digest), _) => target.with_digest(*digest),
            (None, Some(tag)) => target.with_tag(tag.clone()),
            (None, None) => target,
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(from: &str, to: &str) -> ImageMirror {
        ImageMirror { from: from.to_owned(), to: to.to_owned() }
    }

    fn rewritten(mirrors: &[ImageMirror], image: &str) -> Option<Result<String, ReferenceError>> {
        let reference = image.parse().expect("a reference");
        mirrored(mirrors, &reference).map(|target| target.map(|target| target.to_string()))
    }

    #[test]
    fn mirrors_match_whole_names_or_prefixes_and_the_first_counts() {
        let mirrors = [
            mirror("a.example/x", "b.example/y"),
            mirror("c.example/*", "d.example/cache/"),
            mirror("c.example/team/app", "never.example/app"),
            mirror("docker.io/library/*", "e.example/hub"),
        ];
        for (image, expected) in [
            ("a.example/x:1", Some("b.example/y:1")),
            ("a.example/xy:1", None),
            ("a.example/x/z:1", None),
            ("c.example/team/app:2", Some("d.example/cache/team/app:2")),
            ("c.example.org/app:2", None),
            ("busybox", Some("e.example/hub/busybox")),
            ("e.example/app", None),
        ] {
            let got = rewritten(&mirrors, image).map(|target| target.expect("a reference"));
            assert_eq!(got.as_deref(), expected, "{image}");
        }
    }

    #[test]
    fn target_has_its_own_tag_or_digest_or_the_originals() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let by_digest = format!("a.example/x:1@{digest}");
        for (to, image, expected) in [
            ("b.example/y:9", "a.example/x:1", "b.example/y:9".to_owned()),
            ("b.example/y:9", by_digest.as_str(), "b.example/y:9".to_owned()),
            ("b.example/y", by_digest.as_str(), format!("b.example/y@{digest}")),
            ("b.example/y", "a.example/x", "b.example/y".to_owned()),
        ] {
            let got = rewritten(&[mirror("a.example/x", to)], image).expect("it matches");
            assert_eq!(got.expect("a reference"), expected, "{image} by {to}");
        }
        assert!(matches!(rewritten(&[mirror("a.example/x", "B C")], "a.example/x"), Some(Err(_))));
    }
}
