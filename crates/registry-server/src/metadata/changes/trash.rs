//! What was deleted and can be restored.
//!
//! A manifest in the trash keeps its blobs: its row in `kept` and the ref of the blob store stay,
//! and it counts in its namespace. The manifest itself moves to a table of its own, so that
//! nothing that serves or lists manifests has to know about the trash.

use oci_model::{Digest, MediaType, Repository, Tag};
use redb::ReadableTable as _;
use serde::{Deserialize, Serialize};

use super::history::{self, How, ManifestTimes};
use super::{ChangeError, Effect, Outcome, Reply, Stamp, blob, policies, repository, usage};
use crate::metadata::tables::{
    BlobState, Tables, decode_kept, decode_manifest, read_json, ref_name, upper_bound, write_json,
};
use crate::tenancy::Namespace;

/// Something in the trash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Buried {
    /// The manifest, or what the tag named.
    pub(crate) digest: String,
    /// The tags that went with it; none for a tag alone.
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) by: String,
    pub(crate) how: How,
    /// Milliseconds since 1970 when it goes for good.
    pub(crate) until: u64,
    #[serde(default)]
    pub(crate) times: ManifestTimes,
    /// Subject and descriptor (JSON) of a referrer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<(String, String)>,
}

/// What to restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restore {
    pub(crate) repository: Repository,
    /// A tag to set again; without it a manifest comes back with the tags that it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tag: Option<Tag>,
    /// The manifest; without it what the tag named before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<Digest>,
}

/// What to empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EmptyTrash {
    /// Everything of this repository, or of all below this prefix, whatever its time. Without
    /// it, only what is over its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) everything_below: Option<String>,
}

/// Takes a manifest and its tags out of the repository, into the trash if there is one.
pub(super) fn bury(
    namespace: &Namespace,
    name: &str,
    digest: &str,
    how: How,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let key = (name, digest);
    let Some(row) = tables.manifests.remove(key)? else { return Err(ChangeError::Unknown) };
    let tags = history::tags_of(name, digest, tables)?;
    for tag in &tags {
        history::move_tag(name, tag, None, how, stamp, tables)?;
    }
    // The manifest itself says what else points from it.
    let mut subject = None;
    if let Some(manifest) = parse(row.value()) {
        for child in manifest.parsed().references() {
            let child = child.digest.to_string();
            tables.uses.remove((name, child.as_str(), digest))?;
        }
        if let Some(of) = manifest.parsed().subject() {
            let of = of.digest.to_string();
            let descriptor = tables.referrers.remove((name, of.as_str(), digest))?;
            subject = descriptor.map(|row| (of, String::from_utf8_lossy(row.value()).into_owned()));
        }
    }
    let times = history::times(name, digest, tables)?.unwrap_or_default();
    // What was pulled through can be had again.
    if namespace.trash.0 == 0 || times.cached {
        forget(namespace, name, digest, &times, tables, outcome)?;
    } else {
        let buried = Buried {
            digest: digest.to_owned(),
            tags,
            at: stamp.at,
            by: stamp.by.clone(),
            how,
            until: stamp.at.saturating_add(namespace.trash.milliseconds()),
            times,
            subject,
        };
        tables.trash_manifests.insert(key, row.value())?;
        tables.trash.insert(key, write_json(&buried).as_slice())?;
    }
    outcome.changed.insert(name.to_owned());
    repository::forget_if_empty(name, tables, outcome)
}

/// Puts a deleted tag into the trash.
pub(super) fn bury_tag(
    namespace: &Namespace,
    name: &str,
    tag: &str,
    digest: &str,
    how: How,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    if namespace.trash.0 == 0 {
        return Ok(());
    }
    let buried = Buried {
        digest: digest.to_owned(),
        tags: Vec::new(),
        at: stamp.at,
        by: stamp.by.clone(),
        how,
        until: stamp.at.saturating_add(namespace.trash.milliseconds()),
        times: ManifestTimes::default(),
        subject: None,
    };
    tables.trash.insert((name, tag), write_json(&buried).as_slice())?;
    Ok(())
}

/// A manifest that is nowhere any more keeps nothing.
fn forget(
    namespace: &Namespace,
    name: &str,
    digest: &str,
    times: &ManifestTimes,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let kept = tables.kept.remove((name, digest))?;
    let kept = kept.map(|kept| decode_kept(kept.value())).unwrap_or_default();
    if !times.cached {
        usage::release(&namespace.prefix, &usage::needs(digest, &kept), tables)?;
    }
    tables.manifest_times.remove((name, digest))?;
    outcome.effects.push(Effect::Release(ref_name(name, digest), kept));
    Ok(())
}

/// Takes a manifest that is pushed again out of the trash; it counts as it did, once.
pub(super) fn revive(
    namespace: &Namespace,
    name: &str,
    digest: &str,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    if tables.trash_manifests.remove((name, digest))?.is_none() {
        return Ok(());
    }
    tables.trash.remove((name, digest))?;
    // Its blobs may have been other ones: an entry of an index that is a blob now.
    let kept = tables.kept.remove((name, digest))?;
    let kept = kept.map(|kept| decode_kept(kept.value())).unwrap_or_default();
    usage::release(&namespace.prefix, &usage::needs(digest, &kept), tables)
}

/// Sets a tag back, or brings a manifest back with its tags.
pub(super) fn restore(
    wanted: &Restore,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let name = wanted.repository.as_str();
    let namespace = policies::of(name, tables)?;
    let digest = match (&wanted.digest, &wanted.tag) {
        (Some(digest), _) => digest.to_string(),
        (None, Some(tag)) => former(name, tag.as_str(), tables)?.ok_or(ChangeError::Unknown)?,
        (None, None) => return Err(ChangeError::Unknown),
    };
    let mut restored = Vec::new();
    let tags = exhume(&namespace, name, &digest, stamp, tables, outcome, &mut restored)?;
    let tags = match &wanted.tag {
        Some(tag) => vec![tag.to_string()],
        None => tags,
    };
    let mut set = Vec::new();
    for tag in tags {
        if wanted.tag.is_none() && tables.tags.get((name, tag.as_str()))?.is_some() {
            // It names something newer, which stays.
            continue;
        }
        history::check_movable(&namespace, name, &tag, Some(&digest), tables)?;
        history::move_tag(name, &tag, Some(&digest), How::Restore, stamp, tables)?;
        tables.trash.remove((name, tag.as_str()))?;
        set.push(tag);
    }
    outcome.changed.insert(name.to_owned());
    outcome.reply = Reply::Restored { manifests: restored, tags: set };
    Ok(())
}

/// What the tag named before: by the trash if it is gone, else by its last move.
fn former(name: &str, tag: &str, tables: &Tables<'_>) -> Result<Option<String>, ChangeError> {
    if tables.tags.get((name, tag))?.is_none()
        && let Some(row) = tables.trash.get((name, tag))?
    {
        return Ok(Some(read_json::<Buried>("trash", tag, row.value())?.digest));
    }
    let moves = tables.tag_history.range((name, tag, 0)..=(name, tag, u64::MAX))?;
    for row in moves.rev() {
        let (_, row) = row?;
        let moved: history::TagMove = read_json("tag_history", tag, row.value())?;
        if moved.old.is_some() {
            return Ok(moved.old);
        }
    }
    Ok(None)
}

/// Makes sure that the manifest is live; returns the tags that it had when it was deleted.
fn exhume(
    namespace: &Namespace,
    name: &str,
    digest: &str,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
    restored: &mut Vec<String>,
) -> Result<Vec<String>, ChangeError> {
    let key = (name, digest);
    if tables.manifests.get(key)?.is_some() {
        return Ok(Vec::new());
    }
    let Some(row) = tables.trash_manifests.remove(key)? else { return Err(ChangeError::Unknown) };
    let buried: Buried = match tables.trash.remove(key)? {
        Some(row) => read_json("trash", digest, row.value())?,
        None => return Err(ChangeError::Unknown),
    };
    let kept = match tables.kept.get(key)? {
        Some(kept) => decode_kept(kept.value()),
        None => Vec::new(),
    };
    for blob in &kept {
        relink(namespace, name, blob, stamp, tables)?;
    }
    tables.manifests.insert(key, row.value())?;
    if let Some(manifest) = parse(row.value()) {
        for child in manifest.parsed().references() {
            let text = child.digest.to_string();
            if tables.links.get((name, text.as_str()))?.is_none() {
                // An entry of an index comes back with it. One that is nowhere is missing now as
                // in an index that came without it.
                match exhume(namespace, name, &text, stamp, tables, outcome, restored) {
                    Ok(_) | Err(ChangeError::Unknown) => {}
                    Err(error) => return Err(error),
                }
            }
            tables.uses.insert((name, text.as_str(), digest), ())?;
        }
    }
    if let Some((subject, descriptor)) = &buried.subject {
        tables.referrers.insert((name, subject.as_str(), digest), descriptor.as_bytes())?;
    }
    let times = ManifestTimes { untagged: Some(stamp.at), ..buried.times };
    history::set_times(name, digest, &times, tables)?;
    repository::know(name, repository::Origin::Push, stamp, tables)?;
    // They were kept all the time; this proves it.
    outcome.effects.push(Effect::Keep(ref_name(name, digest), kept));
    restored.push(digest.to_owned());
    Ok(buried.tags)
}

/// Lets the repository show a blob again.
fn relink(
    namespace: &Namespace,
    name: &str,
    digest: &Digest,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    let text = digest.to_string();
    if tables.links.get((name, text.as_str()))?.is_some() {
        return Ok(());
    }
    let counted = tables.usage_refs.get((namespace.prefix.as_str(), text.as_str()))?;
    let mut size = counted.map(|row| row.value().1);
    if let Some(mut row) = blob::row(digest, tables)? {
        row.state = BlobState::Live;
        row.last_seen = row.last_seen.max(stamp.at);
        blob::put_row(digest, &row, tables)?;
        size = Some(row.size);
    }
    let size = size.ok_or(ChangeError::Missing(*digest))?;
    tables.links.insert((name, text.as_str()), size)?;
    tables.holders.insert((text.as_str(), name), ())?;
    Ok(())
}

/// Removes what is over its time, or everything below a prefix, for good.
pub(super) fn empty(
    wanted: &EmptyTrash,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let mut gone = Vec::new();
    for row in tables.trash.iter()? {
        let (key, value) = row?;
        let (name, id) = key.value();
        let buried: Buried = read_json("trash", id, value.value())?;
        let goes = match &wanted.everything_below {
            Some(prefix) => crate::auth::covers(prefix, name),
            None => buried.until <= stamp.at,
        };
        if goes {
            gone.push((name.to_owned(), id.to_owned(), buried));
        }
    }
    let policies = policies::current(tables)?;
    for (name, id, buried) in &gone {
        outcome.purged.add(name, id, Some(&buried.digest));
        tables.trash.remove((name.as_str(), id.as_str()))?;
        if tables.trash_manifests.remove((name.as_str(), id.as_str()))?.is_some() {
            forget(policies.of(name), name, id, &buried.times, tables, outcome)?;
        }
        let tags = if id.contains(':') { buried.tags.as_slice() } else { std::slice::from_ref(id) };
        for tag in tags {
            forget_moves(name, tag, tables)?;
        }
    }
    outcome.reply = Reply::Emptied(gone.len() as u64);
    Ok(())
}

/// A tag that is gone for good has no history.
fn forget_moves(name: &str, tag: &str, tables: &mut Tables<'_>) -> Result<(), ChangeError> {
    if tables.tags.get((name, tag))?.is_some() || tables.trash.get((name, tag))?.is_some() {
        return Ok(());
    }
    let moves: Vec<u64> = tables
        .tag_history
        .range((name, tag, 0)..=(name, tag, u64::MAX))?
        .map(|row| row.map(|(key, _)| key.value().2))
        .collect::<Result<_, _>>()?;
    for sequence in moves {
        tables.tag_history.remove((name, tag, sequence))?;
    }
    Ok(())
}

fn parse(row: &[u8]) -> Option<oci_model::RawManifest> {
    let (media_type, bytes) = decode_manifest(row)?;
    oci_model::RawManifest::parse(Some(&MediaType::new(media_type)), bytes.to_vec()).ok()
}

/// Whether something of the repository can be restored that was not deleted with all of it.
pub(crate) fn remembers(
    name: &str,
    trash: &impl redb::ReadableTable<(&'static str, &'static str), &'static [u8]>,
) -> Result<bool, crate::metadata::MetadataError> {
    let end = upper_bound(name);
    for row in trash.range((name, "")..(end.as_str(), ""))? {
        let (key, row) = row?;
        if read_json::<Buried>("trash", key.value().1, row.value())?.how != How::Repository {
            return Ok(true);
        }
    }
    Ok(false)
}
