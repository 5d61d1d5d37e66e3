//! JSON of manifests, read strictly: what two programs could read differently is refused.
//!
//! A registry vouches for bytes that many programs parse. Of a key that stands twice some take
//! the first and some the last; programs in Go take a key in any mixture of cases for the field.
//! A document that uses such a difference is an attack or a mistake, so it is not stored.

use std::collections::HashSet;
use std::fmt;

use oci_model::{Descriptor, Manifest};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// How deep a document may nest; images need four levels.
const DEPTH_MAX: usize = 32;

/// Entries that one list or object may have.
const ENTRIES_MAX: usize = 10_000;

/// Largest size that every program can hold, in bytes.
const SIZE_MAX: u64 = i64::MAX as u64;

/// Fields of manifests and indexes.
const DOCUMENT_FIELDS: &[&str] = &[
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "fsLayers",
    "manifests",
    "blobs",
    "subject",
    "annotations",
];

/// Fields of descriptors.
const DESCRIPTOR_FIELDS: &[&str] =
    &["mediaType", "digest", "size", "urls", "annotations", "data", "artifactType", "platform"];

/// Fails if the bytes are no JSON object that all programs read alike.
///
/// # Errors
/// What is wrong, for people.
pub(crate) fn check_json(bytes: &[u8]) -> Result<(), String> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = Checked { place: Place::Document, depth: 0 };
    let checked = seed.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    checked.map_err(|error| error.to_string())
}

/// Fails if a descriptor has a size that not every program can hold.
///
/// # Errors
/// What is wrong, for people.
pub(crate) fn check_sizes(manifest: &Manifest) -> Result<(), String> {
    let descriptors: Box<dyn Iterator<Item = &Descriptor>> = match manifest {
        Manifest::Image(image) => Box::new(image.layers.iter().chain([&image.config])),
        Manifest::Index(index) => Box::new(index.manifests.iter()),
    };
    match descriptors.chain(manifest.subject()).find(|descriptor| descriptor.size > SIZE_MAX) {
        Some(descriptor) => Err(format!("size {} is out of range", descriptor.size)),
        None => Ok(()),
    }
}

/// What a value is, as far as its fields are known.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Document,
    Descriptors,
    Descriptor,
    Elsewhere,
}

impl Place {
    /// The fields that an object here has.
    const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Document => DOCUMENT_FIELDS,
            Self::Descriptor => DESCRIPTOR_FIELDS,
            Self::Descriptors | Self::Elsewhere => &[],
        }
    }

    fn below(self, key: &str) -> Self {
        match (self, key) {
            (Self::Document, "config" | "subject") => Self::Descriptor,
            (Self::Document, "layers" | "manifests") => Self::Descriptors,
            _ => Self::Elsewhere,
        }
    }
}

/// Reads a value and keeps nothing of it.
#[derive(Clone, Copy)]
struct Checked {
    place: Place,
    depth: usize,
}

impl Checked {
    fn inner<E: serde::de::Error>(self, place: Place) -> Result<Self, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom(format!("more than {DEPTH_MAX} levels")));
        }
        Ok(Self { place, depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Checked {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.place {
            Place::Document => deserializer.deserialize_map(self),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let place = match self.place {
            Place::Descriptors => Place::Descriptor,
            _ => Place::Elsewhere,
        };
        let inner = self.inner(place)?;
        let mut entries = 0;
        while list.next_element_seed(inner)?.is_some() {
            entries += 1;
            check_entries(entries)?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if let Some(field) = self.place.fields().iter().find(|field| is_like(field, &key)) {
                let text = format!("{key:?} could be taken for {field:?}");
                return Err(A::Error::custom(text));
            }
            map.next_value_seed(self.inner(self.place.below(&key))?)?;
            if keys.contains(&key) {
                return Err(A::Error::custom(format!("{key:?} stands twice")));
            }
            keys.insert(key);
            check_entries(keys.len())?;
        }
        Ok(())
    }
}

fn check_entries<E: serde::de::Error>(entries: usize) -> Result<(), E> {
    if entries > ENTRIES_MAX {
        return Err(E::custom(format!("more than {ENTRIES_MAX} entries")));
    }
    Ok(())
}

/// Whether a key is not the field, but Go's JSON package takes it for the field: it ignores case,
/// in which the Kelvin sign is a k and the long s an s.
fn is_like(field: &str, key: &str) -> bool {
    let fold = |character: char| match character {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        other => other.to_ascii_lowercase(),
    };
    field != key && field.chars().map(fold).eq(key.chars().map(fold))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_documents_pass() {
        for document in [
            "{}",
            r#" {"schemaVersion":2,"config":{"size":1,"annotations":{"Size":"a"}},"x":[{"A":1,"a":2}]} "#,
            r#"{"annotations":{"Maintainer":"a","maintainer":"b"},"layers":null,"n":-1.5e9,"b":true}"#,
        ] {
            assert_eq!(check_json(document.as_bytes()), Ok(()), "{document}");
        }
    }

    #[test]
    fn what_programs_read_differently_is_refused() {
        let deep = format!("{{\"x\":{}1{}}}", "[".repeat(40), "]".repeat(40));
        let long = format!("{{\"layers\":[{}1]}}", "1,".repeat(10_000));
        let wide: Vec<String> = (0..10_001).map(|n| format!("\"k{n}\":1")).collect();
        let wide = format!("{{{}}}", wide.join(","));
        for (document, expected) in [
            (r#"{"config":{},"config":{}}"#, "\"config\" stands twice"),
            (r#"{"layers":[{"digest":"a","digest":"b"}]}"#, "\"digest\" stands twice"),
            (r#"{"x":{"y":[{"z":1,"z":1}]}}"#, "\"z\" stands twice"),
            (r#"{"conf\u0069g":{},"config":{}}"#, "\"config\" stands twice"),
            (r#"{"Manifests":[]}"#, "could be taken for \"manifests\""),
            ("{\"manife\u{17f}ts\":[]}", "could be taken for \"manifests\""),
            (r#"{"manifests":[{"DIGEST":""}]}"#, "could be taken for \"digest\""),
            (&deep, "more than 32 levels"),
            (&long, "more than 10000 entries"),
            (&wide, "more than 10000 entries"),
            ("[]", "expected a JSON object"),
            ("{} {}", "trailing characters"),
            ("{\"x\":\"\u{0}\"}", "control character"),
            ("", "EOF"),
        ] {
            let error = check_json(document.as_bytes()).expect_err(document);
            assert!(error.contains(expected), "{error}");
        }
        let error = check_json(b"{\"a\":\"\xff\"}").expect_err("not UTF-8");
        assert!(error.contains("unicode"), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = check_json(&bytes);
        }

        #[test]
        fn a_document_passes_if_its_keys_differ_in_more_than_case(
            keys in proptest::collection::vec("(layers|Layers|a|A|subject)", 0..4),
        ) {
            let fields: Vec<_> = keys.iter().map(|key| format!("\"{key}\":1")).collect();
            let document = format!("{{{}}}", fields.join(","));
            let distinct: HashSet<_> = keys.iter().collect();
            let fine = distinct.len() == keys.len() && !keys.iter().any(|key| key == "Layers");
            prop_assert_eq!(check_json(document.as_bytes()).is_ok(), fine, "{}", document);
        }
    }
}
