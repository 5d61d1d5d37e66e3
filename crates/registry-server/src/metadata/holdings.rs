//! Questions about what namespaces hold: policies, usage, trash, history, retention.

use std::collections::BTreeMap;
use std::sync::Arc;

use oci_model::Repository;
use redb::{ReadableDatabase as _, ReadableTable as _};

use super::changes::{NAMESPACES, count, parse_policies, remembers, view};
use super::tables::{
    KEPT, LINKS, MANIFEST_TIMES, MANIFESTS, POLICIES, REPOSITORIES, RESERVATIONS, TAG_HISTORY,
    TAG_TIMES, TAGS, TRASH, TRASH_MANIFESTS, USAGE, USAGE_REFS, read_json,
};
use super::{Buried, Counted, Metadata, MetadataError, TagMove, Usage};
use crate::tenancy::Policies;
use crate::tenancy::retention::RepositoryView;

/// The counters and what a full count of the same moment found.
#[derive(Debug)]
pub(crate) struct Proof {
    /// The counters, by prefix.
    pub(crate) usage: BTreeMap<String, Usage>,
    /// What the count found instead, where that differs.
    pub(crate) differences: BTreeMap<String, Usage>,
}

impl Metadata {
    /// The policies by which changes are judged; `None` before any were stored.
    pub(crate) fn policies(&self) -> Result<Option<Arc<Policies>>, MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(POLICIES)?;
        let Some(row) = table.get(NAMESPACES)? else { return Ok(None) };
        parse_policies(row.value()).map(Some)
    }

    /// What a namespace holds.
    pub(crate) fn usage(&self, prefix: &str) -> Result<Usage, MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(USAGE)?;
        match table.get(prefix)? {
            Some(row) => read_json("usage", prefix, row.value()),
            None => Ok(Usage::default()),
        }
    }

    /// Compares the counters with a full count.
    pub(crate) fn prove_usage(&self, policies: &Policies) -> Result<Proof, MetadataError> {
        let transaction = self.shared.database.begin_read()?;
        let mut usage = BTreeMap::new();
        for row in transaction.open_table(USAGE)?.iter()? {
            let (key, row) = row?;
            let prefix = key.value().to_owned();
            let read = read_json("usage", &prefix, row.value())?;
            usage.insert(prefix, read);
        }
        let links = transaction.open_table(LINKS)?;
        let refs = transaction.open_table(USAGE_REFS)?;
        let of = |name: &str| policies.of(name).prefix.clone();
        let counted: Counted = count(
            &transaction.open_table(MANIFESTS)?,
            &transaction.open_table(TRASH_MANIFESTS)?,
            &transaction.open_table(KEPT)?,
            &transaction.open_table(MANIFEST_TIMES)?,
            |name, digest| {
                if let Some(size) = links.get((name, digest))? {
                    return Ok(Some(size.value()));
                }
                let prefix = of(name);
                Ok(refs.get((prefix.as_str(), digest))?.map(|row| row.value().1))
            },
            of,
        )?;
        let mut found: BTreeMap<String, Usage> = BTreeMap::new();
        for ((prefix, digest), (uses, size)) in &counted {
            let found = found.entry(prefix.clone()).or_default();
            found.bytes += size;
            found.objects += 1;
            let row = refs.get((prefix.as_str(), digest.as_str()))?.map(|row| row.value());
            if row != Some((*uses, *size)) {
                tracing::warn!(prefix, digest, ?row, uses, size, "a use is counted wrongly");
            }
        }
        for row in transaction.open_table(REPOSITORIES)?.iter()? {
            found.entry(of(row?.0.value())).or_default().repositories += 1;
        }
        for row in transaction.open_table(RESERVATIONS)?.iter()? {
            let (key, row) = row?;
            found.entry(key.value().0.to_owned()).or_default().reserved += row.value().0;
        }
        let mut prefixes: Vec<&String> = usage.keys().chain(found.keys()).collect();
        prefixes.sort();
        prefixes.dedup();
        let pick = |from: &BTreeMap<String, Usage>, prefix: &String| {
            from.get(prefix).copied().unwrap_or_default()
        };
        let differences = prefixes
            .into_iter()
            .filter(|prefix| pick(&usage, prefix) != pick(&found, prefix))
            .map(|prefix| (prefix.clone(), pick(&found, prefix)))
            .collect();
        Ok(Proof { usage, differences })
    }

    /// Calls `visit` with the repository, the digest or tag, and what else is known of each thing
    /// in the trash.
    pub(crate) fn trash(
        &self,
        mut visit: impl FnMut(&str, &str, Buried),
    ) -> Result<(), MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(TRASH)?;
        for row in table.iter()? {
            let (key, row) = row?;
            let (name, id) = key.value();
            visit(name, id, read_json("trash", id, row.value())?);
        }
        Ok(())
    }

    /// Whether something in the trash is over its time.
    pub(crate) fn has_old_trash(&self, now: u64) -> Result<bool, MetadataError> {
        let mut found = false;
        self.trash(|_, _, buried| found |= buried.until <= now)?;
        Ok(found)
    }

    /// Whether the repository had something that can be restored and was not deleted itself.
    pub(crate) fn remembers(&self, repository: &Repository) -> Result<bool, MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(TRASH)?;
        remembers(repository.as_str(), &table)
    }

    /// The moves of a tag, the last one first.
    pub(crate) fn history(
        &self,
        repository: &Repository,
        tag: &str,
    ) -> Result<Vec<TagMove>, MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(TAG_HISTORY)?;
        let name = repository.as_str();
        let rows = table.range((name, tag, 0)..=(name, tag, u64::MAX))?;
        rows.rev().map(|row| read_json("tag_history", tag, row?.1.value())).collect()
    }

    /// A repository as the retention rules see it.
    pub(crate) fn retention_view(&self, name: &str) -> Result<RepositoryView, MetadataError> {
        let transaction = self.shared.database.begin_read()?;
        view(
            name,
            &transaction.open_table(TAGS)?,
            &transaction.open_table(TAG_TIMES)?,
            &transaction.open_table(MANIFESTS)?,
            &transaction.open_table(MANIFEST_TIMES)?,
        )
    }

    /// Repositories below a prefix; all for an empty one.
    pub(crate) fn repositories_below(&self, prefix: &str) -> Result<Vec<String>, MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(REPOSITORIES)?;
        let mut names = Vec::new();
        for row in table.range(prefix..)? {
            let row = row?;
            let name = row.0.value();
            if !name.starts_with(prefix) {
                break;
            }
            if crate::auth::covers(prefix, name) {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}
