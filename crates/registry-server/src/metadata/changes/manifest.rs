//! Manifests.

use bytes::Bytes;
use oci_model::{Digest, MediaType, Repository, Tag};
use redb::ReadableTable as _;
use serde::{Deserialize, Serialize};

use super::{ChangeError, Effect, Outcome, Stamp};
use crate::metadata::tables::{
    Tables, decode_kept, decode_manifest, encode_kept, encode_manifest, ref_name, upper_bound,
};

/// A manifest to store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NewManifest {
    pub(crate) repository: Repository,
    pub(crate) digest: Digest,
    pub(crate) media_type: MediaType,
    /// Verbatim.
    #[serde(with = "super::text")]
    pub(crate) bytes: Bytes,
    pub(crate) tags: Vec<Tag>,
    /// What every tag has to name for them to be moved.
    pub(crate) expected: Option<Expected>,
    pub(crate) children: Vec<Child>,
    /// The subject, and the descriptor (JSON) by which this manifest is listed at it.
    #[serde(default, with = "super::text::of_digest")]
    pub(crate) subject: Option<(Digest, Vec<u8>)>,
}

/// What a tag has to name before it is moved (RFC 9110, conditional requests).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Expected {
    /// Nothing: it must not exist (`If-None-Match: *`).
    Nothing,
    /// Something, whatever (`If-Match: *`).
    Anything,
    /// This manifest (`If-Match: "<digest>"`).
    Manifest(Digest),
}

/// Something that a manifest points to and that the repository must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Child {
    /// A config or layer.
    Blob(Digest),
    /// An entry of an index: a manifest, or whatever else somebody put into one.
    Entry(Digest),
}

/// Stores the manifest and moves its tags to it.
pub(super) fn put(
    manifest: &NewManifest,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let name = manifest.repository.as_str();
    let digest = manifest.digest.to_string();
    let key = (name, digest.as_str());
    if let Some(expected) = manifest.expected {
        for tag in &manifest.tags {
            let named = tables.tags.get((name, tag.as_str()))?;
            let holds = match (expected, named.as_ref().map(|digest| digest.value())) {
                (Expected::Nothing, named) => named.is_none(),
                (Expected::Anything, named) => named.is_some(),
                (Expected::Manifest(wanted), named) => named == Some(&wanted.to_string()[..]),
            };
            if !holds {
                return Err(ChangeError::NotAsExpected(tag.to_string()));
            }
        }
    }
    if tables.manifests.get(key)?.is_none() {
        insert(manifest, &digest, stamp, tables, outcome)?;
    }
    for tag in &manifest.tags {
        let tag = tag.as_str();
        let former = tables.tags.insert((name, tag), digest.as_str())?;
        if former.as_ref().is_some_and(|former| former.value() == digest) {
            continue;
        }
        if let Some(former) = former {
            tables.tag_targets.remove((name, former.value(), tag))?;
        }
        tables.tag_targets.insert((name, digest.as_str(), tag), ())?;
        outcome.changed.insert(name.to_owned());
    }
    Ok(())
}

fn insert(
    manifest: &NewManifest,
    digest: &str,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let name = manifest.repository.as_str();
    let mut kept = Vec::new();
    for child in &manifest.children {
        let (Child::Blob(child_digest) | Child::Entry(child_digest)) = child;
        let text = child_digest.to_string();
        if tables.links.get((name, text.as_str()))?.is_some() {
            kept.push(*child_digest);
            continue;
        }
        let found = match child {
            Child::Blob(_) => false,
            Child::Entry(_) => tables.manifests.get((name, text.as_str()))?.is_some(),
        };
        if !found {
            return Err(ChangeError::Missing(*child_digest));
        }
    }
    kept.sort();
    kept.dedup();
    let row = encode_manifest(manifest.media_type.as_str(), &manifest.bytes);
    tables.manifests.insert((name, digest), row.as_slice())?;
    tables.kept.insert((name, digest), encode_kept(&kept).as_str())?;
    outcome.effects.push(Effect::Keep(ref_name(name, digest), kept));
    for child in &manifest.children {
        let (Child::Blob(child) | Child::Entry(child)) = child;
        tables.uses.insert((name, child.to_string().as_str(), digest), ())?;
    }
    if let Some((subject, descriptor)) = &manifest.subject {
        let subject = subject.to_string();
        tables.referrers.insert((name, subject.as_str(), digest), descriptor.as_slice())?;
    }
    if tables.repositories.get(name)?.is_none() {
        tables.repositories.insert(name, stamp.at / 1000)?;
    }
    outcome.changed.insert(name.to_owned());
    Ok(())
}

/// Removes the manifest and every tag of it.
pub(super) fn delete(
    repository: &Repository,
    digest: &Digest,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let (name, digest) = (repository.as_str(), digest.to_string());
    let key = (name, digest.as_str());
    let Some(former) = tables.manifests.remove(key)? else {
        return Err(ChangeError::Unknown);
    };
    let kept = tables.kept.remove(key)?.map(|kept| decode_kept(kept.value()));
    outcome.effects.push(Effect::Release(ref_name(name, &digest), kept.unwrap_or_default()));
    let end = upper_bound(&digest);
    let tags: Vec<String> = tables
        .tag_targets
        .range((name, digest.as_str(), "")..(name, end.as_str(), ""))?
        .map(|row| row.map(|(key, _)| key.value().2.to_owned()))
        .collect::<Result<_, _>>()?;
    for tag in &tags {
        tables.tags.remove((name, tag.as_str()))?;
        tables.tag_targets.remove((name, digest.as_str(), tag.as_str()))?;
    }
    // The manifest itself says what else points from it.
    let parsed = decode_manifest(former.value()).and_then(|(media_type, bytes)| {
        let media_type = MediaType::new(media_type);
        oci_model::RawManifest::parse(Some(&media_type), bytes.to_vec()).ok()
    });
    if let Some(manifest) = parsed {
        for child in manifest.parsed().references() {
            let child = child.digest.to_string();
            tables.uses.remove((name, child.as_str(), digest.as_str()))?;
        }
        if let Some(subject) = manifest.parsed().subject() {
            let subject = subject.digest.to_string();
            tables.referrers.remove((name, subject.as_str(), digest.as_str()))?;
        }
    }
    outcome.changed.insert(name.to_owned());
    Ok(())
}
