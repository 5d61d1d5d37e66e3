//! The policies by which every later change is judged.

use std::cell::RefCell;
use std::sync::Arc;

use redb::ReadableTable as _;

use super::{ChangeError, Stamp, usage};
use crate::metadata::MetadataError;
use crate::metadata::tables::Tables;
use crate::tenancy::{Namespace, Policies};

/// The one key of the table.
pub(crate) const NAMESPACES: &str = "namespaces";

thread_local! {
    /// The last policies that were read: parsing is the same for the same text.
    static PARSED: RefCell<Option<(Vec<u8>, Arc<Policies>)>> = const { RefCell::new(None) };
}

/// Stores the namespaces, as JSON, and counts everything anew, since what belongs where may
/// differ now.
pub(super) fn set(
    namespaces: &[Namespace],
    stamp: &Stamp,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    // Namespaces that mean nothing are refused before they come here; as a change they are none.
    Policies::new(namespaces.to_vec()).map_err(|_| ChangeError::Unknown)?;
    let text = serde_json::to_vec(namespaces).unwrap_or_default();
    tables.policies.insert(NAMESPACES, text.as_slice())?;
    usage::recount(stamp, tables)
}

/// The policies that hold.
pub(super) fn current(tables: &Tables<'_>) -> Result<Arc<Policies>, ChangeError> {
    let Some(row) = tables.policies.get(NAMESPACES)? else { return Ok(Arc::default()) };
    parse(row.value()).map_err(Into::into)
}

/// The namespace of a repository.
pub(super) fn of(name: &str, tables: &Tables<'_>) -> Result<Arc<Namespace>, ChangeError> {
    Ok(Arc::clone(current(tables)?.of(name)))
}

/// Reads stored namespaces.
pub(crate) fn parse(text: &[u8]) -> Result<Arc<Policies>, MetadataError> {
    let known = PARSED.with_borrow(|parsed| match parsed {
        Some((known, policies)) if known == text => Some(Arc::clone(policies)),
        Some(_) | None => None,
    });
    if let Some(policies) = known {
        return Ok(policies);
    }
    let damaged = || MetadataError::Damaged { table: "policies", key: NAMESPACES.to_owned() };
    let namespaces = serde_json::from_slice(text).map_err(|_| damaged())?;
    let policies = Arc::new(Policies::new(namespaces).map_err(|_| damaged())?);
    PARSED.set(Some((text.to_vec(), Arc::clone(&policies))));
    Ok(policies)
}
