//! Content negotiation: which representation an `Accept` header asks for.

use crate::discovery::Aggregated;
use crate::error::{ApiError, Reason};

/// The form an answer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Representation {
    /// The object or list itself.
    Json,
    /// `as=Table`.
    Table,
    /// `as=PartialObjectMetadata` or its list.
    Metadata,
}

/// One entry of an `Accept` header.
struct Entry<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Entry<'_> {
    fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(have, _)| *have == name).map_or("", |(_, value)| value)
    }

    fn is_json(&self) -> bool {
        matches!(self.media, "application/json" | "application/*" | "*/*")
    }
}

fn entries(header: &str) -> impl Iterator<Item = Entry<'_>> {
    header.split(',').map(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters = parts
            .filter_map(|part| part.split_once('='))
            .map(|(name, value)| (name.trim(), value.trim().trim_matches('"')))
            .collect();
        Entry { media, parameters }
    })
}

/// The first representation of the header we can give; JSON for a missing header.
///
/// # Errors
/// 406 when nothing in the header can be given.
pub(super) fn representation(header: &str) -> Result<Representation, ApiError> {
    if header.trim().is_empty() {
        return Ok(Representation::Json);
    }
    for entry in entries(header).filter(Entry::is_json) {
        let wanted = match entry.parameter("as") {
            "" => Representation::Json,
            "Table" => Representation::Table,
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Representation::Metadata,
            _ => continue,
        };
        let known = matches!(entry.parameter("g"), "" | "meta.k8s.io")
            && matches!(entry.parameter("v"), "" | "v1" | "v1beta1");
        if wanted == Representation::Json || known {
            return Ok(wanted);
        }
    }
    Err(not_acceptable())
}

/// The aggregated discovery form the header prefers over plain JSON, if any.
pub(super) fn aggregated(header: &str) -> Option<Aggregated> {
    for entry in entries(header).filter(Entry::is_json) {
        if entry.parameter("as") == "APIGroupDiscoveryList"
            && entry.parameter("g") == "apidiscovery.k8s.io"
        {
            match entry.parameter("v") {
                "v2" => return Some(Aggregated::V2),
                "v2beta1" => return Some(Aggregated::V2Beta1),
                _ => continue,
            }
        }
        if entry.parameter("as").is_empty() {
            return None;
        }
    }
    None
}

fn not_acceptable() -> ApiError {
    ApiError::new(
        Reason::NotAcceptable,
        "only the following media types are accepted: application/json",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_entry_we_can_give_wins() {
        let rows = [
            ("", Some(Representation::Json)),
            ("*/*", Some(Representation::Json)),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Representation::Json)),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                Some(Representation::Table),
            ),
            (
                "application/json;as=Table;v=v9;g=meta.k8s.io, application/json;q=0.9",
                Some(Representation::Json),
            ),
            ("application/cbor, application/json", Some(Representation::Json)),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Some(Representation::Metadata),
            ),
            ("text/html", None),
            ("application/vnd.kubernetes.protobuf", None),
        ];
        for (header, expected) in rows {
            assert_eq!(representation(header).ok(), expected, "{header}");
        }
    }

    #[test]
    fn discovery_prefers_the_listed_order() {
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
        assert_eq!(aggregated(&format!("{v2},{beta},application/json")), Some(Aggregated::V2));
        assert_eq!(aggregated(&format!("{beta},application/json")), Some(Aggregated::V2Beta1));
        assert_eq!(aggregated("application/json, */*"), None);
    }
}
