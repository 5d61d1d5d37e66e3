//! OCI image layouts (image-spec, "Image Layout Specification") as a source.

use std::collections::BTreeMap;
use std::path::Path;

use oci_model::{Descriptor, Digest, ImageIndex, Manifest, Repository, Tag};

use super::intake::{Found, Intake, read};
use super::{ImportOptions, Offline, TransferError, TransferReport};

/// Annotation with the name of an entry (image-spec, "Pre-Defined Annotation Keys").
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Largest index of a layout, in bytes.
const INDEX_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Imports every entry of the layout into the repository.
pub(super) fn import(
    offline: &Offline,
    source: &Path,
    repository: &str,
    options: ImportOptions,
) -> Result<TransferReport, TransferError> {
    let no_repository = |_| TransferError::NoRepository { name: repository.to_owned() };
    let repository = Repository::new(repository).map_err(no_repository)?;
    let index = read_index(source)?;
    let locate = |digest: &Digest| {
        source.join("blobs").join(digest.algorithm().name()).join(digest.encoded())
    };
    let mut intake = Intake::open(offline, options)?;
    let mut found: BTreeMap<Digest, Found> = BTreeMap::new();
    let mut queue: Vec<Descriptor> = index.manifests;
    queue.retain(|entry| !options.tagged_only || entry.annotations.contains_key(REF_NAME));
    while let Some(entry) = queue.pop() {
        if entry.media_type.manifest_kind().is_none() {
            intake.report.problem(entry.digest.to_string(), "it is not a manifest");
            continue;
        }
        let is_new = !found.contains_key(&entry.digest);
        let manifest = found.entry(entry.digest).or_insert_with(|| Found {
            digest: entry.digest,
            media_type: Some(entry.media_type.clone()),
            tags: Vec::new(),
        });
        if let Some(name) = entry.annotations.get(REF_NAME) {
            match tag(name) {
                Some(tag) if !manifest.tags.contains(&tag) => manifest.tags.push(tag),
                Some(_) => {}
                None => {
                    let reason = "its name holds no tag; it is there by its digest";
                    intake.report.problem(name.clone(), reason);
                }
            }
        }
        if !is_new {
            continue;
        }
        // What cannot be read is reported when it is taken in.
        if let Ok(manifest) = read(&locate(&entry.digest), manifest)
            && let Manifest::Index(index) = manifest.parsed()
        {
            let children = index.manifests.iter().cloned().map(|mut child| {
                // Names count at the top only.
                child.annotations.remove(REF_NAME);
                child
            });
            queue.extend(children.filter(|child| child.media_type.manifest_kind().is_some()));
        }
    }
    intake.repository(&repository, found.into_values().collect(), &locate)?;
    Ok(intake.close())
}

/// The tag in an entry's name, which may be a whole reference.
fn tag(name: &str) -> Option<Tag> {
    let last = name.rsplit('/').next().unwrap_or(name);
    Tag::new(last.rsplit(':').next().unwrap_or(last)).ok()
}

/// The index of a layout.
pub(super) fn read_index(layout: &Path) -> Result<ImageIndex, TransferError> {
    let not_a = || TransferError::NotA { path: layout.to_owned(), expected: "an OCI image layout" };
    if !layout.join("oci-layout").is_file() {
        return Err(not_a());
    }
    let path = layout.join("index.json");
    let failed = |source| TransferError::File { path: path.clone(), source };
    if std::fs::metadata(&path).map_err(failed)?.len() > INDEX_BYTES_MAX {
        return Err(not_a());
    }
    let bytes = std::fs::read(&path).map_err(failed)?;
    serde_json::from_slice(&bytes).map_err(|error| failed(std::io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_entry_is_a_tag_or_a_reference_with_one() {
        for (name, expected) in [
            ("v1", Some("v1")),
            ("registry.example/team/app:v2", Some("v2")),
            ("registry.example:5000/app:3", Some("3")),
            ("no tag at all", None),
        ] {
            assert_eq!(tag(name).as_ref().map(Tag::as_str), expected, "{name}");
        }
    }
}
