//! Referrers that clients listed themselves, under the tag that the distribution-spec gives to
//! lists of registries without the API ("Referrers Tag Schema"). Repositories that were imported,
//! and clients that write both, have such tags; what they list belongs to the answer.

use std::collections::BTreeMap;

use oci_model::{Digest, Manifest, ManifestKind, MediaType, RawManifest, Tag};

use crate::manifests::referrer;
use crate::metadata::Metadata;
use crate::refusal::Refusal;
use crate::route::ManifestReference;

/// Longest part of the algorithm in such a tag.
const ALGORITHM_LENGTH_MAX: usize = 32;

/// Longest part of the encoded digest in such a tag.
const ENCODED_LENGTH_MAX: usize = 64;

/// Digest and descriptor (JSON) of referrers, in the order of digests.
pub(crate) type Listed = BTreeMap<String, Vec<u8>>;

/// The tag under which clients list the referrers of `subject`.
pub(crate) fn tag_of(subject: &Digest) -> Option<Tag> {
    let legal = |part: &str, length_max: usize| -> String {
        let keep = |character: char| match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' => character,
            _ => '-',
        };
        part.chars().take(length_max).map(keep).collect()
    };
    let algorithm = legal(subject.algorithm().name(), ALGORITHM_LENGTH_MAX);
    let encoded = legal(&subject.encoded(), ENCODED_LENGTH_MAX);
    Tag::new(&format!("{algorithm}-{encoded}")).ok()
}

/// The referrers behind `last` that clients listed and the repository still holds. Their
/// descriptors are made from the manifests: what a client wrote about them need not be true.
pub(crate) fn listed(
    metadata: &Metadata,
    repository: &oci_model::Repository,
    subject: &Digest,
    last: &str,
) -> Result<Listed, Refusal> {
    let mut listed = Listed::new();
    let Some(tag) = tag_of(subject) else { return Ok(listed) };
    let Some(index) = metadata.manifest(repository, &ManifestReference::Tag(tag))? else {
        return Ok(listed);
    };
    for digest in entries(&index.media_type, &index.bytes) {
        let key = digest.to_string();
        if key.as_str() <= last || listed.contains_key(&key) {
            continue;
        }
        let reference = ManifestReference::Digest(digest);
        let Some(found) = metadata.manifest(repository, &reference)? else { continue };
        let Ok(manifest) = RawManifest::parse(Some(&found.media_type), found.bytes.to_vec()) else {
            continue;
        };
        // A truncated tag may be the list of two subjects.
        let about = manifest.parsed().subject().map(|subject| subject.digest);
        if about.is_none_or(|about| about == *subject) {
            listed.insert(key, referrer(&manifest, digest)?);
        }
    }
    Ok(listed)
}

/// The digests of the manifests in an index; none of anything else.
fn entries(media_type: &MediaType, bytes: &[u8]) -> Vec<Digest> {
    let Ok(index) = RawManifest::parse(Some(media_type), bytes.to_vec()) else {
        return Vec::new();
    };
    let Manifest::Index(index) = index.parsed() else { return Vec::new() };
    let is_manifest = |media_type: &MediaType| {
        matches!(media_type.manifest_kind(), Some(ManifestKind::Image | ManifestKind::Index))
    };
    let manifests = index.manifests.iter().filter(|entry| is_manifest(&entry.media_type));
    manifests.map(|entry| entry.digest).collect()
}

#[cfg(test)]
mod tests {
    use oci_model::{Algorithm, Hasher};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tags_are_the_digest_cut_to_what_a_tag_may_be() {
        let digest = Digest::of(b"x");
        assert_eq!(
            tag_of(&digest).map(|tag| tag.to_string()),
            Some(format!("sha256-{}", digest.encoded()))
        );
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"x");
        let digest = hasher.finish();
        assert_eq!(
            tag_of(&digest).map(|tag| tag.to_string()),
            Some(format!("sha512-{}", &digest.encoded()[..64]))
        );
    }

    #[test]
    fn entries_are_the_manifests_of_an_index() {
        let digest = Digest::of(b"x");
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[
                {{"mediaType":"{}","digest":"{digest}","size":1}},
                {{"mediaType":"text/plain","digest":"{digest}","size":1}}]}}"#,
            MediaType::OCI_MANIFEST
        );
        assert_eq!(entries(&MediaType::OCI_INDEX, index.as_bytes()), [digest]);
        assert_eq!(entries(&MediaType::OCI_MANIFEST, index.as_bytes()), []);
        assert_eq!(entries(&MediaType::OCI_INDEX, b"{}"), []);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = entries(&MediaType::OCI_INDEX, &bytes);
        }
    }
}
