//! Referrers that clients listed themselves, under the tag that the distribution-spec gives to
//! lists of registries without the API ("Referrers Tag Schema"). Repositories that were imported,
//! and clients that write both, have such tags; what they list belongs to the answer.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use oci_model::{Digest, MANIFEST_BYTES_MAX, Manifest, ManifestKind, MediaType, RawManifest, Tag};

use crate::manifests::referrer;
use crate::metadata::{Metadata, StoredManifest};
use crate::refusal::Refusal;
use crate::route::ManifestReference;

/// Longest part of the algorithm in such a tag.
const ALGORITHM_LENGTH_MAX: usize = 32;

/// Longest part of the encoded digest in such a tag.
const ENCODED_LENGTH_MAX: usize = 64;

/// Entries of a list that one request follows.
const ENTRIES_MAX: usize = 10_000;

/// Bytes of manifests that one request reads for them.
const BYTES_MAX: usize = 4 * MANIFEST_BYTES_MAX;

/// What clients listed, as far as one request follows it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Digest and descriptor (JSON) of referrers, in the order of digests.
    pub(crate) referrers: BTreeMap<String, Vec<u8>>,
    /// The last digest that was followed, if there is more behind it.
    pub(crate) cut: Option<String>,
}

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
    let Some(tag) = tag_of(subject) else { return Ok(Listed::default()) };
    let Some(index) = metadata.manifest(repository, &ManifestReference::Tag(tag))? else {
        return Ok(Listed::default());
    };
    let entries = entries(&index.media_type, &index.bytes);
    follow(&entries, subject, last, |digest| {
        Ok(metadata.manifest(repository, &ManifestReference::Digest(digest))?)
    })
}

/// Looks each entry behind `last` up, once however often it is listed.
fn follow(
    entries: &[Digest],
    subject: &Digest,
    last: &str,
    manifest: impl Fn(Digest) -> Result<Option<Arc<StoredManifest>>, Refusal>,
) -> Result<Listed, Refusal> {
    let mut listed = Listed::default();
    let seen: BTreeMap<String, Digest> =
        entries.iter().map(|digest| (digest.to_string(), *digest)).collect();
    let mut bytes = 0_usize;
    let mut before = None;
    let behind = (Bound::Excluded(last), Bound::Unbounded);
    for (followed, (key, digest)) in seen.range::<str, _>(behind).enumerate() {
        if followed >= ENTRIES_MAX || bytes >= BYTES_MAX {
            listed.cut = before;
            break;
        }
        before = Some(key.clone());
        let Some(found) = manifest(*digest)? else { continue };
        bytes = bytes.saturating_add(found.bytes.len());
        let Ok(manifest) = RawManifest::parse(Some(&found.media_type), found.bytes.to_vec()) else {
            continue;
        };
        // A truncated tag may be the list of two subjects.
        let about = manifest.parsed().subject().map(|subject| subject.digest);
        if about.is_none_or(|about| about == *subject) {
            listed.referrers.insert(key.clone(), referrer(&manifest, *digest)?);
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

    fn about_another(length: usize) -> Arc<StoredManifest> {
        let other = Digest::of(b"another subject");
        let mut bytes = format!(
            r#"{{"schemaVersion":2,"mediaType":"{0}","manifests":[],"subject":{{"mediaType":"{0}","digest":"{other}","size":1}}}}"#,
            MediaType::OCI_INDEX
        ).into_bytes();
        bytes.resize(length.max(bytes.len()), b' ');
        let digest = Digest::of(&bytes);
        Arc::new(StoredManifest { digest, media_type: MediaType::OCI_INDEX, bytes: bytes.into() })
    }

    #[test]
    fn an_entry_listed_many_times_is_looked_up_once() {
        let found = about_another(0);
        let looked_up = std::cell::Cell::new(0);
        let listed = follow(&[found.digest; 10_000], &Digest::of(b"x"), "", |_| {
            looked_up.set(looked_up.get() + 1);
            Ok(Some(Arc::clone(&found)))
        });
        assert_eq!(listed.expect("a list"), Listed::default());
        assert_eq!(looked_up.get(), 1);
    }

    #[test]
    fn a_request_reads_no_more_than_its_share_and_the_next_goes_on_behind_it() {
        let found = about_another(MANIFEST_BYTES_MAX);
        let entries: Vec<Digest> = (0..6_u8).map(|number| Digest::of(&[number])).collect();
        let mut sorted: Vec<String> = entries.iter().map(ToString::to_string).collect();
        sorted.sort();
        let looked_up = std::cell::RefCell::new(Vec::new());
        let follow = |last: &str| {
            let listed = follow(&entries, &Digest::of(b"x"), last, |digest| {
                looked_up.borrow_mut().push(digest.to_string());
                Ok(Some(Arc::clone(&found)))
            });
            listed.expect("a list").cut
        };
        assert_eq!(follow("").as_ref(), Some(&sorted[3]));
        assert_eq!(follow(&sorted[3]), None);
        assert_eq!(*looked_up.borrow(), sorted);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = entries(&MediaType::OCI_INDEX, &bytes);
        }
    }
}
