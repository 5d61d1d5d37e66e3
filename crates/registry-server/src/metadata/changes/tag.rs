//! Tags.

use oci_model::{Repository, Tag};

use super::{ChangeError, Outcome};
use crate::metadata::tables::Tables;

/// Removes a tag.
pub(super) fn delete(
    repository: &Repository,
    tag: &Tag,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let name = repository.as_str();
    let Some(former) = tables.tags.remove((name, tag.as_str()))? else {
        return Err(ChangeError::Unknown);
    };
    tables.tag_targets.remove((name, former.value(), tag.as_str()))?;
    outcome.changed.insert(name.to_owned());
    Ok(())
}
