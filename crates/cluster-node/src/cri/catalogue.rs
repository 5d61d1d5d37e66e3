//! The images of the node as CRI sees them: one per config digest, under all its names.

use std::collections::HashMap;

use jiff::Timestamp;
use oci_model::Reference;

use super::message::{Image, ImageSpec, Int64Value};
use crate::images::inventory::{Inventory, InventoryError, NodeImage};
use crate::images::stored::{StoredImage, StoredName};

/// What is on the node at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Catalogue(Vec<NodeImage>);

/// Why a text names no one image.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text} is the beginning of several image ids")]
pub(super) struct Ambiguous {
    text: String,
}

impl Catalogue {
    /// Reads the store.
    ///
    /// # Errors
    /// The names cannot be read.
    pub(super) fn read(inventory: &Inventory) -> Result<Self, InventoryError> {
        inventory.list(Timestamp::now()).map(Catalogue)
    }

    /// The image that a text stands for: an id, a name, or the beginning of one id.
    ///
    /// # Errors
    /// The text is no name of an image and begins several ids.
    pub(super) fn find(&self, text: &str) -> Result<Option<&NodeImage>, Ambiguous> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if let Some(image) = self.0.iter().find(|image| image.stored.facts.id.encoded() == hex) {
            return Ok(Some(image));
        }
        if let Ok(reference) = text.parse::<Reference>()
            && let Some(image) = self.0.iter().find(|image| answers_to(&image.stored, &reference))
        {
            return Ok(Some(image));
        }
        let is_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        if hex.is_empty() || !hex.chars().all(is_hex) {
            return Ok(None);
        }
        let mut begun =
            self.0.iter().filter(|image| image.stored.facts.id.encoded().starts_with(hex));
        match (begun.next(), begun.next()) {
            (Some(_), Some(_)) => Err(Ambiguous { text: text.to_owned() }),
            (found, _) => Ok(found),
        }
    }

    /// The images that a filter asks for: all, or those of one repository, or one.
    ///
    /// # Errors
    /// The filter begins several ids.
    pub(super) fn select(&self, filter: Option<&str>) -> Result<Vec<&NodeImage>, Ambiguous> {
        let Some(text) = filter.filter(|text| !text.is_empty()) else {
            return Ok(self.0.iter().collect());
        };
        let repository = text
            .parse::<Reference>()
            .ok()
            .filter(|reference| reference.tag().is_none() && reference.digest().is_none());
        if let Some(repository) = repository {
            let name = repository.name();
            let is_of = |known: &StoredName| known.reference.name() == name;
            let of_repository: Vec<&NodeImage> =
                self.0.iter().filter(|image| image.stored.names.iter().any(is_of)).collect();
            if !of_repository.is_empty() {
                return Ok(of_repository);
            }
        }
        Ok(self.find(text)?.into_iter().collect())
    }
}

fn answers_to(image: &StoredImage, reference: &Reference) -> bool {
    let wanted = reference.with_default_tag();
    image.names.iter().any(|known| match reference.digest() {
        Some(digest) => known.reference.name() == reference.name() && known.root() == Some(*digest),
        None => known.reference == wanted,
    })
}

/// An image as a CRI message.
pub(super) fn message(image: &NodeImage) -> Image {
    let (uid, username) = user(&image.stored.facts.user);
    let id = image.id();
    Image {
        spec: Some(ImageSpec {
            image: id.clone(),
            annotations: HashMap::new(),
            image_ref: id.clone(),
            ..ImageSpec::default()
        }),
        id,
        repo_tags: image.stored.tags(),
        repo_digests: image.stored.repo_digests(),
        // Zero would mean "not set" to the caller.
        size: image.stored.facts.bytes.max(1),
        uid,
        username,
        pinned: image.pin.is_some(),
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
        let catalogue = Catalogue::read(&fixture.inventory).expect("a catalogue");
        let entry = catalogue.find("r.example/app:1").expect("found").expect("an image");
        let message = message(entry);
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
        let catalogue = Catalogue::read(&fixture.inventory).expect("a catalogue");
        let found = |text: &str| {
            let entry = catalogue.find(text).expect("not ambiguous");
            entry.map(NodeImage::id)
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
        let catalogue = Catalogue::read(&fixture.inventory).expect("a catalogue");
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
        let catalogue = Catalogue::read(&fixture.inventory).expect("a catalogue");
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
