//! Annotations by the document that they belong to, as `docker buildx build --annotation`.

use std::collections::BTreeMap;

use oci_model::Platform;

/// Which document an annotation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The manifest of an image.
    Manifest,
    /// The index of several images.
    Index,
    /// The entry of an image in the index.
    ManifestDescriptor,
    /// The entry of the index in the `index.json` of an OCI layout.
    IndexDescriptor,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "manifest" => Self::Manifest,
            "index" => Self::Index,
            "manifest-descriptor" => Self::ManifestDescriptor,
            "index-descriptor" => Self::IndexDescriptor,
            _ => return None,
        })
    }
}

/// Annotations that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    wanted: Vec<(Level, Option<Platform>, String, String)>,
}

impl Annotations {
    /// Adds `[LEVEL[OS/ARCH],…:]KEY=VALUE`; without a level it is the manifest's.
    ///
    /// # Errors
    /// A text about what is wrong.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| format!("invalid annotation {text:?}, expected key=value"))?;
        let Some((levels, key)) = name.split_once(':') else {
            self.wanted.push((Level::Manifest, None, name.to_owned(), value.to_owned()));
            return Ok(());
        };
        for level in levels.split(',') {
            let (kind, platform) = match level.split_once('[') {
                None => (level, None),
                Some((kind, rest)) => {
                    let platform = rest.strip_suffix(']').ok_or_else(|| {
                        format!(
                            "invalid annotation type {level:?}, expected type and optional \
                             platform in square brackets"
                        )
                    })?;
                    let parsed: Result<Platform, _> = platform.parse();
                    (kind, Some(parsed.map_err(|error| format!("annotation {text:?}: {error}"))?))
                }
            };
            let found =
                Level::parse(kind).ok_or_else(|| format!("unknown annotation type {kind:?}"))?;
            self.wanted.push((found, platform, key.to_owned(), value.to_owned()));
        }
        Ok(())
    }

    /// Adds one to every manifest.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.wanted.push((Level::Manifest, None, key.into(), value.into()));
    }

    /// Whether the index is to have annotations, or an image an entry in it.
    pub fn need_an_index(&self) -> bool {
        self.wanted.iter().any(|(level, ..)| matches!(level, Level::Index))
    }

    /// Those of one document; those of a platform are stronger than those of all.
    pub(crate) fn at(&self, level: Level, of: Option<&Platform>) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for specific in [false, true] {
            for (own, platform, key, value) in &self.wanted {
                let fits = match (platform, of) {
                    (None, _) => true,
                    (Some(wish), Some(of)) => wish.normalised() == of.normalised(),
                    (Some(_), None) => false,
                };
                if *own == level && platform.is_some() == specific && fits {
                    found.insert(key.clone(), value.clone());
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(texts: &[&str], level: Level, platform: &str) -> Vec<(String, String)> {
        let mut annotations = Annotations::default();
        for text in texts {
            annotations.add(text).expect("an annotation");
        }
        let platform: Platform = platform.parse().expect("a platform");
        annotations.at(level, Some(&platform)).into_iter().collect()
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn levels_and_platforms_choose_the_document() {
        let texts = [
            "plain=1",
            "index,manifest-descriptor:both=2",
            "manifest[linux/arm64]:plain=3",
            "index-descriptor:layout=a=b",
        ];
        let (amd, arm) = ("linux/amd64", "linux/arm64");
        assert_eq!(at(&texts, Level::Manifest, amd), [pair("plain", "1")]);
        assert_eq!(at(&texts, Level::Manifest, arm), [pair("plain", "3")]);
        assert_eq!(at(&texts, Level::Index, amd), [pair("both", "2")]);
        assert_eq!(at(&texts, Level::ManifestDescriptor, amd), [pair("both", "2")]);
        assert_eq!(at(&texts, Level::IndexDescriptor, amd), [pair("layout", "a=b")]);
    }

    #[test]
    fn mistakes_are_named_as_buildx_names_them() {
        let error = |text: &str| Annotations::default().add(text).expect_err(text);
        assert_eq!(error("novalue"), "invalid annotation \"novalue\", expected key=value");
        assert_eq!(error("what:a=b"), "unknown annotation type \"what\"");
        assert!(error("manifest[linux:a=b").starts_with("invalid annotation type"));
        assert!(error("manifest[linux]:a=b").contains("invalid platform"));
    }
}
