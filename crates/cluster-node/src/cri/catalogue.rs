//! The images of the node as CRI sees them: one per config digest, under all its names.

use std::collections::{BTreeMap, HashMap};

use oci_model::{Digest, Reference};

use super::message::{Image, ImageSpec, Int64Value};
use crate::images::store::{ImageError, ImageStore, LocalImage};

/// Names that stand for one image.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Digest of the config: `Image.id`, and `image_ref` of a pull.
    pub(super) id: Digest,
    /// Names with tag or digest, each with what it stands for.
    pub(super) names: Vec<(Reference, LocalImage)>,
}

/// What is on the node at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Catalogue(Vec<Entry>);

/// Why a text names no one image.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text} is the beginning of several image ids")]
pub(super) struct Ambiguous {
    text: String,
}

impl Catalogue {
    /// Reads the store; an image that is damaged or of another platform is left out, because its
    /// id cannot be known.
    ///
    /// # Errors
    /// The list of names cannot be read.
    pub(super) fn read(store: &ImageStore) -> Result<Self, ImageError> {
        let mut entries: BTreeMap<Digest, Vec<(Reference, LocalImage)>> = BTreeMap::new();
        for reference in store.names()? {
            match store.find(&reference) {
                Ok(Some(image)) => {
                    entries.entry(image.config_digest()).or_default().push((reference, image));
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%reference, %error, "image not listed"),
            }
        }
        Ok(Catalogue(entries.into_iter().map(|(id, names)| Entry { id, names }).collect()))
    }

    /// The image that a text stands for: an id, a name, or the beginning of one id.
    ///
    /// # Errors
    /// The text is no name of an image and begins several ids.
    pub(super) fn find(&self, text: &str) -> Result<Option<&Entry>, Ambiguous> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if let Some(entry) = self.0.iter().find(|entry| entry.id.encoded() == hex) {
            return Ok(Some(entry));
        }
        if let Ok(reference) = text.parse::<Reference>()
            && let Some(entry) = self.0.iter().find(|entry| entry.answers_to(&reference))
        {
            return Ok(Some(entry));
        }
        let is_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        if hex.is_empty() || !hex.chars().all(is_hex) {
            return Ok(None);
        }
        let mut begun = self.0.iter().filter(|entry| entry.id.encoded().starts_with(hex));
        match (begun.next(), begun.next()) {
            (Some(_), Some(_)) => Err(Ambiguous { text: text.to_owned() }),
            (found, _) => Ok(found),
        }
    }

    /// The images that a filter asks for: all, or those of one repository, or one.
    ///
    /// # Errors
    /// The filter begins several ids.
    pub(super) fn select(&self, filter: Option<&str>) -> Result<Vec<&Entry>, Ambiguous> {
        let Some(text) = filter.filter(|text| !text.is_empty()) else {
            return Ok(self.0.iter().collect());
        };
        let repository = text
            .parse::<Reference>()
            .ok()
            .filter(|reference| reference.tag().is_none() && reference.digest().is_none());
        if let Some(repository) = repository {
            let name = repository.name();
            let of_repository: Vec<&Entry> = self
                .0
                .iter()
                .filter(|entry| entry.names.iter().any(|(known, _)| known.name() == name))
                .collect();
            if !of_repository.is_empty() {
                return Ok(of_repository);
            }
        }
        Ok(self.find(text)?.into_iter().collect())
    }
}

impl Entry {
    fn answers_to(&self, reference: &Reference) -> bool {
        let wanted = reference.with_default_tag();
        self.names.iter().any(|(known, image)| match reference.digest() {
            Some(digest) => known.name() == reference.name() && image.root == *digest,
            None => *known == wanted,
        })
    }

    /// The image; all names stand for the same config.
    pub(super) fn image(&self) -> Option<&LocalImage> {
        self.names.first().map(|(_, image)| image)
    }

    /// The image as a CRI message.
    pub(super) fn message(&self, pinned: bool) -> Image {
        let mut repo_tags = Vec::new();
        let mut repo_digests = Vec::new();
        for (reference, image) in &self.names {
            let digested = format!("{}@{}", reference.name(), image.root);
            if !repo_digests.contains(&digested) {
                repo_digests.push(digested);
            }
            if reference.digest().is_none() {
                repo_tags.push(reference.to_string());
            }
        }
        let (uid, username) = user(self.image().map_or("", |image| &image.config.config.user));
        let id = self.id.to_string();
        Image {
            spec: Some(ImageSpec {
                image: id.clone(),
                annotations: HashMap::new(),
                image_ref: id.clone(),
                ..ImageSpec::default()
            }),
            id,
            repo_tags,
            repo_digests,
            // Zero would mean "not set" to the caller.
            size: self.image().map_or(1, |image| image.bytes.max(1)),
            uid,
            username,
            pinned,
        }
    }
}

/// User of the config, without its group: a number or a name, never both.
fn user(text: &str) -> (Option<Int64Value>, String) {
    let user = text.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        Ok(value) => (Some(Int64Value { value }), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::fixture::{Fixture, image};

    #[test]
    fn user_of_the_config_is_a_number_or_a_name() {
        let uid = |value| Some(Int64Value { value });
        for (text, expected) in [
            ("", (None, "")),
            ("0", (uid(0), "")),
            ("1000:1000", (uid(1000), "")),
            ("app", (None, "app")),
            ("app:staff", (None, "app")),
            (":5", (None, "")),
        ] {
            let (number, name) = user(text);
            assert_eq!((number, name.as_str()), expected, "{text}");
        }
    }

    #[test]
    fn names_of_one_config_are_one_image() {
        let fixture = Fixture::new();
        let (a, b) = (image("a", "1000"), image("b", "app"));
        fixture.put("r.example/app:1", &a);
        fixture.put("r.example/app:2", &a);
        fixture.put("docker.io/library/busybox:1", &b);
        let catalogue = Catalogue::read(&fixture.images.store).expect("a catalogue");
        let entry = catalogue.find("r.example/app:1").expect("found").expect("an image");
        let message = entry.message(false);
        assert_eq!(message.repo_tags, ["r.example/app:1", "r.example/app:2"]);
        assert_eq!(message.repo_digests, [format!("r.example/app@{}", a.root())]);
        assert_eq!(
            (message.uid, message.username.as_str()),
            (Some(Int64Value { value: 1000 }), "")
        );
        assert_eq!(message.id, a.id());
        assert!(0 < message.size);
    }

    #[test]
    fn image_is_found_by_name_digest_id_and_beginning_of_the_id() {
        let fixture = Fixture::new();
        let (a, b) = (image("a", ""), image("b", ""));
        fixture.put("r.example/app:latest", &a);
        fixture.put("docker.io/library/busybox:1", &b);
        let catalogue = Catalogue::read(&fixture.images.store).expect("a catalogue");
        let found = |text: &str| {
            let entry = catalogue.find(text).expect("not ambiguous");
            entry.map(|entry| entry.id.to_string())
        };
        let (id_a, id_b) = (a.id(), b.id());
        let hex = id_a.trim_start_matches("sha256:").to_owned();
        for text in [
            "r.example/app".to_owned(),
            "r.example/app:latest".to_owned(),
            format!("r.example/app@{}", a.root()),
            format!("r.example/app:other@{}", a.root()),
            id_a.clone(),
            hex.clone(),
            hex[..13].to_owned(),
            format!("sha256:{}", &hex[..13]),
        ] {
            assert_eq!(found(&text).as_deref(), Some(id_a.as_str()), "{text}");
        }
        assert_eq!(found("busybox:1"), Some(id_b));
        for text in [
            "busybox".to_owned(),
            "r.example/app:2".to_owned(),
            format!("r.example/app@{}", b.root()),
            "not valid".to_owned(),
            String::new(),
        ] {
            assert_eq!(found(&text), None, "{text}");
        }
    }

    #[test]
    fn beginning_of_several_ids_names_none() {
        let fixture = Fixture::new();
        for number in 0..17 {
            fixture.put(&format!("r.example/app:{number}"), &image(&number.to_string(), ""));
        }
        let catalogue = Catalogue::read(&fixture.images.store).expect("a catalogue");
        // Seventeen ids over sixteen digits: at least one digit begins two of them.
        let digits = "0123456789abcdef".chars();
        assert!(digits.into_iter().any(|digit| catalogue.find(&digit.to_string()).is_err()));
    }

    #[test]
    fn filter_takes_a_repository_or_one_image() {
        let fixture = Fixture::new();
        let (a, b, c) = (image("a", ""), image("b", ""), image("c", ""));
        fixture.put("r.example/app:1", &a);
        fixture.put("r.example/app:2", &b);
        fixture.put("r.example/other:1", &c);
        let catalogue = Catalogue::read(&fixture.images.store).expect("a catalogue");
        let count = |filter: Option<&str>| catalogue.select(filter).expect("a list").len();
        for (filter, expected) in [
            (None, 3),
            (Some(""), 3),
            (Some("r.example/app"), 2),
            (Some("r.example/app:2"), 1),
            (Some("r.example/app:3"), 0),
            (Some(c.id().as_str()), 1),
        ] {
            assert_eq!(count(filter), expected, "{filter:?}");
        }
    }
}
