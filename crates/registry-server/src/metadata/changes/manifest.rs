//! Manifests.

use bytes::Bytes;
use oci_model::{Digest, MediaType, Repository, Tag};
use redb::ReadableTable as _;
use serde::{Deserialize, Serialize};

use super::history::{self, How, ManifestTimes};
use super::repository::{self, Origin};
use super::{ChangeError, Effect, Outcome, Stamp, policies, trash, usage};
use crate::metadata::tables::{Tables, encode_kept, encode_manifest, ref_name};
use crate::tenancy::Namespace;

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
    /// Whether it was pulled through from elsewhere: it counts to no quota.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) cached: bool,
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
    let namespace = policies::of(name, tables)?;
    for tag in &manifest.tags {
        history::check_movable(&namespace, name, tag.as_str(), Some(&digest), tables)?;
    }
    if tables.manifests.get(key)?.is_none() {
        insert(manifest, &digest, &namespace, stamp, tables, outcome)?;
    }
    for tag in &manifest.tags {
        if history::move_tag(name, tag.as_str(), Some(&digest), How::Push, stamp, tables)? {
            outcome.changed.insert(name.to_owned());
        }
    }
    Ok(())
}

fn insert(
    manifest: &NewManifest,
    digest: &str,
    namespace: &Namespace,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let name = manifest.repository.as_str();
    let mut kept = Vec::new();
    let mut needed = vec![(digest.to_owned(), manifest.bytes.len() as u64)];
    for child in &manifest.children {
        let (Child::Blob(child_digest) | Child::Entry(child_digest)) = child;
        let text = child_digest.to_string();
        if let Some(size) = tables.links.get((name, text.as_str()))?.map(|size| size.value()) {
            kept.push(*child_digest);
            needed.push((text, size));
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
    needed.sort();
    needed.dedup_by(|a, b| a.0 == b.0);
    if !manifest.cached {
        usage::hold(namespace, &needed, stamp, tables)?;
    }
    trash::revive(namespace, name, digest, tables)?;
    let times = ManifestTimes {
        pushed: stamp.at,
        by: stamp.by.clone(),
        pulled: None,
        untagged: Some(stamp.at),
        cached: manifest.cached,
    };
    history::set_times(name, digest, &times, tables)?;
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
    let origin = if manifest.cached { Origin::Elsewhere } else { Origin::Push };
    repository::know(name, origin, stamp, tables)?;
    outcome.changed.insert(name.to_owned());
    Ok(())
}

/// Removes the manifest and every tag of it.
pub(super) fn delete(
    repository: &Repository,
    digest: &Digest,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let (name, digest) = (repository.as_str(), digest.to_string());
    let namespace = policies::of(name, tables)?;
    history::check_removable(&namespace, name, &digest, tables)?;
    trash::bury(&namespace, name, &digest, How::Delete, stamp, tables, outcome)
}
