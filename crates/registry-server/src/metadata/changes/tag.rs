//! Tags.

use oci_model::{Repository, Tag};
use redb::ReadableTable as _;

use super::history::{self, How};
use super::{ChangeError, Outcome, Stamp, policies, trash};
use crate::metadata::tables::Tables;

/// Removes a tag; its manifest stays.
pub(super) fn delete(
    repository: &Repository,
    tag: &Tag,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let (name, tag) = (repository.as_str(), tag.as_str());
    let namespace = policies::of(name, tables)?;
    history::check_movable(&namespace, name, tag, None, tables)?;
    let named = tables.tags.get((name, tag))?.map(|digest| digest.value().to_owned());
    let digest = named.ok_or(ChangeError::Unknown)?;
    history::move_tag(name, tag, None, How::Delete, stamp, tables)?;
    trash::bury_tag(&namespace, name, tag, &digest, How::Delete, stamp, tables)?;
    outcome.changed.insert(name.to_owned());
    Ok(())
}
