//! Whole repositories.

use oci_model::{Digest, Repository};
use redb::ReadableTable as _;

use super::history::{self, How};
use super::{ChangeError, Outcome, Reply, Stamp, policies, trash, usage};
use crate::metadata::tables::{Tables, upper_bound};

/// Forgets links whose blobs are gone, then repositories that hold nothing. The link of a blob that
/// a manifest of the repository needs stays: the blob is in quarantine, and when any repository
/// gets it again all of them show it again.
pub(super) fn tidy(
    gone: &[(Repository, Digest)],
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    for (repository, digest) in gone {
        let (name, digest) = (repository.as_str(), digest.to_string());
        let end = upper_bound(&digest);
        let users = (name, digest.as_str(), "")..(name, end.as_str(), "");
        if tables.uses.range(users)?.next().is_some() {
            continue;
        }
        if tables.links.remove((name, digest.as_str()))?.is_some() {
            tables.holders.remove((digest.as_str(), name))?;
            outcome.changed.insert(name.to_owned());
        }
    }
    let mut empty = Vec::new();
    for row in tables.repositories.iter()? {
        let (key, _) = row?;
        let name = key.value();
        let end = upper_bound(name);
        let all = (name, "")..(end.as_str(), "");
        let manifest = tables.manifests.range(all.clone())?.next();
        if manifest.is_none() && tables.links.range(all)?.next().is_none() {
            empty.push(name.to_owned());
        }
    }
    for name in empty {
        forget(&name, tables, outcome)?;
    }
    Ok(())
}

/// Where the content of a repository comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Somebody pushed it.
    Push,
    /// The proxy brought it.
    Elsewhere,
}

/// Makes the repository known, if it is new and may be.
pub(super) fn know(
    name: &str,
    origin: Origin,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    if tables.repositories.get(name)?.is_some() {
        return Ok(());
    }
    usage::add_repository(&*policies::of(name, tables)?, origin, tables)?;
    tables.repositories.insert(name, stamp.at / 1000)?;
    Ok(())
}

/// Forgets a repository without manifests: nobody lists it any more.
pub(super) fn forget_if_empty(
    name: &str,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let end = upper_bound(name);
    if tables.manifests.range((name, "")..(end.as_str(), ""))?.next().is_none() {
        forget(name, tables, outcome)?;
    }
    Ok(())
}

fn forget(name: &str, tables: &mut Tables<'_>, outcome: &mut Outcome) -> Result<(), ChangeError> {
    if tables.repositories.remove(name)?.is_some() {
        usage::remove_repository(&policies::of(name, tables)?.prefix, tables)?;
    }
    outcome.changed.insert(name.to_owned());
    Ok(())
}

/// Removes everything in a repository, manifests into the trash. A push that goes on is either
/// deleted whole or finds its blobs missing: its manifest does not come without them.
pub(super) fn delete(
    repository: &Repository,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let name = repository.as_str();
    let namespace = policies::of(name, tables)?;
    let end = upper_bound(name);
    let all = || (name, "")..(end.as_str(), "");
    let second = |key: (&str, &str)| key.1.to_owned();
    let tags: Vec<String> = tables
        .tags
        .range(all())?
        .map(|row| row.map(|(key, _)| second(key.value())))
        .collect::<Result<_, _>>()?;
    for tag in &tags {
        history::check_movable(&namespace, name, tag, None, tables)?;
    }
    let manifests: Vec<String> = tables
        .manifests
        .range(all())?
        .map(|row| row.map(|(key, _)| second(key.value())))
        .collect::<Result<_, _>>()?;
    let blobs: Vec<String> = tables
        .links
        .range(all())?
        .map(|row| row.map(|(key, _)| second(key.value())))
        .collect::<Result<_, _>>()?;
    if manifests.is_empty() && blobs.is_empty() {
        return Err(ChangeError::Unknown);
    }
    for digest in &manifests {
        trash::bury(&namespace, name, digest, How::Repository, stamp, tables, outcome)?;
    }
    for digest in &blobs {
        tables.links.remove((name, digest.as_str()))?;
        tables.holders.remove((digest.as_str(), name))?;
    }
    outcome.changed.insert(name.to_owned());
    outcome.reply = Reply::Deleted(manifests.len() as u64);
    Ok(())
}
