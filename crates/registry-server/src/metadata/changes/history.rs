//! When tags moved and manifests came, and who did it.

use oci_model::Repository;
use redb::ReadableTable as _;
use serde::{Deserialize, Serialize};

use super::{ChangeError, Stamp};
use crate::metadata::tables::{Tables, read_json, upper_bound, write_json};
use crate::tenancy::Namespace;

/// Moves that are remembered of one tag.
const MOVES_MAX: u64 = 100;

/// Pushes and pulls within this time, in milliseconds, are one for the times that are kept.
pub(crate) const COARSE: u64 = 3_600_000;

/// What made a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    /// A push.
    #[default]
    Push,
    /// A deletion through the API.
    Delete,
    /// The retention rules.
    Retention,
    /// The deletion of the whole repository.
    Repository,
    /// Something came back from the trash, or a tag was set back.
    Restore,
}

impl How {
    /// As it is written everywhere.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Delete => "delete",
            Self::Retention => "retention",
            Self::Repository => "repository",
            Self::Restore => "restore",
        }
    }
}

/// A tag that came to name something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TagMove {
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) by: String,
    pub(crate) request: String,
    /// What it named before.
    pub(crate) old: Option<String>,
    /// What it names since.
    pub(crate) new: Option<String>,
    pub(crate) how: How,
}

/// Times of a manifest, in milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestTimes {
    pub(crate) pushed: u64,
    #[serde(default)]
    pub(crate) by: String,
    /// The last pull, within an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pulled: Option<u64>,
    /// Since when no tag names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) untagged: Option<u64>,
    /// Whether it was pulled through from elsewhere.
    #[serde(default)]
    pub(crate) cached: bool,
}

/// Times of a tag.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TagTimes {
    /// Milliseconds since 1970 of the last push.
    pub(crate) pushed: u64,
    #[serde(default)]
    pub(crate) by: String,
}

/// Refuses if the tag is immutable and names something else than it is to name.
pub(super) fn check_movable(
    namespace: &Namespace,
    name: &str,
    tag: &str,
    new: Option<&str>,
    tables: &Tables<'_>,
) -> Result<(), ChangeError> {
    if namespace.immutable_tags.is_empty() {
        return Ok(());
    }
    let Some(named) = tables.tags.get((name, tag))? else { return Ok(()) };
    if new == Some(named.value()) {
        return Ok(());
    }
    match namespace.immutable(name, tag) {
        Some(rule) => Err(ChangeError::Immutable { tag: tag.to_owned(), rule }),
        None => Ok(()),
    }
}

/// Refuses if an immutable tag names the manifest, or an index that needs it.
pub(super) fn check_removable(
    namespace: &Namespace,
    name: &str,
    digest: &str,
    tables: &Tables<'_>,
) -> Result<(), ChangeError> {
    if namespace.immutable_tags.is_empty() {
        return Ok(());
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut open = vec![digest.to_owned()];
    while let Some(digest) = open.pop() {
        for tag in tags_of(name, &digest, tables)? {
            check_movable(namespace, name, &tag, None, tables)?;
        }
        let end = upper_bound(&digest);
        for row in tables.uses.range((name, digest.as_str(), "")..(name, end.as_str(), ""))? {
            let parent = row?.0.value().2.to_owned();
            if seen.insert(parent.clone()) {
                open.push(parent);
            }
        }
    }
    Ok(())
}

/// The tags that name a manifest.
pub(super) fn tags_of(
    name: &str,
    digest: &str,
    tables: &Tables<'_>,
) -> Result<Vec<String>, ChangeError> {
    let end = upper_bound(digest);
    let rows = tables.tag_targets.range((name, digest, "")..(name, end.as_str(), ""))?;
    Ok(rows.map(|row| row.map(|(key, _)| key.value().2.to_owned())).collect::<Result<_, _>>()?)
}

/// Lets the tag name something, or nothing, and remembers the move. Whether it may is decided
/// before. Returns whether anything changed.
pub(super) fn move_tag(
    name: &str,
    tag: &str,
    new: Option<&str>,
    how: How,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
) -> Result<bool, ChangeError> {
    let key = (name, tag);
    let old = match new {
        Some(new) => tables.tags.insert(key, new)?,
        None => tables.tags.remove(key)?,
    };
    let old = old.as_ref().map(|old| old.value());
    match new {
        Some(_) => {
            let fresh = match tables.tag_times.get(key)? {
                Some(row) if old == new => {
                    let times: TagTimes = read_json("tag_times", tag, row.value())?;
                    times.pushed.saturating_add(COARSE) <= stamp.at
                }
                Some(_) | None => true,
            };
            if fresh {
                let times = TagTimes { pushed: stamp.at, by: stamp.by.clone() };
                tables.tag_times.insert(key, write_json(&times).as_slice())?;
            }
        }
        None => drop(tables.tag_times.remove(key)?),
    }
    if old == new {
        return Ok(false);
    }
    if let Some(old) = old {
        tables.tag_targets.remove((name, old, tag))?;
        if tags_of(name, old, tables)?.is_empty() {
            set_untagged(name, old, Some(stamp.at), tables)?;
        }
    }
    if let Some(new) = new {
        tables.tag_targets.insert((name, new, tag), ())?;
        set_untagged(name, new, None, tables)?;
    }
    let last = tables
        .tag_history
        .range((name, tag, 0)..=(name, tag, u64::MAX))?
        .next_back()
        .transpose()?
        .map(|(key, _)| key.value().2);
    let sequence = last.map_or(0, |last| last + 1);
    let row = TagMove {
        at: stamp.at,
        by: stamp.by.clone(),
        request: stamp.request.clone(),
        old: old.map(str::to_owned),
        new: new.map(str::to_owned),
        how,
    };
    tables.tag_history.insert((name, tag, sequence), write_json(&row).as_slice())?;
    if let Some(oldest) = sequence.checked_sub(MOVES_MAX) {
        tables.tag_history.remove((name, tag, oldest))?;
    }
    Ok(true)
}

fn set_untagged(
    name: &str,
    digest: &str,
    since: Option<u64>,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    let Some(mut times) = times(name, digest, tables)? else { return Ok(()) };
    times.untagged = since;
    set_times(name, digest, &times, tables)
}

/// The times of a manifest.
pub(super) fn times(
    name: &str,
    digest: &str,
    tables: &Tables<'_>,
) -> Result<Option<ManifestTimes>, ChangeError> {
    match tables.manifest_times.get((name, digest))? {
        Some(row) => Ok(Some(read_json("manifest_times", digest, row.value())?)),
        None => Ok(None),
    }
}

/// Writes the times of a manifest.
pub(super) fn set_times(
    name: &str,
    digest: &str,
    times: &ManifestTimes,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    tables.manifest_times.insert((name, digest), write_json(times).as_slice())?;
    Ok(())
}

/// Remembers pulls: repository, digest, milliseconds since 1970.
pub(super) fn record_pulls(
    pulls: &[(Repository, oci_model::Digest, u64)],
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    for (repository, digest, at) in pulls {
        let digest = digest.to_string();
        if let Some(mut times) = times(repository.as_str(), &digest, tables)?
            && times.pulled.is_none_or(|pulled| pulled < *at)
        {
            times.pulled = Some(*at);
            set_times(repository.as_str(), &digest, &times, tables)?;
        }
    }
    Ok(())
}

/// Gives times to manifests and tags of versions that kept none: as if they came now.
pub(super) fn complete(stamp: &Stamp, tables: &mut Tables<'_>) -> Result<(), ChangeError> {
    let mut manifests = Vec::new();
    for row in tables.manifests.iter()? {
        let (key, _) = row?;
        let (name, digest) = key.value();
        if tables.manifest_times.get((name, digest))?.is_none() {
            manifests.push((name.to_owned(), digest.to_owned()));
        }
    }
    for (name, digest) in &manifests {
        let is_untagged = tags_of(name, digest, tables)?.is_empty();
        let times = ManifestTimes {
            pushed: stamp.at,
            untagged: is_untagged.then_some(stamp.at),
            ..ManifestTimes::default()
        };
        set_times(name, digest, &times, tables)?;
    }
    let mut tags = Vec::new();
    for row in tables.tags.iter()? {
        let (key, _) = row?;
        let (name, tag) = key.value();
        if tables.tag_times.get((name, tag))?.is_none() {
            tags.push((name.to_owned(), tag.to_owned()));
        }
    }
    let times = write_json(&TagTimes { pushed: stamp.at, by: String::new() });
    for (name, tag) in &tags {
        tables.tag_times.insert((name.as_str(), tag.as_str()), times.as_slice())?;
    }
    Ok(())
}
