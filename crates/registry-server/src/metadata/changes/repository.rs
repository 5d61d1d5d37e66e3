//! Whole repositories.

use oci_model::{Digest, Repository};
use redb::ReadableTable as _;

use super::{ChangeError, Outcome};
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
        tables.repositories.remove(name.as_str())?;
        outcome.changed.insert(name);
    }
    Ok(())
}
